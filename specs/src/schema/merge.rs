//! How Kubernetes merges the fields of its types: the `x-kubernetes-list-type`, `list-map-keys` and `map-type` of its
//! API (for server-side apply) and its patch strategies and merge keys (for strategic merge patches). The two differ
//! in places, and so do the columns here.

use serde_json::{Map, Value};

/// What a list is to a server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    Atomic,
    /// Items are their own keys.
    Set,
    /// Items are told apart by these fields.
    Map(&'static [&'static str]),
}

/// How one field is merged.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// A map that a server-side apply takes as one value.
    pub atomic: bool,
    pub list: ListType,
    /// A strategic merge patch adds to this list: by merge key where it has one, else as a set of scalars.
    pub merges: bool,
    pub merge_key: Option<&'static str>,
    /// A strategic merge patch may name all keys that stay: members of a union exclude each other.
    pub retain_keys: bool,
}

impl Facts {
    pub(super) const PLAIN: Self =
        Self { atomic: false, list: ListType::Atomic, merges: false, merge_key: None, retain_keys: false };

    const fn keyed(keys: &'static [&'static str], merge_key: &'static str) -> Self {
        Self { list: ListType::Map(keys), merges: true, merge_key: Some(merge_key), ..Self::PLAIN }
    }

    /// As one value in an apply, by key in a strategic merge patch.
    const fn patched_by(merge_key: &'static str) -> Self {
        Self { merges: true, merge_key: Some(merge_key), ..Self::PLAIN }
    }

    /// By key in an apply, as one value in a strategic merge patch.
    const fn applied_by(keys: &'static [&'static str]) -> Self {
        Self { list: ListType::Map(keys), ..Self::PLAIN }
    }

    const fn retaining(self) -> Self {
        Self { retain_keys: true, ..self }
    }

    const SET: Self = Self { list: ListType::Set, ..Self::PLAIN };
    const MERGED_SET: Self = Self { list: ListType::Set, merges: true, ..Self::PLAIN };
    const ATOMIC_MAP: Self = Self { atomic: true, ..Self::PLAIN };
}

/// Value that a key field has where it is left out.
pub fn key_default(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}

/// Definition (what follows `io.k8s.`), field, rule.
const RULES: &[(&str, &str, Facts)] = &[
    ("api.apps.v1.DaemonSetStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.apps.v1.DeploymentSpec", "strategy", Facts::PLAIN.retaining()),
    ("api.apps.v1.DeploymentStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.apps.v1.ReplicaSetStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.batch.v1.JobStatus", "conditions", Facts::patched_by("type")),
    ("api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", Facts::SET),
    ("api.core.v1.Container", "env", Facts::keyed(&["name"], "name")),
    ("api.core.v1.Container", "ports", Facts::keyed(&["containerPort", "protocol"], "containerPort")),
    ("api.core.v1.Container", "volumeDevices", Facts::keyed(&["devicePath"], "devicePath")),
    ("api.core.v1.Container", "volumeMounts", Facts::keyed(&["mountPath"], "mountPath")),
    ("api.core.v1.ContainerStatus", "allocatedResourcesStatus", Facts::keyed(&["name"], "name")),
    ("api.core.v1.ContainerStatus", "volumeMounts", Facts::keyed(&["mountPath"], "mountPath")),
    ("api.core.v1.EphemeralContainer", "env", Facts::keyed(&["name"], "name")),
    ("api.core.v1.EphemeralContainer", "ports", Facts::keyed(&["containerPort", "protocol"], "containerPort")),
    ("api.core.v1.EphemeralContainer", "volumeDevices", Facts::keyed(&["devicePath"], "devicePath")),
    ("api.core.v1.EphemeralContainer", "volumeMounts", Facts::keyed(&["mountPath"], "mountPath")),
    ("api.core.v1.NamespaceStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.core.v1.NodeSpec", "podCIDRs", Facts::MERGED_SET),
    ("api.core.v1.NodeStatus", "addresses", Facts::keyed(&["type"], "type")),
    ("api.core.v1.NodeStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.core.v1.PersistentVolumeClaimStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.core.v1.PodSpec", "containers", Facts::keyed(&["name"], "name")),
    ("api.core.v1.PodSpec", "ephemeralContainers", Facts::keyed(&["name"], "name")),
    ("api.core.v1.PodSpec", "hostAliases", Facts::keyed(&["ip"], "ip")),
    ("api.core.v1.PodSpec", "imagePullSecrets", Facts::keyed(&["name"], "name")),
    ("api.core.v1.PodSpec", "initContainers", Facts::keyed(&["name"], "name")),
    ("api.core.v1.PodSpec", "nodeSelector", Facts::ATOMIC_MAP),
    ("api.core.v1.PodSpec", "resourceClaims", Facts::keyed(&["name"], "name").retaining()),
    ("api.core.v1.PodSpec", "schedulingGates", Facts::keyed(&["name"], "name")),
    (
        "api.core.v1.PodSpec",
        "topologySpreadConstraints",
        Facts::keyed(&["topologyKey", "whenUnsatisfiable"], "topologyKey"),
    ),
    ("api.core.v1.PodSpec", "volumes", Facts::keyed(&["name"], "name").retaining()),
    ("api.core.v1.PodStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.core.v1.PodStatus", "hostIPs", Facts::patched_by("ip")),
    ("api.core.v1.PodStatus", "podIPs", Facts::keyed(&["ip"], "ip")),
    ("api.core.v1.PodStatus", "resourceClaimStatuses", Facts::keyed(&["name"], "name").retaining()),
    ("api.core.v1.ResourceRequirements", "claims", Facts::applied_by(&["name"])),
    ("api.core.v1.ServiceAccount", "secrets", Facts::keyed(&["name"], "name")),
    ("api.core.v1.ServiceSpec", "ports", Facts::keyed(&["port", "protocol"], "port")),
    ("api.core.v1.ServiceSpec", "selector", Facts::ATOMIC_MAP),
    ("api.core.v1.ServiceStatus", "conditions", Facts::keyed(&["type"], "type")),
    ("api.discovery.v1.Endpoint", "addresses", Facts::SET),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", Facts::MERGED_SET),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", Facts::keyed(&["uid"], "uid")),
];

