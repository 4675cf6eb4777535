//! The deadline that a client gives a call (gRPC over HTTP/2, "Timeout"). It is answered as what it is, a little before
//! tonic would say that the call was cancelled: a kubelet acts on the code.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::Service;

/// What an answer is earlier than tonic's, at most.
const AHEAD: Duration = Duration::from_millis(10);

/// Ends the calls of a service at their deadlines.
#[derive(Clone)]
pub(super) struct Deadline<S>(pub(super) S);

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = deadline(request.headers());
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(deadline) = deadline else { return answer.await };
            let late = |_| {
                let message = format!("the call has a deadline of {deadline:?}, which is over");
                Ok(Status::deadline_exceeded(message).into_http())
            };
            tokio::time::timeout(deadline - AHEAD.min(deadline / 2), answer).await.unwrap_or_else(late)
        })
    }
}

/// At most eight digits and a unit. What has another form is no deadline: tonic says so.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_have_a_number_and_a_unit() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(of("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        for wrong in ["", "S", "1", "-1S", "1s", "999999999S", "1.5S"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_call_that_is_late_has_exceeded_its_deadline() {
        let never = |_: Request<()>| std::future::pending::<Result<Response<String>, Infallible>>();
        let mut service = Deadline(tower::service_fn(never));
        let request = Request::builder().header("grpc-timeout", "1m").body(()).unwrap();
        let answer = service.call(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
    }
}
