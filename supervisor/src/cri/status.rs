//! The one place that chooses gRPC codes.

use tonic::{Code, Status};

use crate::network::NetworkError;
use crate::pod::PodError;

impl From<PodError> for Status {
    fn from(error: PodError) -> Self {
        let code = match &error {
            PodError::NotFound { .. } => Code::NotFound,
            PodError::Ambiguous { .. } | PodError::Invalid { .. } => Code::InvalidArgument,
            PodError::AlreadyExists { .. } => Code::AlreadyExists,
            PodError::WrongState { .. } => Code::FailedPrecondition,
            PodError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            PodError::Image { .. } | PodError::Internal { .. } => Code::Unknown,
        };
        Self::new(code, error.to_string())
    }
}

/// A request that lacks or misuses `field`.
pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> PodError {
    PodError::Invalid { field: field.into(), reason: reason.into() }
}

/// A field that asks for what Wharf does not do.
pub(super) fn unsupported(field: impl Into<String>) -> PodError {
    invalid(field, "is not supported by this runtime")
}

/// Why the pods' network did not take the ranges that it was told.
pub(super) fn runtime_config_error(error: NetworkError) -> Status {
    let code = match &error {
        NetworkError::Config { reason, .. } => {
            return invalid("runtime_config.network_config.pod_cidr", reason.as_str()).into();
        }
        NetworkError::SubnetInUse { .. } => Code::FailedPrecondition,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// A call of the protocol that is not served.
pub(super) fn unimplemented(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not implemented"))
}

/// A call that the node's configuration has to allow first. Kubernetes' own tests know this beginning.
pub(super) fn switched_off(call: &str, key: &str) -> Status {
    Status::unimplemented(format!("method {call} not implemented: {key} in wharfd's configuration is not true"))
}
