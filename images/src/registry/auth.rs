//! Logging in: basic (RFC 7617) and the registries' bearer tokens (distribution's token specification).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::request::follow;
use super::{Access, RegistryFailure, Session};
use crate::credentials::{Credentials, Login};

/// A token response has a few kilobytes.
const TOKEN_MAX_BYTES: usize = 256 << 10;
/// Assumed where the service does not say (token specification: 60 seconds at least).
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// Renewed this long before its end, so that it does not end on the way.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

/// Authorization headers that worked, by registry, repository, login and what they are for.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, Token>>);

type Key = (String, Login, Vec<String>);

struct Token {
    header: String,
    ends: Option<Instant>,
}

impl Tokens {
    pub(super) fn header(&self, access: &Access) -> Option<String> {
        if let Login::Given(Credentials::Bearer(token)) | Login::File(Credentials::Bearer(token), _) = &access.login {
            return Some(format!("Bearer {token}"));
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, token| token.ends.is_none_or(|ends| ends > now));
        all.get(&key(access)).map(|token| token.header.clone())
    }

    fn keep(&self, access: &Access, header: &str, lifetime: Option<Duration>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = Token {
            header: header.into(),
            ends: lifetime.map(|lifetime| Instant::now() + lifetime.saturating_sub(TOKEN_MARGIN)),
        };
        all.insert(key(access), token);
    }
}

fn key(access: &Access) -> Key {
    (access.endpoint.url(), access.login.clone(), access.scopes.clone())
}

/// What a 401 is answered with.
pub(super) struct Answer {
    /// The Authorization header to try next, or `None` if there is nothing to answer with.
    pub(super) header: Option<String>,
    /// Whether there were no credentials, not even of a helper that was asked.
    pub(super) anonymous: bool,
}

/// Answers a 401.
pub(super) async fn log_in(
    session: &Session<'_>,
    access: &Access,
    refusal: &Response,
) -> Result<Answer, RegistryFailure> {
    let challenges: Vec<Challenge> = refusal
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| Challenge::parse(value.to_str().ok()?))
        .collect();
    let tokens = &session.registry.tokens;
    let credentials = access.login.credentials().await.map_err(RegistryFailure::Credentials)?;
    let anonymous = credentials.is_none();
    let header = if let Some(Credentials::Bearer(token)) = &credentials {
        let header = format!("Bearer {token}");
        // It was shown, and refused.
        Some(header).filter(|header| tokens.header(access).as_ref() != Some(header))
    } else if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
        let (token, lifetime) = fetch_token(access, credentials.as_ref(), challenge).await?;
        let header = format!("Bearer {token}");
        tokens.keep(access, &header, Some(lifetime));
        Some(header)
    } else {
        let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        match &credentials {
            Some(Credentials::Basic { username, password }) if basic => {
                let header = format!("Basic {}", BASE64.encode(format!("{username}:{password}")));
                tokens.keep(access, &header, None);
                Some(header)
            }
            _ => None,
        }
    };
    Ok(Answer { header, anonymous })
}

async fn fetch_token(
    access: &Access,
    credentials: Option<&Credentials>,
    challenge: &Challenge,
) -> Result<(String, Duration), RegistryFailure> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let failed = |problem: String| RegistryFailure::Authentication(problem);
    let realm = challenge.parameters.get("realm").map(String::as_str).unwrap_or_default();
    let url = Url::parse(realm).map_err(|_| failed(format!("token service `{realm}` is no URL")))?;
    let safe = url.scheme() == "https" || (url.scheme() == "http" && access.endpoint.is_plain());
    if !safe {
        return Err(failed(format!("token service `{realm}` is not reached by https")));
    }
    let scopes = access.scopes.iter().map(|scope| ("scope", scope.as_str()));
    let mut asked: Vec<(&str, &str)> = match credentials {
        // A form has one of each name (RFC 6749, 3.2).
        Some(Credentials::IdentityToken(_)) => Vec::new(),
        _ => scopes.collect(),
    };
    let joined = access.scopes.join(" ");
    asked.extend(challenge.parameters.get("service").map(|service| ("service", service.as_str())));
    let host = url.host_str().unwrap_or_default().to_owned();
    let mut response = match credentials {
        Some(Credentials::IdentityToken(token)) => {
            // Only a form may carry it (token specification, "OAuth2"): what stands in a URL is logged on its way.
            asked.push(("scope", &joined));
            asked.extend([("grant_type", "refresh_token"), ("client_id", "wharf"), ("refresh_token", token)]);
            let form = Url::parse_with_params("form:", &asked).map_err(|_| failed("the token is no text".into()))?;
            let body = form.query().unwrap_or_default().to_owned();
            let request = access.client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
            request.send().await.map_err(RegistryFailure::from_transport)?
        }
        credentials => {
            let mut url = url;
            url.query_pairs_mut().extend_pairs(&asked);
            let request = |url, is_ours| match credentials.filter(|_| is_ours) {
                Some(Credentials::Basic { username, password }) => {
                    access.client.get(url).basic_auth(username, Some(password))
                }
                _ => access.client.get(url),
            };
            follow(url, request).await?
        }
    };
    match response.status() {
        StatusCode::OK => {}
        status => {
            return Err(RegistryFailure::Status {
                status: status.as_u16(),
                message: format!("from the token service {host}"),
                retry_after: None,
                anonymous: credentials.is_none(),
                source: access.login.source(),
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
    let answer: Token =
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
}
