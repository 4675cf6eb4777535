//! What can go wrong with a registry, and what a person can do about it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::credentials::{CredentialError, CredentialSource};
use crate::digest::Digest;

/// A request that did not bring what was asked for.
#[derive(Debug)]
pub struct RegistryError {
    /// `pull` or `push`.
    pub action: &'static str,
    /// The reference being pulled or pushed to.
    pub reference: String,
    /// Its registry, host and port.
    pub registry: String,
    /// What was asked for: `manifests/latest`, `blobs/sha256:…`.
    pub object: String,
    pub failure: Box<RegistryFailure>,
}

#[derive(Debug)]
pub enum RegistryFailure {
    /// No connection, or none that lasted.
    Transport {
        /// `connect`, `verify`, `time out`, `transfer`.
        stage: &'static str,
        source: reqwest::Error,
    },
    /// The registry answered with another status than asked for.
    Status {
        status: u16,
        /// The registry's own words, possibly empty.
        message: String,
        /// How long the registry asks to be left alone (`Retry-After`).
        retry_after: Option<Duration>,
        /// Whether there were no credentials.
        anonymous: bool,
        /// The file that the credentials come from, if they were not given with the call.
        source: Option<CredentialSource>,
    },
    /// Neither did the registry take a byte nor did it answer, for too long.
    Silence,
    /// The answer lacks what the protocol asks for.
    Protocol(String),
    /// The configuration has nobody for this (`pull`, `resolve`, `push`).
    Nobody(&'static str),
    /// Leads somewhere that is not followed.
    Redirection(String),
    /// A login was asked for, and whoever has it cannot be asked.
    Credentials(CredentialError),
    /// The registry asks for a kind of authentication nobody knows, or its token service fails.
    Authentication(String),
    Digest {
        expected: Digest,
        found: Digest,
    },
    /// The transfer ended before the blob did, as if that were its end.
    Cut {
        expected: u64,
        found: u64,
    },
    /// A part was asked for and another came.
    Range {
        expected: u64,
        found: String,
    },
    Length {
        expected: u64,
        found: u64,
    },
    TooLong {
        limit: u64,
    },
}

impl RegistryError {
    /// Whether it may well go away by itself: too many requests, a server in trouble, a connection that broke,
    /// silence. That nobody listens is no such thing: there may be a mirror, and the node's owner wants to know.
    pub(crate) fn is_passing(&self) -> bool {
        match &*self.failure {
            RegistryFailure::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            RegistryFailure::Transport { stage, .. } => matches!(*stage, "transfer" | "time out"),
            RegistryFailure::Cut { .. } | RegistryFailure::Silence => true,
            _ => false,
        }
    }

    /// How long the registry asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match *self.failure {
            RegistryFailure::Status { retry_after, .. } => retry_after,
            _ => None,
        }
    }

    /// Whether nobody answered at all.
    pub(crate) fn is_unconnected(&self) -> bool {
        matches!(*self.failure, RegistryFailure::Transport { stage: "connect" | "verify", .. })
    }

    /// The HTTP status, if it came to one.
    pub fn status(&self) -> Option<u16> {
        match *self.failure {
            RegistryFailure::Status { status, .. } => Some(status),
            _ => None,
        }
    }
}

