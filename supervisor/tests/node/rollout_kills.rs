//! `kill -9` of the daemon at moments that chance chooses in a roll-out: the next one completes it, and no pod is doubled or
//! lost. `WHARF_ROLLOUT_KILLS` says how often, `WHARF_SEED` repeats a run's choices.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use wharf_specs::cri;

use crate::kills::{Chance, number, seed};
use crate::leaks::leaks;
use crate::replicas::{LIMIT, apply, assert_nothing_left, deployment, is_ready, list, wharf};
use crate::testnode::{self, Client, TestNode, wait_for};

const KILLS: usize = 5;
const REPLICAS: u32 = 3;
/// About what a roll-out takes, in milliseconds: the daemon dies before, in and after it.
const ROLLOUT: u64 = 1500;

fn version(number: usize) -> Value {
    let mut deployment = deployment(REPLICAS, "trap 'exit 0' TERM; sleep 1000 & wait");
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    container["env"] = json!([{"name": "VERSION", "value": number.to_string()}]);
    deployment
}

/// The uids of the pods, once they are those of this version and no others.
fn rolled_out(node: &TestNode, version: usize) -> Option<BTreeSet<String>> {
    let deployment = list(node, "deployments").pop()?;
    let (status, generation) = (&deployment["status"], &deployment["metadata"]["generation"]);
    let pods = list(node, "pods");
    let is_of_version = |pod: &Value| pod["spec"]["containers"][0]["env"][0]["value"] == version.to_string().as_str();
    let is_done = status["observedGeneration"] == *generation
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[*field] == REPLICAS)
        && pods.len() == REPLICAS as usize
        && pods.iter().all(|pod| is_ready(pod) && is_of_version(pod));
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
    is_done.then(|| pods.iter().map(uid).collect())
}

#[tokio::test]
async fn a_rollout_completes_whenever_the_daemon_is_killed() {
    let Some(mut node) = testnode::start("rollkills").await else { return };
    let kills = number("WHARF_ROLLOUT_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = seed();
    println!("{kills} kills, WHARF_SEED={seed}");
    let mut chance = Chance(seed);
    for round in 0..=kills {
        apply(&node, &version(round));
        if round > 0 {
            tokio::time::sleep(Duration::from_millis(chance.below(ROLLOUT))).await;
            node.kill_wharfd();
            node.start_wharfd();
        }
        let mut pods = BTreeSet::new();
        wait_for("the version", LIMIT, || {
            rolled_out(&node, round).is_some_and(|uids| {
                pods = uids;
                true
            })
        });
        // What runs is what is declared: each pod once.
        let mut client = Client::of(&node).await;
        let sandboxes = client.runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
        let uids: Vec<String> =
            sandboxes.into_inner().items.into_iter().map(|sandbox| sandbox.metadata.unwrap().uid).collect();
        assert_eq!((uids.len(), uids.into_iter().collect()), (pods.len(), pods), "round {round}");
        let none = leaks(&node);
        assert!(none.status.success(), "round {round}: {}", String::from_utf8_lossy(&none.stdout));
    }
    wharf(&node, &["delete", "deployment", "--all"]);
    wait_for("the end of the pods", LIMIT, || list(&node, "pods").is_empty());
    assert_nothing_left(node);
}
