//! What `Status` says of the runtime: its conditions, handlers and features.

use std::collections::HashMap;

use serde_json::json;
use wharf_specs::cri;

use crate::pod::Node;

/// Reason of a NetworkReady that is false, as kubelets know it.
const NETWORK_NOT_READY: &str = "NetworkPluginNotReady";

pub(super) async fn answer(node: &Node, is_verbose: bool) -> cri::StatusResponse {
    let condition = |kind: &str, problem: Option<String>| cri::RuntimeCondition {
        r#type: kind.into(),
        status: problem.is_none(),
        reason: problem.as_ref().map(|_| NETWORK_NOT_READY.into()).unwrap_or_default(),
        message: problem.unwrap_or_default(),
    };
    let network = node.network().check().await.err().map(|error| error.to_string());
    let options = node.options();
    let mut info = HashMap::new();
    if is_verbose {
        let config = json!({
            "root": options.root, "state": options.state, "shim": options.shim,
            "cgroupDriver": options.cgroups.driver, "cgroupParent": options.cgroups.parent, "runtimes": options.runtimes,
            "cdiFolders": options.cdi_folders,
            "checkpoint": {"enabled": options.checkpoint.enabled, "images": options.checkpoint.images},
            "network": {
                "bridge": options.network.bridge, "subnet": options.network.subnet,
                "cniFolder": options.network.cni.folder, "cniPlugins": options.network.cni.plugins,
            },
        });
        info.insert("config".to_string(), config.to_string());
        info.insert("known".to_string(), json!(node.known().await).to_string());
    }
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
        }),
        info,
        runtime_handlers: handlers(node),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            mount_options: true,
            ..Default::default()
        }),
    }
}

fn handlers(node: &Node) -> Vec<cri::RuntimeHandler> {
    let handler = |name: &str, own| {
        let features = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: own, user_namespaces: own };
        cri::RuntimeHandler { name: name.into(), features: Some(features) }
    };
    let others = node.options().runtimes.keys().map(|name| handler(name, false));
    std::iter::once(handler("", true)).chain(others).collect()
}
