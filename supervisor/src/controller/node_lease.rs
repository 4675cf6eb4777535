//! The node's Lease: for as long as it is renewed, the node is there.
//!
//! Clients that watch it see each renewal. The disk does not: what it would keep is good for seconds.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::kinds::{lease, node, text};
use crate::api::object_store::Key;
use crate::api::objects::{Objects, api_error};
use crate::api::status::ApiError;

/// Where Kubernetes has the leases of nodes.
const NAMESPACE: &str = "kube-node-lease";
/// Four renewals: the kubelet's own.
const DURATION_SECONDS: u32 = 40;

/// Renews the lease of `node`, or makes it.
pub(super) async fn renew(objects: &Objects, node: &Value) -> Result<(), ApiError> {
    let name = text(node, "/metadata/name");
    // The time with which it is made is on the disk until somebody writes more to it than a renewal.
    if objects.get(&lease::KIND, NAMESPACE, name).is_err() {
        let metadata = json!({"name": name, "ownerReferences": [owner(node)]});
        return objects
            .create(&lease::KIND, NAMESPACE, json!({"metadata": metadata, "spec": spec(name)}))
            .await
            .map(drop);
    }
    let key = Key::new(&lease::KIND.resource(), NAMESPACE, name);
    let renewed = {
        let (owner, spec) = (owner(node), spec(name));
        objects.store().renew(key, move |lease| {
            lease["metadata"]["ownerReferences"] = json!([owner]);
            for field in ["holderIdentity", "leaseDurationSeconds", "renewTime"] {
                lease["spec"][field] = spec[field].clone();
            }
        })
    };
    renewed.await.map_err(|error| api_error(&lease::KIND, name, error))
}

fn spec(holder: &str) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    json!({"holderIdentity": holder, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now})
}

/// It goes with the node.
fn owner(node: &Value) -> Value {
    json!({
        "apiVersion": node::KIND.api_version(), "kind": node::KIND.kind, "name": node["metadata"]["name"],
        "uid": node["metadata"]["uid"],
    })
}
