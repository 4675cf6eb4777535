//! Logging in: basic (RFC 7617) and the registries' bearer tokens (distribution's token specification).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::{RegistryFailure, Session};

/// A token response has a few kilobytes.
const TOKEN_MAX_BYTES: usize = 256 << 10;
/// Assumed where the service does not say (token specification: 60 seconds at least).
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// Renewed this long before its end, so that it does not end on the way.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A bearer token that the registry takes as it is (CRI `registry_token`).
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::Bearer(_) => write!(f, "Bearer"),
        }
    }
}

/// Authorization headers that worked, by registry, repository and credentials.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, Token>>);

type Key = (String, Option<Credentials>);

struct Token {
    header: String,
    ends: Option<Instant>,
}

impl Tokens {
    pub(super) fn header(&self, session: &Session<'_>) -> Option<String> {
        if let Some(Credentials::Bearer(token)) = &session.credentials {
            return Some(format!("Bearer {token}"));
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, token| token.ends.is_none_or(|ends| ends > now));
        all.get(&key(session)).map(|token| token.header.clone())
    }

    fn keep(&self, session: &Session<'_>, header: &str, lifetime: Option<Duration>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = Token {
            header: header.into(),
            ends: lifetime.map(|lifetime| Instant::now() + lifetime.saturating_sub(TOKEN_MARGIN)),
        };
        all.insert(key(session), token);
    }
}

fn key(session: &Session<'_>) -> Key {
    (session.reference.name(), session.credentials.clone())
}

/// Answers a 401: the Authorization header to try next, or `None` if there is nothing to answer with.
pub(super) async fn log_in(
    session: &Session<'_>,
    client: &reqwest::Client,
    refusal: &Response,
) -> Result<Option<String>, RegistryFailure> {
    let challenges: Vec<Challenge> = refusal
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| Challenge::parse(value.to_str().ok()?))
        .collect();
    let tokens = &session.registry.tokens;
    if let Some(Credentials::Bearer(_)) = session.credentials {
        return Ok(None);
    }
    if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        let (token, lifetime) = fetch_token(session, client, challenge).await?;
        let header = format!("Bearer {token}");
        tokens.keep(session, &header, Some(lifetime));
        return Ok(Some(header));
    }
    let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
    match &session.credentials {
        Some(Credentials::Basic { username, password }) if basic => {
            let header = format!("Basic {}", BASE64.encode(format!("{username}:{password}")));
            tokens.keep(session, &header, None);
            Ok(Some(header))
        }
        _ => Ok(None),
    }
}

async fn fetch_token(
    session: &Session<'_>,
    client: &reqwest::Client,
    challenge: &Challenge,
) -> Result<(String, Duration), RegistryFailure> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let failed = |problem: String| RegistryFailure::Authentication(problem);
    let realm = challenge.parameters.get("realm").map(String::as_str).unwrap_or_default();
    let url = Url::parse(realm).map_err(|_| failed(format!("token service `{realm}` is no URL")))?;
    let safe = url.scheme() == "https" || (url.scheme() == "http" && session.is_plain());
    if !safe {
        return Err(failed(format!("token service `{realm}` is not reached by https")));
    }
    let scope = format!("repository:{}:pull", session.reference.repository());
    let mut request = client.get(url.clone()).query(&[("scope", scope.as_str())]);
    if let Some(service) = challenge.parameters.get("service") {
        request = request.query(&[("service", service)]);
    }
    if let Some(Credentials::Basic { username, password }) = &session.credentials {
        request = request.basic_auth(username, Some(password));
    }
    let host = url.host_str().unwrap_or_default();
    let mut response = request.send().await.map_err(RegistryFailure::from_transport)?;
    match response.status() {
        StatusCode::OK => {}
        status => {
            return Err(RegistryFailure::Status {
                status: status.as_u16(),
                message: format!("from the token service {host}"),
                anonymous: session.credentials.is_none(),
            });
        }
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(RegistryFailure::from_transport)? {
        body.extend_from_slice(&chunk);
        if body.len() > TOKEN_MAX_BYTES {
            return Err(failed(format!("token service {host} answers without an end")));
        }
    }
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|error| failed(format!("token service {host}: {error}")))?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| failed(format!("token service {host} gives no token")))?;
    let lifetime = answer.expires_in.map_or(TOKEN_LIFETIME, Duration::from_secs);
    Ok((token, lifetime))
}

/// One `WWW-Authenticate` header (RFC 9110, 11.6.1), its first challenge.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let header = header.trim();
        let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
        let mut parameters = HashMap::new();
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_start_matches([',', ' ']).trim().to_ascii_lowercase();
            let (value, tail) = match after.trim_start().strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => {
                    let end = after.find(',').unwrap_or(after.len());
                    (after[..end].trim().to_owned(), &after[end..])
                }
            };
            parameters.insert(name, value);
            rest = tail;
        }
        Some(Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }
}

/// The value up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let challenge = Challenge::parse(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a,b:c",x=y"#,
        )
        .unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.parameters["realm"], "https://auth.docker.io/token");
        assert_eq!(challenge.parameters["scope"], "a,b:c");
        assert_eq!(challenge.parameters["x"], "y");
        assert_eq!(Challenge::parse("Basic realm=\"a\\\"b\"").unwrap().parameters["realm"], "a\"b");
        assert_eq!(Challenge::parse("Basic").unwrap().scheme, "basic");
        assert!(Challenge::parse(r#"Basic realm="open"#).is_none());
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        let credentials = Credentials::Basic { username: "me".into(), password: "secret".into() };
        assert!(!format!("{credentials:?}").contains("secret"));
        assert!(!format!("{:?}", Credentials::Bearer("secret".into())).contains("secret"));
    }
}
