//! Tokens: each stands for one request that the CRI door accepted, until its client comes for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::pod::spec::ExecConfig;

const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// Tokens that may wait for their clients; more at once is nobody's honest use.
pub(super) const TOKENS_MAX: usize = 1000;

/// What a token stands for.
pub enum StreamRequest {
    Exec { container: String, config: ExecConfig },
    Attach { container: String, stdin: bool, stdout: bool, stderr: bool },
    PortForward { sandbox: String, ports: Vec<u16> },
}

impl StreamRequest {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

#[derive(Default)]
pub(super) struct Tokens {
    waiting: HashMap<String, (Instant, StreamRequest)>,
}

impl Tokens {
    /// `None` while too many wait.
    pub(super) fn issue(&mut self, request: StreamRequest, now: Instant) -> Option<String> {
        self.waiting.retain(|_, (issued, _)| now.duration_since(*issued) < TOKEN_LIFETIME);
        if self.waiting.len() >= TOKENS_MAX {
            return None;
        }
        let token = crate::pod::new_id();
        self.waiting.insert(token.clone(), (now, request));
        Some(token)
    }

    pub(super) fn claim(&mut self, kind: &str, token: &str, now: Instant) -> Option<StreamRequest> {
        let (issued, request) = self.waiting.get(token)?;
        if now.duration_since(*issued) >= TOKEN_LIFETIME || request.kind() != kind {
            return None;
        }
        self.waiting.remove(token).map(|(_, request)| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> StreamRequest {
        StreamRequest::Attach { container: "c".into(), stdin: false, stdout: true, stderr: true }
    }

    #[test]
    fn tokens_are_good_once_and_for_their_kind_and_time() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        let token = tokens.issue(request(), start).unwrap();
        assert!(tokens.claim("exec", &token, start).is_none());
        assert!(tokens.claim("attach", "other", start).is_none());
        assert!(tokens.claim("attach", &token, start).is_some());
        assert!(tokens.claim("attach", &token, start).is_none());
        let token = tokens.issue(request(), start).unwrap();
        assert!(tokens.claim("attach", &token, start + TOKEN_LIFETIME).is_none());
    }

    #[test]
    fn unclaimed_tokens_are_bounded_and_expire() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        for _ in 0..TOKENS_MAX {
            tokens.issue(request(), start).unwrap();
        }
        assert!(tokens.issue(request(), start).is_none());
        assert!(tokens.issue(request(), start + TOKEN_LIFETIME).is_some());
    }
}
