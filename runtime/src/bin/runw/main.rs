//! `runw`, an OCI runtime with runc's command line.

mod cli;
mod commands;
mod console;
mod foreground;
mod log;
mod output;
mod store;

use clap::{CommandFactory, FromArgMatches};
use cli::{Arguments, Command};
use std::process::ExitCode;

/// A command that failed: one line, and the code to exit with.
#[derive(Debug)]
struct Fault {
    message: String,
    code: u8,
    /// The program's own failure: said without the name of this one and of the command, as a shell would.
    bare: bool,
}

impl<E: std::fmt::Display> From<E> for Fault {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), code: 1, bare: false }
    }
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, bare: false }
    }

    /// As the failure of a whole command, in runc's form.
    fn of(self, command: &str) -> Self {
        if self.bare {
            return self;
        }
        Self { message: format!("{} {command} failed: {}", program_name(), self.message), ..self }
    }
}

fn main() -> ExitCode {
    let name = program_name();
    let matches = match cli::with_help(Arguments::command(), &name).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return cli::explain(&error, &name),
    };
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    if arguments.version {
        return match output::print(&cli::version_text(&name)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let log = match log::Log::open(arguments.log.as_deref(), arguments.log_format, arguments.debug, &name) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match run(&arguments, &log) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            log.error(&fault.message, fault.bare);
            ExitCode::from(fault.code)
        }
    }
}

fn run(arguments: &Arguments, log: &log::Log) -> Result<u8, Fault> {
    let Some(command) = &arguments.command else {
        let _ = cli::with_help(Arguments::command(), &program_name()).print_help();
        return Ok(0);
    };
    if arguments.systemd_cgroup {
        return Err(Fault::new(
            "--systemd-cgroup is not supported by this version; the cgroupfs driver is used without it",
        ));
    }
    if matches!(command, Command::Run(_) | Command::Create(_) | Command::Exec(_)) {
        seal_own_binary(log)?;
    }
    if arguments.criu.is_some() {
        log.warn("--criu has no effect, as in runc");
    }
    let ignore_cgroup_refusals = match arguments.rootless.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    let store = store::Store::new(arguments.root.as_deref(), ignore_cgroup_refusals);
    match command {
        Command::Checkpoint(options) => commands::checkpoint::run(options, &store, log),
        Command::Restore(options) => commands::restore::run(options, &store, log),
        Command::Spec(options) => commands::spec::run(options),
        Command::Features => commands::features::run(),
        Command::Create(options) => commands::create::run(options, &store, log),
        Command::Run(options) => commands::run::run(options, &store, log),
        Command::Start { id } => commands::start::run(id, &store),
        Command::State { id } => commands::state::run(id, &store),
        Command::Kill { all, id, signal } => commands::kill::run(id, signal.as_deref(), *all, &store),
        Command::Delete { force, id } => commands::delete::run(id, *force, &store, log),
        Command::List { quiet, format } => commands::list::run(*quiet, *format, &store),
        Command::Events { interval, stats, id } => commands::events::run(id, *interval, *stats, &store),
        Command::Exec(options) => commands::exec::run(options, &store, log),
        Command::Ps { format, id, options } => commands::ps::run(id, *format, options, &store),
        Command::Pause { id } => commands::pause::run(id, true, &store),
        Command::Resume { id } => commands::pause::run(id, false, &store),
        Command::Update(options) => commands::update::run(options, &store),
    }
}

fn seal_own_binary(log: &log::Log) -> Result<(), Fault> {
    use wharf_runtime::own_binary::{Seal, make_unwritable};
    let announce = |seal| {
        let with = match seal {
            Seal::Overlay => "overlayfs",
            Seal::ReadOnlyMount => "a read-only mount",
            Seal::Copy => "a sealed copy in memory",
        };
        log.debug(&format!("{} exeseal: using {with} for sealed /proc/self/exe", program_name()));
        log.debug(&format!("{} exeseal: using /proc/self/exe clone", program_name()));
    };
    Ok(make_unwritable(announce)?)
}

/// The name the program was called by, for messages.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "runw".into())
}
