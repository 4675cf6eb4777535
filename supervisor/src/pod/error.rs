//! Why an operation on a pod, a container or an image failed; the doors turn the kind into their own codes.

use wharf_specs::shim::{Failure, FailureKind};

/// Cloneable, because a retry that joins the work in flight gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// `what` is `pod sandbox`, `container`, `image` or `exec`.
    #[error("{what} {id:?} not found")]
    NotFound { what: &'static str, id: String },
    #[error("{what} id prefix {prefix:?} is ambiguous: {count} match")]
    Ambiguous { what: &'static str, prefix: String, count: usize },
    #[error("{what} name {name:?} is in use by {id}")]
    AlreadyExists { what: &'static str, name: String, id: String },
    #[error("{what} {id} is {state}, {wanted} is needed")]
    WrongState { what: &'static str, id: String, state: String, wanted: &'static str },
    /// `field` is its path in the request: `config.linux.security_context.run_as_user`.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    #[error("image {image:?}: {reason}")]
    Image { image: String, reason: String },
    #[error("{operation}: not done after {seconds} s")]
    DeadlineExceeded { operation: String, seconds: u64 },
    #[error("{operation}: {reason}")]
    Internal { operation: String, reason: String },
}

impl PodError {
    pub(crate) fn sandbox_not_found(id: &str) -> Self {
        Self::NotFound { what: "pod sandbox", id: id.into() }
    }

    pub(crate) fn container_not_found(id: &str) -> Self {
        Self::NotFound { what: "container", id: id.into() }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn internal(operation: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Internal { operation: operation.into(), reason: reason.to_string() }
    }

    /// The shim's failure of `operation` on `id`.
    pub(crate) fn from_shim(operation: &str, id: &str, failure: Failure) -> Self {
        match failure.kind {
            FailureKind::NotFound => Self::container_not_found(id),
            FailureKind::WrongState => {
                Self::WrongState { what: "container", id: id.into(), state: failure.message, wanted: "another state" }
            }
            FailureKind::Invalid => Self::invalid("config", failure.message),
            FailureKind::AlreadyExists | FailureKind::Internal => {
                Self::internal(format!("{operation} {id}"), failure.message)
            }
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

pub type Result<T, E = PodError> = std::result::Result<T, E>;

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their source in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
