//! What is worth knowing of an object besides its metadata, for each kind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use wharf_supervisor::api::kinds::pod::items;
use wharf_supervisor::api::kinds::{Kind, integer, text};
use wharf_supervisor::api::table::age;

use super::page::{Page, value_text};
use super::pod;

/// Fields that are shown before everything else, or in its place.
pub(super) fn summary(page: &mut Page, kind: &Kind, object: &Value) {
    match kind.kind {
        "Pod" => pod::pod(page, object),
        "Deployment" => deployment(page, object),
        "ReplicaSet" => replica_set(page, object),
        "DaemonSet" => daemon_set(page, object),
        "Job" => job(page, object),
        "Service" => service(page, object),
        "Node" => node(page, object),
        "PersistentVolumeClaim" => claim(page, object),
        "PersistentVolume" => volume(page, object),
        "ConfigMap" => config_map(page, object),
        "Secret" => secret(page, object),
        "Namespace" => page.fields(object, &[("Status", "/status/phase")]),
        _ => {
            let own = object.as_object().into_iter().flatten();
            let known = ["apiVersion", "kind", "metadata"];
            own.filter(|(field, _)| !known.contains(&field.as_str()))
                .for_each(|(field, value)| page.named_tree(field, value));
        }
    }
    conditions(page, object);
}

fn conditions(page: &mut Page, object: &Value) {
    let conditions = items(&object["status"], "conditions");
    if conditions.is_empty() {
        return;
    }
    let row = |condition: &Value| {
        let changed = text(condition, "/lastTransitionTime");
        let since = if changed.is_empty() { String::new() } else { age(changed) };
        let cell = |field: &str| text(condition, field).to_owned();
        vec![cell("/type"), cell("/status"), since, cell("/reason"), cell("/message")]
    };
    page.table("Conditions", &["Type", "Status", "Since", "Reason", "Message"], conditions.iter().map(row).collect());
}

fn selector(page: &mut Page, object: &Value) {
    let selector = &object["spec"]["selector"];
    let expressions = items(selector, "matchExpressions").iter().map(|expression| {
        let values = value_text(&expression["values"]);
        let (key, operator) = (text(expression, "/key"), text(expression, "/operator"));
        if values.is_empty() { format!("{key} {operator}") } else { format!("{key} {operator} ({values})") }
    });
    let labels = Some(value_text(&selector["matchLabels"])).filter(|labels| !labels.is_empty());
    page.field("Selector", labels.into_iter().chain(expressions).collect::<Vec<_>>().join(","));
}

fn deployment(page: &mut Page, object: &Value) {
    selector(page, object);
    let count = |pointer| integer(object, pointer);
    page.field(
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            count("/spec/replicas"),
            count("/status/updatedReplicas"),
            count("/status/replicas"),
            count("/status/availableReplicas"),
            count("/status/unavailableReplicas")
        ),
    );
    page.fields(
        object,
        &[
            ("Paused", "/spec/paused"),
            ("Strategy", "/spec/strategy/type"),
            ("Max Unavailable", "/spec/strategy/rollingUpdate/maxUnavailable"),
            ("Max Surge", "/spec/strategy/rollingUpdate/maxSurge"),
            ("Min Ready (s)", "/spec/minReadySeconds"),
            ("Progress Deadline (s)", "/spec/progressDeadlineSeconds"),
        ],
    );
    pod::template(page, &object["spec"]["template"]);
}

fn replica_set(page: &mut Page, object: &Value) {
    selector(page, object);
    let count = |pointer| integer(object, pointer);
    page.field(
        "Replicas",
        format!(
            "{} desired | {} current | {} ready | {} available",
            count("/spec/replicas"),
            count("/status/replicas"),
            count("/status/readyReplicas"),
            count("/status/availableReplicas")
        ),
    );
    pod::template(page, &object["spec"]["template"]);
}

fn daemon_set(page: &mut Page, object: &Value) {
    selector(page, object);
    page.fields(
        object,
        &[
            ("Update Strategy", "/spec/updateStrategy/type"),
            ("Desired", "/status/desiredNumberScheduled"),
            ("Current", "/status/currentNumberScheduled"),
            ("Ready", "/status/numberReady"),
            ("Updated", "/status/updatedNumberScheduled"),
            ("Available", "/status/numberAvailable"),
        ],
    );
    pod::template(page, &object["spec"]["template"]);
}

fn job(page: &mut Page, object: &Value) {
    selector(page, object);
    page.fields(
        object,
        &[
            ("Parallelism", "/spec/parallelism"),
            ("Completions", "/spec/completions"),
            ("Completion Mode", "/spec/completionMode"),
            ("Suspended", "/spec/suspend"),
            ("Back-off Limit", "/spec/backoffLimit"),
            ("Deadline (s)", "/spec/activeDeadlineSeconds"),
            ("TTL When Finished (s)", "/spec/ttlSecondsAfterFinished"),
            ("Start Time", "/status/startTime"),
            ("Completed At", "/status/completionTime"),
        ],
    );
    let count = |pointer| integer(object, pointer);
    let (active, succeeded, failed) = (count("/status/active"), count("/status/succeeded"), count("/status/failed"));
    page.field("Pods", format!("{active} active | {succeeded} succeeded | {failed} failed"));
    pod::template(page, &object["spec"]["template"]);
}

