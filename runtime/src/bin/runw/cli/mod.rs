//! The command line, as runc has it.

pub(crate) mod options;
mod parse;
mod values;

use crate::commands::checkpoint::{CheckpointOptions, ImageOptions};
use crate::commands::restore::RestoreOptions;
use options::Given;
use parse::{Asked, Syntax, table};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

pub(crate) use options::{Switch, Wrong, on, options, parsed, takes};
pub(crate) use values::{Interval, ListFormat, LogFormat, Rootless};

/// What runw is asked to do.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) options: GlobalOptions,
    pub(crate) command: Command,
}

#[derive(Debug)]
pub(crate) enum Command {
    Checkpoint(CheckpointOptions),
    Create(CreateOptions),
    Delete(DeleteOptions),
    Events(EventsOptions),
    Exec(ExecOptions),
    Features,
    /// Print this text.
    Help(String),
    Kill(KillOptions),
    List(ListOptions),
    Pause(Only),
    Ps(PsOptions),
    Restore(RestoreOptions),
    Resume(Only),
    Run(RunOptions),
    Spec(SpecOptions),
    Start(Only),
    State(Only),
    Update(UpdateOptions),
    Version,
}

struct Entry {
    name: &'static str,
    about: &'static str,
    syntax: Syntax,
    read: fn(&mut Given) -> Result<Command, Wrong>,
}

/// `Entry` of a command whose options are one table, and those of `with` before it.
macro_rules! entry {
    ($name:literal, $about:literal, $variant:ident($options:ident $(with $($shared:ident),*)?)) => {
        Entry {
            name: $name,
            about: $about,
            syntax: Syntax {
                flags: &[$($($shared::FLAGS,)*)? $options::FLAGS],
                positionals: $options::POSITIONALS,
            },
            read: |given| $options::read(given).map(Command::$variant),
        }
    };
}

const GLOBAL: Syntax = Syntax { flags: &[GlobalOptions::FLAGS], positionals: &[] };

const COMMANDS: &[Entry] = &[
    entry!("checkpoint", "checkpoint a running container", Checkpoint(CheckpointOptions with ImageOptions)),
    entry!("create", "create a container", Create(CreateOptions)),
    entry!("delete", "delete any resources held by the container", Delete(DeleteOptions)),
    entry!("events", "display container events such as OOM notifications and usage statistics", Events(EventsOptions)),
    entry!("exec", "execute a new process inside the container", Exec(ExecOptions)),
    Entry {
        name: "features",
        about: "show the enabled features",
        syntax: Syntax { flags: &[], positionals: &[] },
        read: |_| Ok(Command::Features),
    },
    entry!("kill", "send the specified signal (default: SIGTERM) to the container's init process", Kill(KillOptions)),
    entry!("list", "list containers started with the given --root", List(ListOptions)),
    entry!("pause", "suspend all processes inside the container", Pause(Only)),
    entry!("ps", "display the processes running inside a container", Ps(PsOptions)),
    entry!("restore", "restore a container from a previous checkpoint", Restore(RestoreOptions with ImageOptions)),
    entry!("resume", "resume all processes that have been previously paused", Resume(Only)),
    Entry {
        name: "run",
        about: "create and run a container",
        syntax: Syntax { flags: &[CreateOptions::FLAGS, RunOptions::FLAGS], positionals: CreateOptions::POSITIONALS },
        read: |given| RunOptions::read(given).map(Command::Run),
    },
    entry!("spec", "create a new specification file", Spec(SpecOptions)),
    entry!("start", "execute the user defined process in a created container", Start(Only)),
    entry!("state", "output the state of a container", State(Only)),
    entry!("update", "update container resource constraints", Update(UpdateOptions)),
];

impl Arguments {
    /// Reads the words after the program's name. An error is the line to say.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>, program: &str) -> Result<Self, String> {
        let mut words = lexopt::Parser::from_args(words);
        let whole = |wrong: Wrong| format!("{program}: {wrong}; see {program} --help");
        let Asked::Given(mut given) = GLOBAL.parse(&mut words, true).map_err(whole)? else {
            return Ok(Self {
                options: GlobalOptions::read(&mut Given::default()).map_err(whole)?,
                command: help(program),
            });
        };
        let options = GlobalOptions::read(&mut given).map_err(whole)?;
        let command = match given.positionals.pop_front() {
            _ if options.version => Command::Version,
            None => help(program),
            Some(name) if name == "help" => match words.next() {
                Ok(Some(lexopt::Arg::Value(topic))) => entry(&topic, program)?.help(program),
                _ => help(program),
            },
            Some(name) => {
                let entry = entry(&name, program)?;
                let wrong = |wrong: Wrong| format!("{program} {0}: {wrong}; see {program} {0} --help", entry.name);
                match entry.syntax.parse(&mut words, false).map_err(wrong)? {
                    Asked::Help => entry.help(program),
                    Asked::Given(mut given) => (entry.read)(&mut given).map_err(wrong)?,
                }
            }
        };
        Ok(Self { options, command })
    }
}

