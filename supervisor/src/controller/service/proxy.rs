//! The node's rules, kept as Services and EndpointSlices are. Changes are gathered: `nft` runs once for all that came
//! while it ran, and not more often than every [`GATHERING`]. After the rules come the answers to load balancers.

use std::time::Duration;

use tokio::time::Instant;

use super::Progress;
use super::frontends::frontends;
use super::health::HealthChecks;
use crate::api::kinds::{endpoint_slice, service};
use crate::api::object_store::Change;
use crate::api::objects::Objects;
use crate::controller::changes::Changes;
use crate::pod::Node;

/// Between two runs of `nft`.
const GATHERING: Duration = Duration::from_millis(50);
/// Rules that were refused are tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the rules.
pub async fn run(objects: Objects, node: Node, progress: Progress) {
    let mut changes = Changes::new(objects.store());
    let mut health = HealthChecks::default();
    loop {
        let version = objects.store().version();
        let (services, _) = objects.list(&service::KIND, None);
        let (slices, _) = objects.list(&endpoint_slice::KIND, None);
        let served = node.network().serve(frontends(&services, &slices, objects.node_name())).await;
        if let Err(error) = &served {
            tracing::error!(%error, "rules of Services");
        }
        let asked = health.keep(&services, &slices, objects.node_name()).await;
        // Those that could not be written keep nobody waiting.
        progress.rules.send_replace(version);
        let not_before = Instant::now() + GATHERING;
        tokio::select! {
            () = relevant(&mut changes, &objects, &progress) => tokio::time::sleep_until(not_before).await,
            () = tokio::time::sleep(RETRY), if served.is_err() || !asked => {}
        }
    }
}

/// Waits for a change that may be one of the rules; any other is noted as seen.
async fn relevant(changes: &mut Changes, objects: &Objects, progress: &Progress) {
    while let Some(batch) = changes.next().await {
        let is_relevant = |change: &Change| {
            [service::KIND.resource(), endpoint_slice::KIND.resource()].contains(&change.key.resource)
        };
        if batch.iter().any(is_relevant) {
            return;
        }
        let seen = batch.last().map_or_else(|| objects.store().version(), |change| change.version);
        progress.rules.send_if_modified(|rules| {
            let newer = seen > *rules;
            *rules = seen.max(*rules);
            newer
        });
    }
}