/// Structs that a server-side apply takes as one value.
const ATOMIC_TYPES: &[&str] = &[
    "api.core.v1.ConfigMapKeySelector",
    "api.core.v1.EndpointAddress",
    "api.core.v1.EndpointPort",
    "api.core.v1.FileKeySelector",
    "api.core.v1.LocalObjectReference",
    "api.core.v1.NodeSelector",
    "api.core.v1.NodeSelectorTerm",
    "api.core.v1.ObjectFieldSelector",
    "api.core.v1.ObjectReference",
    "api.core.v1.ResourceFieldSelector",
    "api.core.v1.SecretKeySelector",
    "api.core.v1.SecretReference",
    "api.core.v1.TopologySelectorTerm",
    "api.core.v1.TypedLocalObjectReference",
    "api.discovery.v1.EndpointPort",
    "api.rbac.v1.RoleRef",
    "api.rbac.v1.Subject",
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
    "apimachinery.pkg.apis.meta.v1.OwnerReference",
];

fn short(definition: &str) -> &str {
    definition.strip_prefix("io.k8s.").unwrap_or(definition)
}

pub(super) fn facts(definition: &str, field: &str) -> &'static Facts {
    let definition = short(definition);
    let rule = RULES.iter().find(|(of, name, _)| *of == definition && *name == field);
    rule.map_or(&Facts::PLAIN, |(_, _, facts)| facts)
}

pub(super) fn is_atomic(definition: &str) -> bool {
    ATOMIC_TYPES.contains(&short(definition))
}

/// Writes the rules into OpenAPI definitions, as the `x-kubernetes` extensions that clients look for.
pub(super) fn annotate(definitions: &mut Map<String, Value>) {
    for (definition, field, facts) in RULES {
        let place = definitions.get_mut(&format!("io.k8s.{definition}")).and_then(|d| d["properties"].get_mut(field));
        let Some(place) = place else { continue };
        match facts.list {
            _ if place.get("items").is_none() => {}
            ListType::Atomic => place["x-kubernetes-list-type"] = "atomic".into(),
            ListType::Set => place["x-kubernetes-list-type"] = "set".into(),
            ListType::Map(keys) => {
                place["x-kubernetes-list-type"] = "map".into();
                place["x-kubernetes-list-map-keys"] = keys.to_vec().into();
            }
        }
        if facts.atomic {
            place["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(key) = facts.merge_key {
            place["x-kubernetes-patch-merge-key"] = key.into();
        }
        let strategies: Vec<&str> = [(facts.merges, "merge"), (facts.retain_keys, "retainKeys")]
            .into_iter()
            .filter_map(|(is_set, name)| is_set.then_some(name))
            .collect();
        if !strategies.is_empty() {
            place["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
    }
    for name in ATOMIC_TYPES {
        if let Some(definition) = definitions.get_mut(&format!("io.k8s.{name}")) {
            definition["x-kubernetes-map-type"] = "atomic".into();
        }
    }
}

#[cfg(test)]
pub(super) fn places() -> impl Iterator<Item = (String, &'static str)> {
    RULES.iter().map(|(definition, field, _)| (format!("io.k8s.{definition}"), *field))
}

#[cfg(test)]
pub(super) fn atomic_types() -> impl Iterator<Item = String> {
    ATOMIC_TYPES.iter().map(|definition| format!("io.k8s.{definition}"))
}
