//! A container's first process as the kernel has it: for when the shim, its parent, does not answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::unix::pipe::Receiver;
use wharf_specs::shim::Exit;
use wharf_sys::pidfd;

use super::cgroup::Cgroup;
use super::node::now;

pub(crate) struct InitProcess {
    pid: i32,
    process: OwnedFd,
}

impl InitProcess {
    /// `None` where `pid` is no process of the group, or none any more.
    pub(crate) fn open(pid: u32, group: &Cgroup) -> Option<Self> {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
        let process = pidfd::open(pid).ok()?;
        // Looked at once the descriptor keeps the process: before, the number could become another's.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let in_group = |line: &str| {
            let path = line.splitn(3, ':').nth(2).unwrap_or_default();
            std::path::Path::new(path.trim_start_matches('/')).starts_with(group.relative())
        };
        groups.lines().any(in_group).then_some(Self { pid, process })
    }

    /// One that has ended already is fine.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match pidfd::send_signal(self.process.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    /// Waits for its end. `None` where its parent was told before we could look.
    pub(crate) async fn ended(self) -> Option<Exit> {
        let pid = self.pid;
        // No pipe, but as one a descriptor that becomes readable, and is never read.
        let process = Receiver::from_owned_fd_unchecked(self.process).ok()?;
        process.readable().await.ok()?;
        // As long as the parent has not waited for it, the kernel keeps the code.
        exit_of_zombie(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// From `/proc/PID/stat` (proc_pid_stat(5)): fields are counted from 1, and the name, field 2, may have anything in it.
fn exit_of_zombie(stat: &str) -> Option<Exit> {
    const STATE: usize = 3;
    const EXIT_CODE: usize = 52;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    if *fields.first()? != "Z" {
        return None;
    }
    let status: i32 = fields.get(EXIT_CODE - STATE)?.parse().ok()?;
    let signal = Some(status & 0x7f).filter(|signal| *signal != 0);
    let code = signal.map_or((status >> 8) & 0xff, |signal| 128 + signal);
    Some(Exit { code, signal, oom_killed: false, oom_origin: None, finished_at: now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, status: i32) -> String {
        format!("7 (a) b) {state} {}{status}\n", "0 ".repeat(48))
    }

    #[test]
    fn the_end_of_a_process_is_read_from_what_the_kernel_keeps_of_it() {
        let end = |state: &str, status| exit_of_zombie(&stat(state, status)).map(|exit| (exit.code, exit.signal));
        assert_eq!(end("Z", 3 << 8), Some((3, None)));
        assert_eq!(end("Z", 0), Some((0, None)));
        assert_eq!(end("Z", 9), Some((137, Some(9))));
        assert_eq!(end("Z", 0x80 | 11), Some((139, Some(11))), "with a core dump");
        assert_eq!(end("S", 0), None);
        assert_eq!(exit_of_zombie("7 (a) Z 0"), None);
        assert_eq!(exit_of_zombie(""), None);
    }

    #[tokio::test]
    async fn a_process_outside_of_the_group_is_not_taken() {
        assert!(InitProcess::open(std::process::id(), &Cgroup::new("no/such/group")).is_none());
        assert!(InitProcess::open(0, &Cgroup::new("")).is_none());
    }

    #[tokio::test]
    async fn the_exit_code_is_known_though_the_parent_does_not_wait() {
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", "read line; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let init = InitProcess::open(child.id(), &Cgroup::new("")).unwrap();
        drop(child.stdin.take());
        assert_eq!(init.ended().await.map(|exit| exit.code), Some(7));
        child.wait().unwrap();
    }
}
