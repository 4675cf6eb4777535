//! How a session ended, as the error stream says it.

use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The process ended with 0, or what was attached to has ended.
    Success,
    /// The process ended with another code.
    ExitCode(i32),
    /// There was no session, or its end is not known.
    Failure(String),
}

impl Outcome {
    /// Since protocol v4 a `Status`.
    pub(super) fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": self.line(),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(message) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500,
            }),
        }
    }

    /// Before, a line, and nothing at all after a success.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failure(message) => message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_causes() {
        assert_eq!(Outcome::Success.status()["status"], "Success");
        let status = Outcome::ExitCode(7).status();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        assert_eq!(Outcome::Success.line(), "");
    }
}
