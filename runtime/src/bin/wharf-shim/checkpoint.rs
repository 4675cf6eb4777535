//! A checkpoint that is being written, by a process of its own: the container is still meanwhile, the pod is not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use wharf_runtime::checkpoint::{AtRest, CheckpointRequest};
use wharf_specs::oci::Spec;
use wharf_specs::shim::{AT_REST, Answer, CheckpointContainer, Failure, FailureKind};
use wharf_sys::clone::{Child, CloneOptions, spawn};
use wharf_sys::{event, fs as sysfs, pidfd, process, socket};

use crate::container::PodContainer;
use crate::pod::internal;
use crate::server::{Asker, failure};

const SIGKILL: i32 = 9;
/// As much of a failure's words as is passed on.
const WORDS_BYTES_MAX: usize = 4096;
/// What the process that writes it may take beyond the time that it gives criu.
const UNDO: Duration = Duration::from_secs(10);

pub(crate) struct Checkpoint {
    asker: Asker,
    child: Child,
    /// Holds why it failed.
    words: OwnedFd,
    container: String,
}

impl Checkpoint {
    /// Starts it. `socket` is the client's, as the protocol has it.
    pub(crate) fn start(
        asker: Asker,
        container: &PodContainer,
        spec: &Spec,
        request: &CheckpointContainer,
        socket: OwnedFd,
    ) -> Result<Self, Failure> {
        let Some(runtime) = container.runtime.own() else {
            return Err(failure(FailureKind::Invalid, "a pod with a runtime handler has no checkpoints"));
        };
        let words = sysfs::memfd(c"checkpoint").map_err(internal)?;
        let deadline = Instant::now() + Duration::from_secs(request.seconds.into());
        let child = spawn(CloneOptions::default(), || {
            let write = || -> Result<(), String> {
                // It ends with the shim. What the shim has open is not kept open by it: its end is to be seen.
                let kept = [runtime.pidfd(), words.as_fd(), socket.as_fd()];
                process::new_session()
                    .and_then(|()| process::set_parent_death_signal(SIGKILL))
                    .and_then(|()| process::close_all_but(&kept))
                    .map_err(|error| error.to_string())?;
                let mut rest = || at_rest(socket.as_fd(), deadline);
                let checkpoint = CheckpointRequest {
                    work: Some(&request.work),
                    leave_running: true,
                    at_rest: Some(AtRest(&mut rest)),
                    deadline: Some(deadline + UNDO),
                    ..CheckpointRequest::new(spec, &request.images)
                };
                runtime.checkpoint(checkpoint).map_err(|error| error.to_string())
            };
            let Err(problem) = write() else { return 0 };
            let problem = problem.as_bytes();
            let _ = sysfs::write_once(words.as_fd(), &problem[..problem.len().min(WORDS_BYTES_MAX)]);
            1
        });
        Ok(Self { asker, child: child.map_err(internal)?, words, container: container.id.clone() })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Of one whose process has ended.
    pub(crate) fn finish(self) -> (Asker, Result<Answer, Failure>) {
        let result = match pidfd::wait(self.child.pidfd.as_fd()) {
            Ok(pidfd::Exit::Code(0)) => Ok(Answer::Done),
            Ok(exit) => Err(self.words().unwrap_or_else(|| format!("its process ended: {exit:?}"))),
            Err(error) => Err(error.to_string()),
        };
        let id = &self.container;
        let explain = |problem| failure(FailureKind::Internal, format_args!("checkpoint of container {id}: {problem}"));
        (self.asker, result.map_err(explain))
    }

    fn words(&self) -> Option<String> {
        let mut buffer = [0; WORDS_BYTES_MAX];
        sysfs::rewind(self.words.as_fd()).ok()?;
        let length = sysfs::read(self.words.as_fd(), &mut buffer).ok()?;
        let words = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Some(words).filter(|words| !words.is_empty())
    }
}

/// Tells the client that nothing moves, and waits until it has what it needs.
fn at_rest(client: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    socket::send(client, &[AT_REST], &[])?;
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    if !event::wait_readable(client, i32::try_from(left).unwrap_or(i32::MAX))? {
        return Err(io::Error::other("the daemon needs too long for the changed files"));
    }
    let mut byte = [0];
    match socket::receive(client, &mut byte) {
        Ok((1, _)) if byte == [AT_REST] => Ok(()),
        _ => Err(io::Error::other("the daemon has given it up")),
    }
}