/// Whether TLS failed because of who somebody is. That a client has shown no certificate is told it only after the
/// connection is made (RFC 8446, 4.4.2.4), so this is no matter of connecting alone.
fn is_about_certificates(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.to_string().contains("ertificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether there was a connection, which ended while TLS was being agreed on.
fn was_broken(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text.trim()).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

impl RegistryFailure {
    pub(crate) fn from_transport(source: reqwest::Error) -> Self {
        let stage = if is_about_certificates(&source) {
            "verify"
        } else if source.is_connect() && !was_broken(&source) {
            "connect"
        } else if source.is_timeout() {
            "time out"
        } else {
            "transfer"
        };
        // The URL stands in our own message already.
        Self::Transport { stage, source: source.without_url() }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (registry, object) = (&self.registry, &self.object);
        write!(f, "{} {}: registry {registry}: {object}: ", self.action, self.reference)?;
        match &*self.failure {
            RegistryFailure::Transport { stage: "connect", .. } => {
                write!(f, "cannot connect; is the registry running, is its name right?")
            }
            RegistryFailure::Transport { stage: "verify", .. } => {
                write!(
                    f,
                    "no trust between it and us; `ca` in registries.toml names an authority, `client_cert` our own"
                )
            }
            RegistryFailure::Transport { stage: "time out", .. } => write!(f, "no answer in time"),
            RegistryFailure::Transport { .. } => write!(f, "transfer was cut off"),
            RegistryFailure::Status { status, message, anonymous, source, .. } => {
                write!(f, "HTTP {status}{}", advice(*status, *anonymous))?;
                if let (401 | 403, Some(source)) = (status, source) {
                    write!(f, " (they are {source})")?;
                }
                match message.is_empty() {
                    true => Ok(()),
                    false => write!(f, " (registry says: {message})"),
                }
            }
            RegistryFailure::Nobody(capability) => {
                write!(f, "no endpoint has the capability `{capability}`; `wharf registry explain` lists them")
            }
            RegistryFailure::Silence => write!(f, "no answer in time"),
            RegistryFailure::Redirection(problem) | RegistryFailure::Protocol(problem) => write!(f, "{problem}"),
            RegistryFailure::Credentials(_) => write!(f, "log in"),
            RegistryFailure::Authentication(problem) => write!(f, "log in: {problem}"),
            RegistryFailure::Digest { expected, found } => {
                write!(f, "content has the digest {found}, expected {expected}")
            }
            RegistryFailure::Length { expected, found } => {
                write!(f, "registry sends {found} bytes, expected {expected}")
            }
            RegistryFailure::Cut { expected, found } => {
                write!(f, "transfer ended after {found} bytes, expected {expected}")
            }
            RegistryFailure::Range { expected, found } => {
                write!(f, "registry sends `{found}`, expected the bytes from {expected} on")
            }
            RegistryFailure::TooLong { limit } => write!(f, "is longer than {limit} bytes"),
        }
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.failure {
            RegistryFailure::Transport { source, .. } => Some(source),
            RegistryFailure::Credentials(source) => Some(source),
            _ => None,
        }
    }
}

fn advice(status: u16, anonymous: bool) -> &'static str {
    match (status, anonymous) {
        (401 | 403, true) => " unauthorized: it wants a login, give credentials",
        (401 | 403, false) => " unauthorized: the credentials are wrong or do not reach this repository",
        (404, _) => " not found: there is no such repository, tag or digest",
        (429, _) => " too many requests: wait, or log in for a higher limit",
        (500..=599, _) => " server error: the registry is in trouble, try again later",
        _ => "",
    }
}

/// The registry's own words (distribution-spec, "Error Codes"), fit for one line.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return String::new();
    };
    let all: Vec<String> = envelope
        .errors
        .iter()
        .map(|entry| match entry.message.is_empty() {
            true => entry.code.clone(),
            false => entry.message.clone(),
        })
        .collect();
    // Somebody else's text on a person's terminal: no control characters, no novel.
    all.join("; ").chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        let hour = Duration::from_secs(3600);
        let wait = retry_after(&httpdate::fmt_http_date(SystemTime::now() + hour)).unwrap();
        assert!(wait <= hour && wait > hour / 2, "{wait:?}");
        for none in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(none), None, "{none}");
        }
    }

    #[test]
    fn a_registrys_words_fit_one_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\n\u001b[31mway"},{"code":"UNKNOWN"}]}"#;
        assert_eq!(message(body), "no[31mway; UNKNOWN");
        assert_eq!(message(b"<html>"), "");
    }
}