fn service(page: &mut Page, object: &Value) {
    page.map("Selector", &object["spec"]["selector"]);
    page.fields(
        object,
        &[
            ("Type", "/spec/type"),
            ("External Name", "/spec/externalName"),
            ("IP Families", "/spec/ipFamilies"),
            ("IPs", "/spec/clusterIPs"),
            ("Session Affinity", "/spec/sessionAffinity"),
            ("Affinity Timeout (s)", "/spec/sessionAffinityConfig/clientIP/timeoutSeconds"),
        ],
    );
    let row = |port: &Value| {
        ["name", "protocol", "port", "targetPort", "nodePort"].map(|field| value_text(&port[field])).to_vec()
    };
    let ports = items(&object["spec"], "ports").iter().map(row).collect();
    page.table("Ports", &["Name", "Protocol", "Port", "Target Port", "Node Port"], ports);
}

fn node(page: &mut Page, object: &Value) {
    page.field("Unschedulable", object["spec"]["unschedulable"].as_bool().unwrap_or(false).to_string());
    page.tree("Addresses", &object["status"]["addresses"]);
    ["capacity", "allocatable", "nodeInfo"].iter().for_each(|field| page.named_tree(field, &object["status"][field]));
}

fn claim(page: &mut Page, object: &Value) {
    page.fields(
        object,
        &[
            ("Storage Class", "/spec/storageClassName"),
            ("Status", "/status/phase"),
            ("Volume", "/spec/volumeName"),
            ("Requested", "/spec/resources/requests/storage"),
            ("Capacity", "/status/capacity/storage"),
            ("Access Modes", "/spec/accessModes"),
            ("Volume Mode", "/spec/volumeMode"),
        ],
    );
}

/// Fields of a volume's specification that are not its source.
const VOLUME_FIELDS: [&str; 7] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeMode",
];

fn volume(page: &mut Page, object: &Value) {
    page.fields(object, &[("Storage Class", "/spec/storageClassName"), ("Status", "/status/phase")]);
    let claim = [text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name")];
    page.field("Claim", if claim[1].is_empty() { String::new() } else { claim.join("/") });
    page.fields(
        object,
        &[
            ("Reclaim Policy", "/spec/persistentVolumeReclaimPolicy"),
            ("Capacity", "/spec/capacity/storage"),
            ("Access Modes", "/spec/accessModes"),
            ("Volume Mode", "/spec/volumeMode"),
            ("Mount Options", "/spec/mountOptions"),
        ],
    );
    let fields = object["spec"].as_object().into_iter().flatten();
    fields
        .filter(|(field, _)| !VOLUME_FIELDS.contains(&field.as_str()))
        .for_each(|(field, value)| page.named_tree(field, value));
}

fn config_map(page: &mut Page, object: &Value) {
    page.fields(object, &[("Immutable", "/immutable")]);
    let mut data = Page::default();
    let fields = object["data"].as_object().into_iter().flatten();
    fields.for_each(|(key, value)| data.lines(key, [value.as_str().unwrap_or_default()]));
    page.part("Data", data);
    sizes(page, "Binary Data", &object["binaryData"]);
}

fn secret(page: &mut Page, object: &Value) {
    page.fields(object, &[("Type", "/type"), ("Immutable", "/immutable")]);
    sizes(page, "Data", &object["data"]);
}

/// How much is behind each key, and not what.
fn sizes(page: &mut Page, title: &str, data: &Value) {
    let mut part = Page::default();
    for (key, value) in data.as_object().into_iter().flatten() {
        let decoded = STANDARD.decode(value.as_str().unwrap_or_default());
        part.field(key, decoded.map_or_else(|_| "not in base64".into(), |bytes| format!("{} bytes", bytes.len())));
    }
    page.part(title, part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wharf_supervisor::api::kinds::{persistent_volume, secret as secret_kind, storage_class};

    fn page(kind: &Kind, object: Value) -> String {
        let mut page = Page::default();
        summary(&mut page, kind, &object);
        page.text()
    }

    #[test]
    fn a_secret_keeps_what_it_is() {
        let shown = page(&secret_kind::KIND, json!({"type": "Opaque", "data": {"password": "aGlkZGVu", "user": ""}}));
        assert_eq!(shown, "Type:  Opaque\nData:\n  password:  6 bytes\n  user:      0 bytes\n");
    }

    #[test]
    fn kinds_without_a_summary_show_all_they_have() {
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "x"},
            "provisioner": "wharf/local-path", "parameters": {"a": "1"}});
        assert_eq!(page(&storage_class::KIND, class), "Parameters:\n  a:  1\nProvisioner:  wharf/local-path\n");
    }

    #[test]
    fn a_volume_names_its_source() {
        let volume = json!({"spec": {"hostPath": {"path": "/srv"}, "capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem"},
            "status": {"phase": "Available"}});
        let shown = page(&persistent_volume::KIND, volume);
        assert!(shown.ends_with("Host Path:\n  Path:  /srv\n") && shown.contains("Capacity:     1Gi\n"), "{shown}");
    }
}
