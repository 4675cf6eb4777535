//! Process 1 of the guest: mounts, loads the modules of the serial ports, runs one command, and reports its exit code.
//!
//! ```text
//! initramfs ─ bind root → modules → disk ─┬→ mounts ─────────────────────────────────┬→ ports → command ─ exits
//!                                         └→ becomes systemd, which starts us again ─┘
//!             … → kill the rest → exit code → power off
//! ```
//!
//! A failure of its own is a failure of the test: it is printed on the console, and the end of process 1 is a panic.

mod mounts;
mod ports;
mod run;

use anyhow::{Context, Result, bail, ensure};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use vm_tests::guest;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

fn main() -> Result<()> {
    // With systemd, this is also the service that runs the command.
    let user = fs::read_to_string(guest::SYSTEMD).ok();
    if std::process::id() == 1 {
        mounts::bind_root().context("make the initramfs a mount of its own")?;
        load_modules()?;
        if let Ok(directory) = fs::read_to_string(guest::DISK) {
            mounts::mount_disk(&directory)?;
        }
        if user.is_some() {
            // What systemd finds mounted it would leave alone: it makes its own choice.
            let error = Command::new(SYSTEMD).env_clear().exec();
            bail!("run {SYSTEMD}: {error}");
        }
        mounts::mount_all()?;
        mounts::enable_controllers()?;
        sethostname(b"wharf-vm").context("set the host name")?;
    } else {
        ensure!(user.is_some(), "guest-init is process 1 of a VM that vm-tests boots; it does nothing elsewhere");
    }
    let mut exit = ports::open(guest::PORT_EXIT)?;
    let command = fs::read_to_string(guest::COMMAND).context("read the command")?;
    let arguments: Vec<&str> = command.split_terminator('\0').collect();
    let who = user.as_deref().filter(|name| !name.is_empty());
    let code = match fs::read_to_string(guest::TERMINAL) {
        Ok(size) => run::on_terminal(&arguments, who, &size)?,
        Err(_) => run::with_ports(&arguments, who)?,
    };
    // The host ends the VM with this line.
    rustix::fs::sync();
    writeln!(exit, "{code}").context("report the exit code")?;
    reboot(RebootCommand::PowerOff).context("power off")
}

fn load_modules() -> Result<()> {
    let modules = fs::read_to_string(guest::BOOT_MODULES).context("read the list of modules")?;
    for module in modules.lines() {
        let file = File::open(module).with_context(|| format!("open {module}"))?;
        finit_module(&file, c"", 0).with_context(|| format!("load {module}"))?;
    }
    Ok(())
}
