//! The command line, as runc has it.

use crate::commands::checkpoint::CheckpointOptions;
use crate::commands::restore::RestoreOptions;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

/// Open Container Initiative runtime
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, subcommand_required = false)]
pub(crate) struct Arguments {
    /// directory for the state of containers
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// file to write log lines to instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// format of log lines
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// log debug messages too
    #[arg(long)]
    pub(crate) debug: bool,
    /// let systemd manage the control groups
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// ignore errors of control groups: true, false, auto
    #[arg(long, value_name = "VALUE", default_value = "auto", value_parser = ["true", "false", "auto"])]
    pub(crate) rootless: String,
    /// has no effect, as in runc
    #[arg(long, value_name = "PATH", hide = true)]
    pub(crate) criu: Option<String>,
    /// print the version
    #[arg(short = 'v', long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// checkpoint a running container
    Checkpoint(CheckpointOptions),
    /// create a container
    Create(CreateOptions),
    /// delete any resources held by the container
    Delete {
        /// kill the container if it still runs
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// display container events such as OOM notifications and usage statistics
    Events {
        /// time between statistics, such as 500ms or 5s
        #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
        interval: Duration,
        /// display the statistics once and exit
        #[arg(long)]
        stats: bool,
        id: String,
    },
    /// execute a new process inside the container
    Exec(ExecOptions),
    /// show the enabled features
    Features,
    /// send the specified signal (default: SIGTERM) to the container's init process
    Kill {
        /// send the signal to all processes of the container
        #[arg(short, long)]
        all: bool,
        id: String,
        signal: Option<String>,
    },
    /// list containers started with the given --root
    List {
        /// only ids
        #[arg(short, long)]
        quiet: bool,
        #[arg(short, long, value_enum, default_value = "table")]
        format: ListFormat,
    },
    /// suspend all processes inside the container
    Pause { id: String },
    /// display the processes running inside a container
    Ps {
        #[arg(short, long, value_enum, default_value = "table")]
        format: ListFormat,
        id: String,
        /// options for ps
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// restore a container from a previous checkpoint
    Restore(RestoreOptions),
    /// resume all processes that have been previously paused
    Resume { id: String },
    /// create and run a container
    Run(RunOptions),
    /// create a new specification file
    Spec(SpecOptions),
    /// execute the user defined process in a created container
    Start { id: String },
    /// output the state of a container
    State { id: String },
    /// update container resource constraints
    Update(UpdateOptions),
}

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub(crate) struct CreateOptions {
    /// the bundle directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// unix socket that receives the terminal's descriptor
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// unix socket that receives the init's pidfd
    #[arg(long, value_name = "PATH")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// file to write the init's pid to
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// do not use pivot root, for a rootfs in a ramdisk
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// keep the session keyring of the caller
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// pass this many descriptors after stdio on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u16,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) create: CreateOptions,
    /// leave the container running and return
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// do not delete the container after it exits
    #[arg(long)]
    pub(crate) keep: bool,
    /// do not adopt orphans of the container
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecOptions {
    /// unix socket that receives the terminal's descriptor
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// unix socket that receives the process's pidfd
    #[arg(long, value_name = "PATH")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// working directory in the container
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// NAME=value to set
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// allocate a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// additional gids
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// path to a process.json
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// leave the process running and return
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// file to write the process's pid to
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// selinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// apparmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// set no_new_privs
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) no_new_privs: Option<bool>,
    /// capability to add to all sets
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// pass this many descriptors after stdio on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u16,
    /// run in this group below the container's own
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Vec<String>,
    /// also in a paused container
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// do not adopt orphans of the process
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    pub(crate) id: String,
    /// the program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SpecOptions {
    /// the directory to write config.json to
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// generate a configuration for a rootless container
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateOptions {
    /// JSON file of resources, `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// weight of block io, 10 to 1000
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// CPU hardcap period, microseconds
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// CPU hardcap per period, microseconds
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU burst, microseconds
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// CPU shares
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// realtime period, microseconds
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// realtime per period, microseconds
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// CPUs to use
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// memory nodes to use
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// memory limit, bytes with k, m, g
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// soft memory limit
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// limit of memory and swap together; -1 for none
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// most processes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// cache schema of the container's class, such as "L3:0=f;1=f"
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// memory bandwidth schema of the container's class, such as "MB:0=20;1=70"
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
    /// scheduling idle state
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_idle: Option<i64>,
    pub(crate) id: String,
}

/// A duration in Go's form: numbers with units, such as `1m30s` or `1.5h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration above 0; allowed: numbers with ms, s, m, h, such as 1m30s");
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..split].parse().map_err(|_| wrong())?;
        let after = &rest[split..];
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        seconds += number
            * match &after[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &after[end..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)
}

/// Puts runc's form of help on every command: `NAME:`, then the program with the command and what it is for.
pub(crate) fn with_help(mut command: clap::Command, name: &str) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_string()).collect();
    command = command.bin_name(name).help_template(format!(
        "NAME:\n   {name} - {{about}}\n\nUSAGE:\n   {{usage}}\n\nCOMMANDS:\n{{subcommands}}\n\nGLOBAL OPTIONS:\n{{options}}\n"
    ));
    for sub in names {
        let template = format!(
            "NAME:\n   {name} {sub} - {{about}}\n\nUSAGE:\n   {{usage}}\n\nARGUMENTS:\n{{positionals}}\n\nOPTIONS:\n{{options}}\n"
        );
        command = command.mut_subcommand(sub, |sub| sub.help_template(template));
    }
    command
}

/// Says what is wrong with the command line; prints the help that was asked for.
pub(crate) fn explain(error: &clap::Error, name: &str) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(command) = error.get(ContextKind::InvalidSubcommand)
    {
        eprintln!("{name}: No help topic for '{command}': there is no such command; see {name} --help");
        return ExitCode::FAILURE;
    }
    if error.kind() == ErrorKind::InvalidValue
        && let (Some(ContextValue::String(option)), Some(ContextValue::String(value))) =
            (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
        && value.is_empty()
    {
        // Callers find out by these words whether an option is known.
        eprintln!("{name}: flag needs an argument: {option}");
        return ExitCode::FAILURE;
    }
    let _ = error.print();
    // runc's code, not the parser's.
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        assert_eq!(duration("1m30.5s"), Ok(Duration::from_millis(90_500)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        for wrong in ["", "0s", "5", "s", "5x", "-1s", "1..5s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
