//! Probes by an HTTP request: any answer from 200 to 399 is success.

use std::time::Duration;

use http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::{Client, redirect};

use super::{LONGEST_OUTPUT, Outcome, USER_AGENT};
use crate::pod::chain;

const MOST_REDIRECTS: usize = 10;

/// A request as a probe or a hook describes it.
#[derive(Debug, Clone)]
pub(in crate::controller::pod) struct Get {
    url: String,
    headers: HeaderMap,
}

/// What came back: the status code, and the beginning of the body.
pub(in crate::controller::pod) struct Answer {
    pub(in crate::controller::pod) code: u16,
    pub(in crate::controller::pod) body: String,
}

/// The client of all probes: nothing is kept open between two, a certificate need not be valid, and redirects are
/// followed within their host alone.
pub(in crate::controller::pod) fn client() -> reqwest::Result<Client> {
    // The one that another part of the program has installed does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let follow = redirect::Policy::custom(|attempt| {
        let same_host = attempt.previous().first().is_some_and(|first| first.host_str() == attempt.url().host_str());
        match (attempt.previous().len() > MOST_REDIRECTS, same_host) {
            (true, _) => attempt.error(format!("stopped after {MOST_REDIRECTS} redirects")),
            (false, true) => attempt.follow(),
            (false, false) => attempt.stop(),
        }
    });
    Client::builder()
        .http1_only()
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .tls_danger_accept_invalid_certs(true)
        .redirect(follow)
        .user_agent(USER_AGENT)
        .build()
}

impl Get {
    /// Of `action`, at `host` where it names none.
    pub(in crate::controller::pod) fn new(action: &HTTPGetAction, host: &str, port: u16) -> Result<Self, String> {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(host);
        let scheme = if action.scheme.as_deref() == Some("HTTPS") { "https" } else { "http" };
        let path = action.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let url = format!("{scheme}://{}{slash}{path}", super::authority(host, port));
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let name: HeaderName = header.name.parse().map_err(|_| format!("{:?} is no header", header.name))?;
            let value = HeaderValue::from_str(&header.value);
            headers.append(name, value.map_err(|_| format!("header {}: its value is none", header.name))?);
        }
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        Ok(Self { url, headers })
    }

    /// Asks, and reads what may be shown of the answer.
    pub(in crate::controller::pod) async fn send(&self, client: &Client, timeout: Duration) -> Result<Answer, String> {
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => format!("Get {:?}: no answer after {} s", self.url, timeout.as_secs()),
            false => format!("Get {:?}: {}", self.url, chain(&error.without_url())),
        };
        let request = client.get(&self.url).headers(self.headers.clone()).timeout(timeout);
        let mut response = request.send().await.map_err(failed)?;
        let mut body = Vec::new();
        while body.len() < LONGEST_OUTPUT {
            match response.chunk().await.map_err(failed)? {
                Some(chunk) => body.extend_from_slice(&chunk[..chunk.len().min(LONGEST_OUTPUT - body.len())]),
                None => break,
            }
        }
        Ok(Answer { code: response.status().as_u16(), body: String::from_utf8_lossy(&body).into_owned() })
    }
}

pub(super) async fn probe(client: &Client, get: &Get, timeout: Duration) -> Outcome {
    match get.send(client, timeout).await {
        Ok(answer) if (200..400).contains(&answer.code) => Outcome::Success,
        Ok(answer) => {
            tracing::debug!(url = get.url, body = answer.body, "probe");
            Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.code))
        }
        Err(message) => Outcome::Failure(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn get(action: serde_json::Value) -> Get {
        Get::new(&serde_json::from_value(action).unwrap(), "fd00::2", 80).unwrap()
    }

    #[test]
    fn a_request_goes_to_the_pod_unless_it_names_a_host() {
        assert_eq!(get(json!({"port": 80, "path": "/ok?a=b"})).url, "http://[fd00::2]:80/ok?a=b");
        assert_eq!(get(json!({"port": 80, "path": "ok", "scheme": "HTTPS"})).url, "https://[fd00::2]:80/ok");
        assert_eq!(get(json!({"port": 80, "host": "10.0.0.1"})).url, "http://10.0.0.1:80/");
    }

    #[test]
    fn its_headers_overrule_our_own() {
        let headers = get(json!({"port": 80, "httpHeaders": [{"name": "Accept", "value": "text/x"}]})).headers;
        assert_eq!(headers.get_all(ACCEPT).iter().collect::<Vec<_>>(), ["text/x"]);
        assert_eq!(get(json!({"port": 80})).headers[ACCEPT], "*/*");
    }
}
