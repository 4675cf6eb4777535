//! One request to one endpoint: its URL, headers, redirections and login.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::{Access, RegistryError, RegistryFailure, Session, auth, error};
use crate::credentials::Login;
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// Nobody needs more of an error page.
const ERROR_BODY_MAX_BYTES: u64 = 4096;
const REDIRECTIONS_MAX: usize = 5;

impl Session<'_> {
    /// Sends a request without a body below the repository's URL. A part may come whole: a server need not know
    /// ranges.
    pub(super) async fn send(
        &self,
        access: &Access,
        method: Method,
        path: &str,
        offset: u64,
    ) -> Result<Response, RegistryError> {
        let url = access.url(path).map_err(|failure| self.failure(access, path, failure))?;
        let prepare = |mut request: RequestBuilder| {
            if path.starts_with("manifests/") {
                let accepted = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
                request = request.header(ACCEPT, accepted.join(", "));
            }
            match offset {
                0 => request,
                offset => request.header(RANGE, format!("bytes={offset}-")),
            }
        };
        let expected: &[u16] = if offset > 0 { &[200, 206] } else { &[200] };
        self.call(access, method, url, path, &prepare, expected).await
    }

    /// Sends what `prepare` makes of a request to `url`, logging in when asked to, and refuses every status but those
    /// `expected`. Messages name `path`.
    pub(super) async fn call(
        &self,
        access: &Access,
        method: Method,
        url: Url,
        path: &str,
        prepare: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
        expected: &[u16],
    ) -> Result<Response, RegistryError> {
        let failed = |failure| self.failure(access, path, failure);
        let own = access.url("").map_err(failed)?.origin();
        let mut header = self.registry.tokens.header(access);
        let mut asked = false;
        let mut anonymous = matches!(access.login, Login::Anonymous);
        loop {
            let request = |url: Url, _| {
                let is_ours = url.origin() == own;
                let request = prepare(access.client.request(method.clone(), url));
                match is_ours {
                    true => access.decorate(request, header.as_deref()),
                    false => request,
                }
            };
            let response = follow(url.clone(), request).await.map_err(failed)?;
            match response.status() {
                status if expected.contains(&status.as_u16()) => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked => {
                    asked = true;
                    let answer = auth::log_in(self, access, &response).await.map_err(failed)?;
                    anonymous = answer.anonymous;
                    if answer.header.is_none() {
                        return Err(self.refusal(access, path, response, anonymous).await);
                    }
                    header = answer.header;
                }
                _ => return Err(self.refusal(access, path, response, anonymous).await),
            }
        }
    }

    async fn refusal(&self, access: &Access, path: &str, response: Response, anonymous: bool) -> RegistryError {
        let status = response.status().as_u16();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = wait.and_then(error::retry_after);
        let message = match self.body(access, response, path, ERROR_BODY_MAX_BYTES).await {
            Ok(body) => error::message(&body),
            // The status says it; a longer or broken page adds nothing.
            Err(_) => String::new(),
        };
        let source = access.login.source().filter(|_| !anonymous);
        self.failure(access, path, RegistryFailure::Status { status, message, retry_after, anonymous, source })
    }
}

impl Access {
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryFailure> {
        let text = format!("{}/{path}", self.endpoint.url());
        let mut url = Url::parse(&text).map_err(|_| RegistryFailure::Redirection(format!("`{text}` is no URL")))?;
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// What nobody but the endpoint may see.
    fn decorate(&self, mut request: RequestBuilder, authorization: Option<&str>) -> RequestBuilder {
        for (name, value) in &self.endpoint.headers {
            request = request.header(name, value);
        }
        match authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }
}

/// Sends what `request` makes of a URL, and follows redirections; it is told whether the URL is still at the first
/// one's host.
pub(super) async fn follow(
    first: Url,
    request: impl Fn(Url, bool) -> RequestBuilder,
) -> Result<Response, RegistryFailure> {
    let mut url = first.clone();
    for _ in 0..=REDIRECTIONS_MAX {
        let is_ours = url.origin() == first.origin();
        let response = request(url.clone(), is_ours).send().await.map_err(RegistryFailure::from_transport)?;
        let Some(place) = response.headers().get(LOCATION).filter(|_| is_redirection(response.status())) else {
            return Ok(response);
        };
        url = led_to(&url, place)?;
    }
    Err(RegistryFailure::Redirection(format!("redirects more than {REDIRECTIONS_MAX} times")))
}

/// Where a `Location` header of an answer from `url` leads.
pub(super) fn led_to(url: &Url, location: &HeaderValue) -> Result<Url, RegistryFailure> {
    let place = location.to_str().ok().and_then(|place| url.join(place).ok());
    let next = place.ok_or_else(|| RegistryFailure::Redirection("redirects to what is no URL".into()))?;
    match next.scheme() != "https" && (url.scheme() == "https" || next.scheme() != "http") {
        true => {
            let problem = format!("redirects from {} to {}", url.scheme(), next.scheme());
            Err(RegistryFailure::Redirection(problem))
        }
        false => Ok(next),
    }
}

fn is_redirection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