fn entry(name: &OsStr, program: &str) -> Result<&'static Entry, String> {
    let topic = name.display();
    let unknown = || format!("{program}: No help topic for '{topic}': there is no such command; see {program} --help");
    COMMANDS.iter().find(|entry| entry.name == name).ok_or_else(unknown)
}

/// The help of the whole, in runc's form.
fn help(program: &str) -> Command {
    let commands: Vec<_> = COMMANDS.iter().map(|entry| (entry.name.to_string(), entry.about.to_string())).collect();
    Command::Help(format!(
        "NAME:\n   {program} - Open Container Initiative runtime\n\nUSAGE:\n   {program} [OPTIONS] COMMAND\n\nCOMMANDS:\n{}\n\
         GLOBAL OPTIONS:\n{}",
        table(&commands),
        GLOBAL.options_help()
    ))
}

impl Entry {
    fn help(&self, program: &str) -> Command {
        let Self { name, about, syntax, .. } = self;
        Command::Help(format!(
            "NAME:\n   {program} {name} - {about}\n\nUSAGE:\n   {program} {name} {}\n\nOPTIONS:\n{}",
            syntax.usage(),
            syntax.options_help()
        ))
    }
}

options! {
    /// Options before the command.
    GlobalOptions {
        /// directory for the state of containers
        root: Option<PathBuf> = takes("DIR"),
        /// file to write log lines to instead of standard error
        log: Option<PathBuf> = takes("FILE"),
        /// format of log lines: text, json
        log_format: LogFormat = takes("FORMAT").or("text"),
        /// log debug messages too
        debug: bool = on(),
        /// let systemd manage the control groups
        systemd_cgroup: bool = on(),
        /// ignore errors of control groups: true, false, auto
        rootless: Rootless = takes("VALUE").or("auto"),
        criu: Option<String> = takes("PATH"),
        /// print the version
        version: bool = on().short('v'),
    }
}

options! {
    /// Of `create`, and of `run`.
    CreateOptions [id: String] {
        /// the bundle directory
        bundle: PathBuf = takes("DIR").short('b').or("."),
        /// unix socket that receives the terminal's descriptor
        console_socket: Option<PathBuf> = takes("PATH"),
        /// unix socket that receives the init's pidfd
        pidfd_socket: Option<PathBuf> = takes("PATH"),
        /// file to write the init's pid to
        pid_file: Option<PathBuf> = takes("FILE"),
        /// do not use pivot root, for a rootfs in a ramdisk
        no_pivot: bool = on(),
        /// keep the session keyring of the caller
        no_new_keyring: bool = on(),
        /// pass this many descriptors after stdio on
        preserve_fds: u16 = takes("N").or("0"),
    }
}

options! {
    /// Of `run`.
    RunOptions with create: CreateOptions {
        /// leave the container running and return
        detach: bool = on().short('d'),
        /// do not delete the container after it exits
        keep: bool = on(),
        /// do not adopt orphans of the container
        no_subreaper: bool = on(),
    }
}

