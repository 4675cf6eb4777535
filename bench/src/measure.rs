//! A program's run, measured from outside.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use wharf_sys::process::wait_with_peak;

use crate::comparison::{Metric, Sample};

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub time: Duration,
    /// The largest resident set among the program and its descendants, in bytes. Never less than our own: what a
    /// process had before it executed its program counts too.
    pub peak_bytes: u64,
}

impl Taken {
    pub fn sample(self) -> Sample {
        Sample::from([(Metric::Time, self.time.as_secs_f64()), (Metric::PeakMemory, self.peak_bytes as f64)])
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// It could not be started, or failed: then with what it said.
pub fn run(command: &mut Command) -> anyhow::Result<Taken> {
    let mut log: File = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let begin = Instant::now();
    let child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let (status, peak_bytes) = wait_with_peak(child.id()).with_context(|| format!("wait for {command:?}"))?;
    let time = begin.elapsed();
    if !status.success() {
        let mut text = String::new();
        log.rewind()?;
        log.read_to_string(&mut text)?;
        bail!("{command:?}: {status}: {}", text.trim());
    }
    Ok(Taken { time, peak_bytes })
}

/// The peak of a process that still runs, in bytes.
pub fn peak_bytes_of(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// A daemon of somebody's, which is gone with this.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("start {command:?}"))?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Stops it, until it goes on.
    pub fn stand_still(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, and waits for that.
    pub fn end(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.0.wait();
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
