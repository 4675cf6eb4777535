//! What can go wrong between a bundle and a running container.

use crate::handshake::Failure;
use crate::{bundle, cgroup, checkpoint, plan, seccomp};
use std::io;
use std::path::PathBuf;
use wharf_sys::errno;

/// An operation on a container that failed. The message is one line that names operation, object and cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    #[error(transparent)]
    Refused(#[from] plan::Refusal),
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A step in the cloned child; the child has gone.
    #[error(transparent)]
    Step(#[from] Failure),
    /// A system call of the runtime itself.
    #[error("{operation}{}: {}", spaced(object), cause(source))]
    System { operation: &'static str, object: String, source: io::Error },
    /// The child ended without a word, killed from outside.
    #[error("the container's init ended before it was {expected}: {how}")]
    InitEnded { expected: &'static str, how: String },
    /// The state directory's file does not say what it should.
    #[error("{}: {problem}", path.display())]
    State { path: PathBuf, problem: String },
    /// The container is not in a state that allows the operation.
    #[error("cannot {operation} a container that is {status}")]
    WrongState { operation: &'static str, status: crate::state::Status },
    /// Something the caller asked for that is not possible here.
    #[error("{0}")]
    Unsupported(String),
}

fn spaced(object: &str) -> String {
    if object.is_empty() { String::new() } else { format!(" {object}") }
}

/// Name and sentence of an I/O error.
pub(crate) fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno::explain)
}

/// Attaches operation and object to an I/O error of the runtime.
pub(crate) trait While<T> {
    fn during(self, operation: &'static str, object: impl std::fmt::Display) -> Result<T, Error>;
}

impl<T> While<T> for io::Result<T> {
    fn during(self, operation: &'static str, object: impl std::fmt::Display) -> Result<T, Error> {
        self.map_err(|source| Error::System { operation, object: object.to_string(), source })
    }
}
