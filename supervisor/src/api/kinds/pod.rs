//! `v1` Pod. Every field of its specification is either carried out or refused by name.

use super::node_affinity::affinity_causes;
use super::persistent_volume_claim::spec_defaults as claim_defaults;
use super::pod_affinity::pod_affinity_causes;
use super::pod_columns::{displayed_status, or_none, readiness_gates_cell, ready_cell, restarts_cell};
use super::pod_ephemeral::ephemeral_causes;
use super::pod_fields::{CONTAINER_FIELDS, POD_FIELDS, unsupported};
use super::pod_probe::{probe_causes, probe_defaults, stop_signal_causes};
use super::pod_resize::{policy_causes, policy_defaults};
use super::pod_resources::{request_defaults, resource_causes};
use super::pod_source::{environment_causes, sub_path_causes, volume_causes};
use super::pod_tolerations::toleration_causes;
use super::pod_update::validate_update;
use super::priority_class::priority_causes;
use super::topology_spread::spread_causes;
use super::{
    AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, is_dns_label, is_dns_subdomain, is_qualified_name,
    set_default, text,
};
use crate::api::access::service_account_token::DEFAULT_SECONDS;
use crate::api::status::Cause;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        "attach",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "resize",
        "status",
        "why",
    ],
    set_defaults,
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Ready", data_type: "string", priority: 0, cell: ready_cell },
        Column { name: "Status", data_type: "string", priority: 0, cell: |o| displayed_status(o).into() },
        Column { name: "Restarts", data_type: "string", priority: 0, cell: restarts_cell },
        AGE_COLUMN,
        Column { name: "IP", data_type: "string", priority: 1, cell: |o| or_none(text(o, "/status/podIP")) },
        Column { name: "Node", data_type: "string", priority: 1, cell: |o| or_none(text(o, "/spec/nodeName")) },
        Column {
            name: "Nominated Node",
            data_type: "string",
            priority: 1,
            cell: |o| or_none(text(o, "/status/nominatedNodeName")),
        },
        Column { name: "Readiness Gates", data_type: "string", priority: 1, cell: readiness_gates_cell },
    ],
};

pub const DEFAULT_GRACE_SECONDS: i64 = 30;

fn set_defaults(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        spec_defaults(spec);
        own_defaults(spec);
    }
    if object.get("status").is_none_or(Value::is_null) {
        object["status"] = json!({"phase": "Pending"});
    }
}

/// Of pods alone, as Kubernetes has it: a template stays as it was written.
pub(super) fn own_defaults(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            policy_defaults(container);
            request_defaults(container);
        }
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let mut causes = spec_causes(spec, "spec");
    // A change of the specification counts its generation up: this is none.
    let is_new = integer(object, "/metadata/generation") <= 1;
    if is_new && !items(spec, "ephemeralContainers").is_empty() {
        causes.push(Cause::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    causes
}

/// Fills in what a pod's specification leaves out.
pub fn spec_defaults(spec: &mut Value) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    // Clients take it for granted.
    set_default(spec, "securityContext", json!({}));
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
            let policy = default_pull_policy(text(image, "/reference"));
            set_default(image, "pullPolicy", policy);
        }
        let sources = volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut);
        for token in sources.into_iter().flatten().filter_map(|source| source.get_mut("serviceAccountToken")) {
            set_default(token, "expirationSeconds", DEFAULT_SECONDS);
        }
        if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
            claim_defaults(claim);
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let policy = default_pull_policy(text(container, "/image"));
            set_default(container, "imagePullPolicy", policy);
            probe_defaults(container);
            set_default(container, "terminationMessagePath", "/dev/termination-log");
            set_default(container, "terminationMessagePolicy", "File");
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                set_default(port, "protocol", "TCP");
            }
        }
    }
}

/// `latest` may have moved since; any other tag is taken as it is here.
fn default_pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') || name.split_once(':').is_some_and(|(_, tag)| tag != "latest") {
        "IfNotPresent"
    } else {
        "Always"
    }
}

