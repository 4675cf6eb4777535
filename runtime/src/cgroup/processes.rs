//! The processes of a group: who they are, who joins, and signals to all of them.

use super::{Cgroup, Error, write};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::{fs, io};
use wharf_sys::{errno, pidfd};

impl Cgroup {
    /// Moves a process into the v1 directories, and with `unified` into that one too.
    pub fn add(&self, pid: i32, unified: bool) -> Result<(), Error> {
        for (controllers, path) in self.paths() {
            if controllers.is_empty() && !unified {
                continue;
            }
            if let Err(source) = write(&path.join("cgroup.procs"), &pid.to_string()) {
                return Err(Error::Join { pid, path, source });
            }
        }
        Ok(())
    }

    /// The processes in the group and in those below it.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let directory = self.unified.as_deref().or(self.path());
        let mut pids = Vec::new();
        if let Some(directory) = directory {
            collect_pids(directory, &mut pids)?;
        }
        Ok(pids)
    }

    /// Kills every process in the group and below, also those forked while it works and those that are frozen.
    pub fn kill_all(&self) -> io::Result<()> {
        self.send_kill()?;
        // In v1 a frozen process dies only once it is thawed.
        if self.is_frozen() { self.thaw_v1() } else { Ok(()) }
    }

    fn send_kill(&self) -> io::Result<()> {
        const SIGKILL: i32 = 9;
        if let Some(path) = &self.unified {
            match write(&path.join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // The file came with kernel 5.14, and the root group has none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Removed between open and write: systemd does so once the last process has left.
                Err(error) if error.raw_os_error() == Some(errno::ENODEV) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.signal_all(SIGKILL)
    }

    /// Sends a signal to every process in the group and below.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        /// Descriptors held at a time.
        const BATCH: usize = 128;
        let ended = |error: &io::Error| error.raw_os_error() == Some(errno::ESRCH);
        for batch in self.pids()?.chunks(BATCH) {
            let mut processes = Vec::with_capacity(batch.len());
            for pid in batch {
                match pidfd::open(*pid) {
                    Ok(process) => processes.push((pid, process)),
                    Err(error) if ended(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            // Looked for once more: a number may be another process's by now, but not the descriptor.
            let still_there: HashSet<i32> = self.pids()?.into_iter().collect();
            for (_, process) in processes.iter().filter(|(pid, _)| still_there.contains(pid)) {
                match pidfd::send_signal(process.as_fd(), signal) {
                    Err(error) if !ended(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ENODEV)) => return Ok(()),
        Err(error) => return Err(error),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}
