//! The command: started, its output carried to the ports, orphans reaped meanwhile, all others killed after it.

use crate::ports;
use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use vm_tests::guest;

/// As a shell: the command was not found.
const NOT_FOUND: u8 = 127;

/// Output and errors go through pipes, not straight to the ports: a port can be opened once only, so that
/// `echo > /dev/stderr` would fail on it.
pub fn with_ports(arguments: &[&str], user: Option<&str>) -> Result<u8> {
    let (output, mut errors) = (ports::open(guest::PORT_OUTPUT)?, ports::open(guest::PORT_ERRORS)?);
    let mut command = prepare(arguments, user)?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            writeln!(errors, "guest-init: {}: {error}", arguments[0]).context("report a failed start")?;
            return Ok(NOT_FOUND);
        }
    };
    let carriers = [carry(child.stdout.take(), output), carry(child.stderr.take(), errors)];
    let code = reap_until(child.id())?;
    // What it left running holds the pipes; without it they end, and all that was written arrives.
    kill_all();
    for carrier in carriers {
        carrier.join().map_err(|_| anyhow!("a carrier of output panicked"))?.context("carry output")?;
    }
    Ok(code)
}

/// The command on the console that the host shows on its terminal.
pub fn on_terminal(arguments: &[&str], user: Option<&str>, size: &str) -> Result<u8> {
    let console = || File::options().read(true).write(true).open("/dev/hvc0").context("open /dev/hvc0");
    // The size is forgotten when the last descriptor is closed, so one stays open.
    let _held = console()?;
    let (rows, columns) = size.trim().split_once(' ').unwrap_or(("24", "80"));
    let stty = ["stty", "rows", rows, "columns", columns];
    Command::new("busybox").args(stty).env("PATH", guest::PATH).stdin(console()?).status().context("run stty")?;
    // `setsid -c` makes the console the controlling terminal, for job control and ^C.
    let mut all = vec!["setsid", "-c"];
    all.extend(arguments);
    let child = prepare(&all, user)?.stdin(console()?).stdout(console()?).stderr(console()?).spawn();
    let code = reap_until(child.context("start the command")?.id())?;
    kill_all();
    Ok(code)
}

fn prepare(arguments: &[&str], user: Option<&str>) -> Result<Command> {
    // Logging in by PAM is what makes systemd start a session, and with the first one the user's manager.
    let quoted = quote(arguments);
    let login = user.map(|user| ["su", "--login", "--shell", "/bin/sh", "--command", &quoted, user]);
    let arguments = login.as_ref().map_or(arguments, |login| login.as_slice());
    let (program, rest) = arguments.split_first().context("there is no command")?;
    // Bring the loopback device up: it is down in a machine that has just started.
    let up = ["ip", "link", "set", "lo", "up"];
    Command::new("busybox").args(up).env("PATH", guest::PATH).status().context("run ip")?;
    let mut command = Command::new(program);
    command.args(rest).current_dir("/root").env_clear();
    command.envs([("PATH", guest::PATH), ("HOME", "/root"), ("USER", "root"), ("TERM", "linux"), ("LANG", "C.UTF-8")]);
    Ok(command)
}

/// One line for a shell, which becomes the command.
fn quote(arguments: &[&str]) -> String {
    let quoted: Vec<String> =
        arguments.iter().map(|argument| format!("'{}'", argument.replace('\'', "'\\''"))).collect();
    format!("exec {}", quoted.join(" "))
}

/// A loop of our own: `io::copy` would splice, and the port's splice takes an empty pipe for an ended one.
fn carry<R: Read + Send + 'static>(from: Option<R>, mut to: File) -> thread::JoinHandle<io::Result<()>> {
    thread::spawn(move || {
        let Some(mut from) = from else { return Ok(()) };
        let mut buffer = [0; 16 * 1024];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                length => to.write_all(&buffer[..length])?,
            }
        }
    })
}

/// Process 1 is the parent of all orphans: reaps whatever ends, until the command does.
fn reap_until(command: u32) -> Result<u8> {
    loop {
        let Some((pid, status)) = wait(WaitOptions::empty()).context("wait for the command")? else { continue };
        if pid.as_raw_pid().cast_unsigned() == command {
            let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX));
        }
    }
}

/// `kill(-1)` reaches everyone else, but process 1.
fn kill_all() {
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
}