/// Everything wrong with a pod's specification that stands at `path`.
pub fn spec_causes(spec: &Value, path: &str) -> Vec<Cause> {
    let mut causes = unsupported(spec, path, POD_FIELDS);
    let containers = items(spec, "containers");
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), "a pod runs at least one container"));
    }
    let volumes: Vec<&str> = items(spec, "volumes").iter().map(|volume| text(volume, "/name")).collect();
    let mut names = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(spec, list).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            container_causes(container, &path, &volumes, &mut causes);
            let name = text(container, "/name");
            if names.contains(&name) {
                causes.push(Cause {
                    reason: "FieldValueDuplicate",
                    ..Cause::invalid(format!("{path}.name"), name, "duplicate")
                });
            }
            names.push(name);
            if list == "ephemeralContainers" {
                ephemeral_causes(spec, container, &path, &mut causes);
                continue;
            }
            restart_causes(container, &path, list, &mut causes);
            policy_causes(container, &path, text(spec, "/restartPolicy"), &mut causes);
            let is_init = list == "initContainers" && !is_sidecar(container);
            probe_causes(container, &path, is_init, integer(spec, "/terminationGracePeriodSeconds"), &mut causes);
            stop_signal_causes(container, &path, text(spec, "/os/name"), &mut causes);
        }
    }
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        volume_causes(volume, &format!("{path}.volumes[{index}]"), &mut causes);
    }
    toleration_causes(spec, path, &mut causes);
    affinity_causes(spec, path, &mut causes);
    pod_affinity_causes(spec, path, &mut causes);
    spread_causes(spec, path, &mut causes);
    priority_causes(spec, path, &mut causes);
    for (index, gate) in items(spec, "readinessGates").iter().enumerate() {
        let condition = text(gate, "/conditionType");
        if !is_qualified_name(condition) {
            let message = "must be a qualified name: an optional DNS subdomain and /, then letters, digits, -, _ and .";
            let path = format!("{path}.readinessGates[{index}].conditionType");
            causes.push(Cause::invalid(path, format_args!("{condition:?}"), message));
        }
    }
    for (index, alias) in items(spec, "hostAliases").iter().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        let ip = text(alias, "/ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let message = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(format!("{path}.ip"), format_args!("{ip:?}"), message));
        }
        for (index, name) in items(alias, "hostnames").iter().enumerate() {
            if !name.as_str().is_some_and(is_dns_subdomain) {
                let message = "must be a lowercase RFC 1123 subdomain";
                causes.push(Cause::invalid(format!("{path}.hostnames[{index}]"), name, message));
            }
        }
    }
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let message = "must be between 1 and 2147483647, inclusive";
        causes.push(Cause::invalid(format!("{path}.activeDeadlineSeconds"), seconds, message));
    }
    if spec.get("os").is_some_and(|os| !os.is_null()) {
        one_of(&spec["os"], &format!("{path}.os"), "name", &["linux"], &mut causes);
    }
    fs_group_causes(spec, path, &mut causes);
    one_of(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], &mut causes);
    for field in ["hostname", "subdomain"] {
        let label = text(spec, &format!("/{field}"));
        if !label.is_empty() && !is_dns_label(label) {
            causes.push(Cause::invalid(format!("{path}.{field}"), label, "must be a lowercase RFC 1123 label"));
        }
    }
    one_of(spec, path, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], &mut causes);
    if integer(spec, "/terminationGracePeriodSeconds") < 0 {
        let grace = integer(spec, "/terminationGracePeriodSeconds");
        causes.push(Cause::invalid(format!("{path}.terminationGracePeriodSeconds"), grace, "must not be negative"));
    }
    causes
}

/// Whether an init container runs beside the others, for as long as the pod does.
pub fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn fs_group_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(security) = spec.get("securityContext") else { return };
    let path = format!("{path}.securityContext");
    if let Some(group) = security.get("fsGroup").and_then(Value::as_i64)
        && !(0..=i64::from(i32::MAX)).contains(&group)
    {
        causes.push(Cause::invalid(format!("{path}.fsGroup"), group, "must be between 0 and 2147483647, inclusive"));
    }
    if security.get("fsGroupChangePolicy").is_some_and(|policy| !policy.is_null()) {
        one_of(security, &path, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], causes);
    }
}

fn restart_causes(container: &Value, path: &str, list: &str, causes: &mut Vec<Cause>) {
    if container.get("restartPolicy").is_none_or(Value::is_null) {
        return;
    }
    match list {
        "initContainers" => one_of(container, path, "restartPolicy", &["Always"], causes),
        _ => causes.push(Cause::forbidden(format!("{path}.restartPolicy"), "may not be set for non-init containers")),
    }
}

