//! `v1` Node: the one this runs on. Made by its controller; people may label it, and cordon it.

use serde_json::{Value, json};

use super::pod_fields::unsupported;
use super::{AGE_COLUMN, Column, Kind, NAME_COLUMN, NODES_VERBS, pod, text};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    verbs: NODES_VERBS,
    subresources: &["status"],
    set_defaults: |_| {},
    validate: |object| unsupported(object.get("spec").unwrap_or(&Value::Null), "spec", &["unschedulable"]),
    validate_update: |_, _| Vec::new(),
    columns: &[
        NAME_COLUMN,
        Column { name: "Status", data_type: "string", priority: 0, cell: status_cell },
        Column { name: "Roles", data_type: "string", priority: 0, cell: roles_cell },
        AGE_COLUMN,
        Column { name: "Version", data_type: "string", priority: 0, cell: |o| info(o, "kubeletVersion").into() },
        Column { name: "Internal-IP", data_type: "string", priority: 1, cell: |o| address(o, "InternalIP").into() },
        Column { name: "External-IP", data_type: "string", priority: 1, cell: |o| address(o, "ExternalIP").into() },
        Column { name: "OS-Image", data_type: "string", priority: 1, cell: |o| info(o, "osImage").into() },
        Column { name: "Kernel-Version", data_type: "string", priority: 1, cell: |o| info(o, "kernelVersion").into() },
        Column {
            name: "Container-Runtime",
            data_type: "string",
            priority: 1,
            cell: |o| info(o, "containerRuntimeVersion").into(),
        },
    ],
};

/// The object of the node of that name, as it is made.
pub fn new(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": labels(name)}, "spec": {}})
}

/// The labels that every node has.
pub fn labels(name: &str) -> Value {
    let (os, arch) = ("linux", architecture());
    json!({
        "beta.kubernetes.io/arch": arch, "beta.kubernetes.io/os": os, "kubernetes.io/arch": arch,
        "kubernetes.io/hostname": name, "kubernetes.io/os": os,
    })
}

/// As Go names it, and images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether new pods are kept off the node.
pub fn is_cordoned(node: &Value) -> bool {
    node.pointer("/spec/unschedulable") == Some(&Value::Bool(true))
}

/// What it is short of, by the conditions that say so.
pub fn pressures(node: &Value) -> Vec<&'static str> {
    let conditions = pod::items(&node["status"], "conditions");
    let is_so =
        |kind: &&str| conditions.iter().any(|condition| condition["type"] == **kind && condition["status"] == "True");
    [MEMORY_PRESSURE, DISK_PRESSURE, PID_PRESSURE].into_iter().filter(is_so).collect()
}

/// Conditions of a node that is short of something.
pub const MEMORY_PRESSURE: &str = "MemoryPressure";
pub const DISK_PRESSURE: &str = "DiskPressure";
pub const PID_PRESSURE: &str = "PIDPressure";

fn status_cell(node: &Value) -> Value {
    let ready = pod::items(&node["status"], "conditions").iter().find(|condition| condition["type"] == "Ready");
    let ready = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    };
    match is_cordoned(node) {
        true => format!("{ready},SchedulingDisabled").into(),
        false => ready.into(),
    }
}

fn roles_cell(node: &Value) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
    let roles: Vec<&str> = roles.filter(|role| !role.is_empty()).collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
}

fn info<'a>(node: &'a Value, field: &str) -> &'a str {
    match text(node, &format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>",
        text => text,
    }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = pod::items(&node["status"], "addresses").iter();
    addresses
        .filter(|address| address["type"] == kind)
        .map(|address| text(address, "/address"))
        .next()
        .unwrap_or("<none>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_as_kubernetes_shows_it() {
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/edge": ""}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        });
        let cell = |name: &str| KIND.columns.iter().find(|c| c.name == name).map(|c| (c.cell)(&node)).unwrap();
        assert_eq!((cell("Status"), cell("Roles")), (json!("Ready,SchedulingDisabled"), json!("edge")));
        assert_eq!((cell("Internal-IP"), cell("External-IP")), (json!("192.0.2.1"), json!("<none>")));
    }

    #[test]
    fn pods_are_kept_off_by_cordoning_alone() {
        let causes = |spec: Value| (KIND.validate)(&json!({"spec": spec}));
        assert_eq!(causes(json!({"unschedulable": true})), []);
        assert_eq!(causes(json!({"taints": [{"key": "a"}]}))[0].field, "spec.taints");
    }
}
