//! `/healthz`, `/livez` and `/readyz`: whether the daemon is well, as a whole and check by check.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

use super::query::Query;
use super::server::Api;
use super::status::ApiError;

/// What is looked at, in this order. Monitoring asks for Kubernetes' names: `etcd` is the object database.
pub(super) const CHECKS: [&str; 3] = ["ping", "etcd", "pods"];

/// A database that has not answered by then does not.
const DATABASE_LIMIT: Duration = Duration::from_secs(3);

/// Whoever asks after a database that hangs takes no further thread.
pub struct DatabaseCheck(Arc<Semaphore>);

impl Default for DatabaseCheck {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// The answer at `path`, which is `healthz`, `livez` or `readyz`, or that of one check alone.
pub(super) async fn answer(api: &Api, path: &str, check: Option<&str>, query: &Query) -> Result<Response, ApiError> {
    if let Some(check) = check {
        let known = CHECKS.contains(&check).then_some(check);
        let known = known.ok_or_else(|| ApiError::NoSuchPath { path: format!("/{path}/{check}") })?;
        return Ok(match run(api, known).await {
            Ok(()) => plain(StatusCode::OK, "ok".into()),
            Err(why) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        });
    }
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    let (mut text, mut failed) = (String::new(), false);
    for check in CHECKS {
        if excluded.contains(&check) {
            excluded.retain(|other| *other != check);
            let _ = writeln!(text, "[+]{check} excluded: ok");
            continue;
        }
        match run(api, check).await {
            Ok(()) => drop(writeln!(text, "[+]{check} ok")),
            Err(why) => {
                tracing::warn!(check, why, "not well");
                failed = true;
                // Why is said to those alone who may ask for the check.
                let _ = writeln!(text, "[-]{check} failed: reason withheld");
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {}", names.join(", "));
    }
    if failed {
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{path} check failed\n")));
    }
    let shown = match query.get("verbose") {
        Some(_) => format!("{text}{path} check passed\n"),
        None => "ok".into(),
    };
    Ok(plain(StatusCode::OK, shown))
}

fn plain(code: StatusCode, text: String) -> Response {
    let nosniff = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    (code, [nosniff], text).into_response()
}

async fn run(api: &Api, check: &str) -> Result<(), String> {
    match check {
        "etcd" => {
            let answered = async {
                let place = api.usage.database.0.clone().acquire_owned().await.map_err(|error| error.to_string())?;
                let store = api.objects.store().clone();
                // It goes on though nobody waits for it any more.
                let asked = tokio::spawn(async move {
                    let answer = store.answers().await;
                    drop(place);
                    answer
                });
                asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            };
            let late = |_| format!("the object database has not answered for {} s", DATABASE_LIMIT.as_secs());
            tokio::time::timeout(DATABASE_LIMIT, answered).await.map_err(late)?
        }
        "pods" => {
            api.node.pick_sandboxes(|_| None::<()>);
            Ok(())
        }
        _ => Ok(()),
    }
}
