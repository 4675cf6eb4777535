//! `runw`, an OCI runtime with runc's command line.

mod cli;
mod commands;
mod console;
mod foreground;
mod log;
mod output;
mod store;

use cli::{Arguments, Command, GlobalOptions};
use std::process::ExitCode;
use wharf_runtime::CgroupDriver;

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
    let Arguments { options, command } = match Arguments::parse(std::env::args_os().skip(1), &name) {
        Ok(arguments) => arguments,
        Err(line) => {
            eprintln!("{line}");
            return ExitCode::FAILURE;
        }
    };
    let log = match log::Log::open(options.log.as_deref(), options.log_format, options.debug, &name) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match run(&options, &command, &log) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            log.error(&fault.message, fault.bare);
            ExitCode::from(fault.code)
        }
    }
}

fn run(options: &GlobalOptions, command: &Command, log: &log::Log) -> Result<u8, Fault> {
    if matches!(command, Command::Run(_) | Command::Create(_) | Command::Exec(_)) {
        seal_own_binary(log)?;
    }
    if options.criu.is_some() {
        log.warn("--criu has no effect, as in runc");
    }
    let driver = if options.systemd_cgroup { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
    let store = store::Store::new(options.root.as_deref(), options.rootless.0, driver);
    match command {
        Command::Checkpoint(options) => commands::checkpoint::run(options, &store, log),
        Command::Restore(options) => commands::restore::run(options, &store, log),
        Command::Spec(options) => commands::spec::run(options),
        Command::Features => commands::features::run(),
        Command::Create(options) => commands::create::run(options, &store, log),
        Command::Run(options) => commands::run::run(options, &store, log),
        Command::Start(only) => commands::start::run(&only.id, &store),
        Command::State(only) => commands::state::run(&only.id, &store),
        Command::Kill(options) => commands::kill::run(&options.id, options.signal.as_deref(), options.all, &store),
        Command::Delete(options) => commands::delete::run(&options.id, options.force, &store, log),
        Command::List(options) => commands::list::run(options.quiet, options.format, &store, log),
        Command::Events(options) => commands::events::run(&options.id, options.interval.0, options.stats, &store),
        Command::Exec(options) => commands::exec::run(options, &store, log),
        Command::Ps(options) => commands::ps::run(&options.id, options.format, &options.options, &store),
        Command::Pause(only) => commands::pause::run(&only.id, true, &store),
        Command::Resume(only) => commands::pause::run(&only.id, false, &store),
        Command::Help(text) => Ok(output::print(text).map(|()| 0)?),
        Command::Version => Ok(output::print(&cli::version_text(&program_name())).map(|()| 0)?),
        Command::Update(options) => commands::update::run(options, &store),
    }
}

fn seal_own_binary(log: &log::Log) -> Result<(), Fault> {
    use wharf_runtime::own_binary::{Seal, make_unwritable};
    let seal = make_unwritable()?;
    if log.is_debug() {
        let with = match seal {
            Seal::Overlay => "overlayfs",
            Seal::ReadOnlyMount => "a read-only mount",
            Seal::Copy => "a sealed copy in memory",
        };
        log.debug(&format!("{} exeseal: using {with} for sealed /proc/self/exe", program_name()));
        log.debug(&format!("{} exeseal: using /proc/self/exe clone", program_name()));
    }
    Ok(())
}

/// The name the program was called by, for messages.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "runw".into())
}
