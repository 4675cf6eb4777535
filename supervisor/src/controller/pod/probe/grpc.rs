//! Probes by the gRPC health checking protocol (`grpc.health.v1`): a service that says it serves is a success.

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::{Outcome, USER_AGENT};
use crate::pod::chain;

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus`; the index is the number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(super) async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = super::authority(host, port);
    match tokio::time::timeout(timeout, check(&address, service)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!(
            "timeout: health rpc to {address} did not complete within {} s",
            timeout.as_secs()
        )),
    }
}

async fn check(address: &str, service: &str) -> Outcome {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent(USER_AGENT));
    let channel = match endpoint {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => return Outcome::Error(chain(&error)),
    };
    let mut client = match channel {
        Ok(channel) => Grpc::new(channel),
        Err(error) => return Outcome::Failure(format!("failed to connect service {address:?}: {}", chain(&error))),
    };
    if let Err(error) = client.ready().await {
        return Outcome::Failure(format!("failed to connect service {address:?}: {}", chain(&error)));
    }
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, PathAndQuery::from_static(CHECK), codec).await {
        Ok(answer) => match answer.into_inner().status {
            SERVING => Outcome::Success,
            status => {
                let shown = usize::try_from(status).ok().and_then(|status| STATUSES.get(status));
                let shown = shown.map_or_else(|| status.to_string(), |name| (*name).to_owned());
                Outcome::Failure(format!("service unhealthy (responded with {shown:?})"))
            }
        },
        Err(status) if status.code() == Code::Unimplemented => Outcome::Failure(format!(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Outcome::Failure(format!("health rpc failed: {}: {}", status.code(), status.message())),
    }
}
