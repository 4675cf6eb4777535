//! What the runtime hears from the child.

use super::ChildGuard;
use crate::cgroup::Cgroup;
use crate::error::{Error, While};
use crate::handshake::{Channel, Message};
use crate::trace::Trace;
use std::os::fd::{AsFd, OwnedFd};
use wharf_sys::clone::Child;
use wharf_sys::pidfd;

/// What the runtime hears from the child until it is created.
pub(super) struct Conversation {
    pub(super) cgroup: Cgroup,
    pub(super) warnings: Vec<String>,
    pub(super) terminal: Option<OwnedFd>,
    pub(super) trace: Trace,
}

impl Conversation {
    /// The next message that is not kept here; a failure or the end of the child is an error.
    pub(super) fn next(&mut self, channel: &Channel, guard: &ChildGuard) -> Result<(Message, Vec<OwnedFd>), Error> {
        loop {
            match channel.receive_from(guard.child().pid).during("talk to the container's init", "")? {
                Some((Message::Failed(failure), _)) => return Err(Error::Step(failure)),
                Some((Message::Warning(text), _)) => self.warnings.push(text),
                Some((Message::Trace(step), _)) => self.trace.say(|| step),
                Some((Message::Terminal, descriptors)) => self.terminal = descriptors.into_iter().next(),
                Some(message) => return Ok(message),
                None if self.cgroup.oom_kills() > 0 => {
                    let how = "killed by the kernel for want of memory; linux.resources.memory.limit is too low".into();
                    return Err(Error::InitEnded { expected: "created", how });
                }
                None => return Err(ended(guard.child(), "created")),
            }
        }
    }
}

/// The error for a child that closed the channel without a word.
pub(crate) fn ended(child: &Child, expected: &'static str) -> Error {
    let how = match pidfd::try_wait(child.pidfd.as_fd()) {
        Ok(Some(pidfd::Exit::Signal(signal))) => format!("killed by signal {signal}"),
        Ok(Some(pidfd::Exit::Code(code))) => format!("exit status {code}"),
        _ => "it closed the handshake".to_string(),
    };
    Error::InitEnded { expected, how }
}
