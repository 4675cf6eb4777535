//! A container, whichever runtime has made it.

use std::fmt::Display;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use wharf_runtime::cgroup::Cgroup;
use wharf_runtime::{Container, ExecProcess, ExecRequest, Stdio};
use wharf_specs::oci::{LinuxResources, Process};

use crate::foreign::{ForeignContainer, Streams};

pub(crate) enum Engine {
    /// The runtime as a library, in this process.
    Own(Box<Container>),
    Foreign(Box<ForeignContainer>),
}

/// In words: both kinds of failure are told to a person.
pub(crate) type Done<T> = Result<T, String>;

fn words(error: impl Display) -> String {
    error.to_string()
}

impl Engine {
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Self::Own(container) => container.pid(),
            Self::Foreign(container) => container.pid(),
        }
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(container) => container.pidfd(),
            Self::Foreign(container) => container.pidfd(),
        }
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        match self {
            Self::Own(container) => container.cgroup(),
            Self::Foreign(container) => container.cgroup(),
        }
    }

    /// The other side of its terminal, once.
    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        match self {
            Self::Own(container) => container.terminal.take(),
            Self::Foreign(container) => container.terminal.take(),
        }
    }

    pub(crate) fn start(&mut self) -> Done<()> {
        match self {
            Self::Own(container) => container.start().map_err(words),
            Self::Foreign(container) => container.start().map_err(words),
        }
    }

    pub(crate) fn kill(&self, signal: i32) -> Done<()> {
        match self {
            Self::Own(container) => container.kill(signal).map_err(words),
            Self::Foreign(container) => container.kill(signal).map_err(words),
        }
    }

    /// The runtime of this process' own, which alone can write checkpoints.
    pub(crate) fn own(&self) -> Option<&Container> {
        match self {
            Self::Own(container) => Some(container),
            Self::Foreign(_) => None,
        }
    }

    pub(crate) fn update(&self, resources: &LinuxResources) -> Done<()> {
        match self {
            Self::Own(container) => container.update(resources).map_err(words),
            Self::Foreign(container) => container.update(resources).map_err(words),
        }
    }

    pub(crate) fn exec(&self, process: &Process, streams: Streams, seccomp_cache: Option<&Path>) -> Done<ExecProcess> {
        match self {
            Self::Own(container) => {
                let usual = ExecRequest::new(process, streams.into_stdio());
                container.exec(ExecRequest { seccomp_cache, ..usual }).map_err(words)
            }
            Self::Foreign(container) => container.exec(process, streams).map_err(words),
        }
    }

    pub(crate) fn delete(self) -> Done<()> {
        match self {
            Self::Own(container) => container.delete().map_err(words),
            Self::Foreign(container) => container.delete().map_err(words),
        }
    }
}

impl Streams {
    pub(crate) fn into_stdio(self) -> Stdio {
        match self {
            Self::Terminal => Stdio::Terminal { size: None, plain_line_feeds: false },
            Self::Descriptors([stdin, stdout, stderr]) => Stdio::Fds { stdin, stdout, stderr },
        }
    }
}