fn container_causes(container: &Value, path: &str, volumes: &[&str], causes: &mut Vec<Cause>) {
    causes.extend(unsupported(container, path, CONTAINER_FIELDS));
    let name = text(container, "/name");
    if !is_dns_label(name) {
        let message = "must be a lowercase RFC 1123 label";
        causes.push(Cause::invalid(format!("{path}.name"), format_args!("{name:?}"), message));
    }
    let image = text(container, "/image");
    if image.is_empty() {
        causes.push(Cause::required(format!("{path}.image"), "the image to run"));
    } else if let Err(error) = image.parse::<wharf_images::Reference>() {
        causes.push(Cause::invalid(format!("{path}.image"), format_args!("{image:?}"), &error.to_string()));
    }
    one_of(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], causes);
    one_of(container, path, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], causes);
    resource_causes(container, path, causes);
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if !volumes.contains(&text(mount, "/name")) {
            causes.push(Cause {
                reason: "FieldValueNotFound",
                ..Cause::invalid(path.clone() + ".name", text(mount, "/name"), "no such volume")
            });
        }
        if !text(mount, "/mountPath").starts_with('/') {
            causes.push(Cause::invalid(
                path.clone() + ".mountPath",
                text(mount, "/mountPath"),
                "must be an absolute path",
            ));
        }
        sub_path_causes(mount, &path, causes);
        if mount.get("mountPropagation").is_some() {
            one_of(mount, &path, "mountPropagation", &["None", "HostToContainer", "Bidirectional"], causes);
        }
    }
    for (index, port) in items(container, "ports").iter().enumerate() {
        for field in ["containerPort", "hostPort"] {
            let number = integer(port, &format!("/{field}"));
            if port.get(field).is_some() && !(1..=65_535).contains(&number) {
                let path = format!("{path}.ports[{index}].{field}");
                causes.push(Cause::invalid(path, number, "must be between 1 and 65535"));
            }
        }
        one_of(port, &format!("{path}.ports[{index}]"), "protocol", &["TCP", "UDP", "SCTP"], causes);
    }
    environment_causes(container, path, causes);
}

pub(super) fn one_of(object: &Value, path: &str, field: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    let value = text(object, &format!("/{field}"));
    if !allowed.contains(&value) {
        let message = format!("{value:?}: supported values: {}", allowed.join(", "));
        causes.push(Cause::unsupported(format!("{path}.{field}"), &message));
    }
}

/// Whether the status of a pod says that a container of it runs.
pub fn has_running_container(pod: &Value) -> bool {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| items(&pod["status"], list));
    statuses.any(|status| status["state"].get("running").is_some())
}

/// The service account that a pod runs under.
pub fn service_account(pod: &Value) -> &str {
    match text(pod, "/spec/serviceAccountName") {
        "" => super::service_account::DEFAULT_NAME,
        name => name,
    }
}

/// The items of a list field, none where it is missing.
pub fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(spec: Value) -> Vec<String> {
        let mut spec = spec;
        spec_defaults(&mut spec);
        spec_causes(&spec, "spec").into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn a_plain_pod_is_valid() {
        assert_eq!(
            causes(json!({
                "containers": [{"name": "c", "image": "busybox:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}, "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            })),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name() {
        assert_eq!(
            causes(json!({
                "runtimeClassName": "other",
                "containers": [{"name": "c", "image": "busybox:1", "volumeDevices": [{"name": "d"}]}],
                "volumes": [{"name": "v", "nfs": {"server": "x", "path": "/"}}],
            })),
            ["spec.runtimeClassName", "spec.volumes[0].nfs", "spec.containers[0].volumeDevices"]
        );
    }

    #[test]
    fn wrong_values_are_named_with_their_path() {
        assert_eq!(causes(json!({"containers": []})), ["spec.containers"]);
        let wrong = json!({
            "restartPolicy": "Sometimes",
            "containers": [
                {"name": "A", "image": "UPPER CASE"},
                {"name": "b", "image": "b", "ports": [{"containerPort": 0}], "env": [{"name": "x=y"}],
                 "volumeMounts": [{"name": "none", "mountPath": "rel"}], "resources": {"limits": {"cpu": "lots"}}},
                {"name": "b", "image": "b"},
            ],
        });
        assert_eq!(
            causes(wrong),
            [
                "spec.containers[0].name",
                "spec.containers[0].image",
                "spec.containers[1].resources.limits.cpu",
                "spec.containers[1].volumeMounts[0].name",
                "spec.containers[1].volumeMounts[0].mountPath",
                "spec.containers[1].ports[0].containerPort",
                "spec.containers[1].env[0].name",
                "spec.containers[2].name",
                "spec.restartPolicy",
            ]
        );
    }

    #[test]
    fn tags_decide_the_pull_policy() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("host:5000/a", "Always"),
            ("host:5000/a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}