options! {
    /// Of `exec`.
    ExecOptions [id: String, command: Vec<String>] {
        /// unix socket that receives the terminal's descriptor
        console_socket: Option<PathBuf> = takes("PATH"),
        /// unix socket that receives the process's pidfd
        pidfd_socket: Option<PathBuf> = takes("PATH"),
        /// working directory in the container
        cwd: Option<PathBuf> = takes("DIR"),
        /// NAME=value to set
        env: Vec<String> = takes("NAME=VALUE").short('e'),
        /// allocate a terminal
        tty: bool = on().short('t'),
        /// UID[:GID]
        user: Option<String> = takes("UID[:GID]").short('u'),
        /// additional gids
        additional_gids: Vec<u32> = takes("GID").short('g'),
        /// path to a process.json
        process: Option<PathBuf> = takes("FILE").short('p'),
        /// leave the process running and return
        detach: bool = on().short('d'),
        /// file to write the process's pid to
        pid_file: Option<PathBuf> = takes("FILE"),
        /// selinux label of the process
        process_label: Option<String> = takes("LABEL"),
        /// apparmor profile of the process
        apparmor: Option<String> = takes("PROFILE"),
        /// set no_new_privs, or not
        no_new_privs: Option<Switch> = on(),
        /// capability to add to all sets
        cap: Vec<String> = takes("CAP").short('c'),
        /// pass this many descriptors after stdio on
        preserve_fds: u16 = takes("N").or("0"),
        /// run in this group below the container's own
        cgroup: Vec<String> = takes("PATH"),
        /// also in a paused container
        ignore_paused: bool = on(),
        no_subreaper: bool = on(),
    }
}

options! {
    /// Of `delete`.
    DeleteOptions [id: String] {
        /// kill the container if it still runs
        force: bool = on().short('f'),
    }
}

options! {
    /// Of `events`.
    EventsOptions [id: String] {
        /// time between statistics, such as 500ms or 5s
        interval: Interval = takes("DURATION").or("5s"),
        /// display the statistics once and exit
        stats: bool = on(),
    }
}

options! {
    /// Of `kill`.
    KillOptions [id: String, signal: Option<String>] {
        /// send the signal to all processes of the container
        all: bool = on().short('a'),
    }
}

options! {
    /// Of `list`.
    ListOptions {
        /// only ids
        quiet: bool = on().short('q'),
        /// form of the list: table, json
        format: ListFormat = takes("FORMAT").short('f').or("table"),
    }
}

options! {
    /// Of `ps`.
    PsOptions [id: String, options: Vec<String>] {
        /// form of the list: table, json
        format: ListFormat = takes("FORMAT").short('f').or("table"),
    }
}

options! {
    /// Of `spec`.
    SpecOptions {
        /// the directory to write config.json to
        bundle: Option<PathBuf> = takes("DIR").short('b'),
        /// generate a configuration for a rootless container
        rootless: bool = on(),
    }
}

options! {
    /// Of `update`.
    UpdateOptions [id: String] {
        /// JSON file of resources, `-` for standard input
        resources: Option<PathBuf> = takes("FILE").short('r'),
        /// weight of block io, 10 to 1000
        blkio_weight: Option<u16> = takes("WEIGHT"),
        /// CPU hardcap period, microseconds
        cpu_period: Option<u64> = takes("N"),
        /// CPU hardcap per period, microseconds
        cpu_quota: Option<i64> = takes("N"),
        /// CPU burst, microseconds
        cpu_burst: Option<u64> = takes("N"),
        /// CPU shares
        cpu_share: Option<u64> = takes("N"),
        /// realtime period, microseconds
        cpu_rt_period: Option<u64> = takes("N"),
        /// realtime per period, microseconds
        cpu_rt_runtime: Option<i64> = takes("N"),
        /// CPUs to use
        cpuset_cpus: Option<String> = takes("LIST"),
        /// memory nodes to use
        cpuset_mems: Option<String> = takes("LIST"),
        /// memory limit, bytes with k, m, g
        memory: Option<String> = takes("BYTES"),
        /// soft memory limit
        memory_reservation: Option<String> = takes("BYTES"),
        /// limit of memory and swap together; -1 for none
        memory_swap: Option<String> = takes("BYTES"),
        /// most processes
        pids_limit: Option<i64> = takes("N"),
        /// cache schema of the container's class, such as "L3:0=f;1=f"
        l3_cache_schema: Option<String> = takes("SCHEMA"),
        /// memory bandwidth schema of the container's class, such as "MB:0=20;1=70"
        mem_bw_schema: Option<String> = takes("SCHEMA"),
        /// scheduling idle state
        cpu_idle: Option<i64> = takes("N"),
    }
}

options! {
    /// Of a command that wants a container and nothing else.
    Only [id: String] {}
}
/// What `--version` prints.
pub(crate) fn version_text(name: &str) -> String {
    let mut text = format!("{name} version {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("commit: {}\n", env!("WHARF_COMMIT"));
    text += &format!("spec: {}\n", wharf_runtime::state::OCI_VERSION);
    if let Some(version) = wharf_runtime::seccomp::library_version() {
        text += &format!("libseccomp: {version}\n");
    }
    text
}

#[cfg(test)]
mod tests;
