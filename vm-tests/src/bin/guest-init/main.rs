//! Process 1 of the guest: mounts, loads the modules of the serial ports, runs one command, and reports its exit code.
//!
//! ```text
//! initramfs ─ bind root → mounts → modules → ports → command ─ exits → kill the rest → exit code → power off
//! ```
//!
//! A failure of its own is a failure of the test: it is printed on the console, and the end of process 1 is a panic.

mod mounts;
mod ports;
mod run;

use anyhow::{Context, Result, ensure};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};
use std::fs::{self, File};
use std::io::Write;
use vm_tests::guest;

fn main() -> Result<()> {
    ensure!(std::process::id() == 1, "guest-init is process 1 of a VM that vm-tests boots; it does nothing elsewhere");
    let modules = fs::read_to_string(guest::BOOT_MODULES).context("read the list of modules")?;
    mounts::bind_root().context("make the initramfs a mount of its own")?;
    mounts::mount_all()?;
    mounts::enable_controllers()?;
    sethostname(b"wharf-vm").context("set the host name")?;
    for module in modules.lines() {
        let file = File::open(module).with_context(|| format!("open {module}"))?;
        finit_module(&file, c"", 0).with_context(|| format!("load {module}"))?;
    }
    let mut exit = ports::open(guest::PORT_EXIT)?;
    let command = fs::read_to_string(guest::COMMAND).context("read the command")?;
    let arguments: Vec<&str> = command.split_terminator('\0').collect();
    let code = match fs::read_to_string(guest::TERMINAL) {
        Ok(size) => run::on_terminal(&arguments, &size)?,
        Err(_) => run::with_ports(&arguments)?,
    };
    writeln!(exit, "{code}").context("report the exit code")?;
    reboot(RebootCommand::PowerOff).context("power off")
}
