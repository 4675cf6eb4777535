//! ConfigMaps, Secrets and the pod's own fields, as containers get them: values by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::resource_field::Capacity;
use crate::api::kinds::{Kind, config_map, secret};
use crate::api::objects::Objects;
use crate::api::status::ApiError;
use crate::api::tls::PodApi;

/// What a pod's containers may name of the pod and its node.
pub(super) struct Facts<'a> {
    pub(super) node_name: &'a str,
    /// The first is the one that is meant where there can be but one.
    pub(super) pod_ips: Vec<IpAddr>,
    pub(super) host_ips: &'a [IpAddr],
    pub(super) capacity: Capacity,
}

impl Facts<'_> {
    pub(super) fn pod_ip(&self) -> Option<IpAddr> {
        self.pod_ips.first().copied()
    }
}

/// Where a pod's values come from.
pub(super) struct Sources<'a> {
    pub(super) objects: &'a Objects,
    pub(super) namespace: &'a str,
    /// Whose tokens the pod is given.
    pub(super) api: Option<&'a PodApi>,
}

/// Values by key.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

impl Sources<'_> {
    /// The data of a ConfigMap; `None` where it is missing and may be.
    pub(super) fn config_map(&self, name: &str, optional: bool) -> Result<Option<Data>, String> {
        self.data(&config_map::KIND, name, optional)
    }

    /// The data of a Secret; `None` where it is missing and may be.
    pub(super) fn secret(&self, name: &str, optional: bool) -> Result<Option<Data>, String> {
        self.data(&secret::KIND, name, optional)
    }

    fn data(&self, kind: &Kind, name: &str, optional: bool) -> Result<Option<Data>, String> {
        let object = match self.objects.get(kind, self.namespace, name) {
            Ok(object) => object,
            Err(ApiError::NotFound { .. }) if optional => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let is_text = |field: &str| field == "data" && kind.kind == "ConfigMap";
        let mut data = Data::new();
        for field in ["data", "binaryData"] {
            for (key, value) in object.get(field).and_then(Value::as_object).into_iter().flatten() {
                let value = value.as_str().unwrap_or_default();
                let bytes = match is_text(field) {
                    true => value.as_bytes().to_vec(),
                    // Its base64 was read when it was written.
                    false => STANDARD.decode(value).map_err(|error| format!("{name}: key {key}: {error}"))?,
                };
                data.insert(key.clone(), bytes);
            }
        }
        Ok(Some(data))
    }
}

/// The value of a field of the pod that a container may name; `None` for one that it may not.
pub(super) fn pod_field(pod: &Pod, path: &str, facts: &Facts<'_>) -> Option<String> {
    let listed = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |all: &[IpAddr]| all.first().map(IpAddr::to_string).unwrap_or_default();
    let metadata = &pod.metadata;
    let quoted_key = |name: &str| path.strip_prefix(name)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = quoted_key("metadata.labels") {
        return Some(metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = quoted_key("metadata.annotations") {
        return Some(metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.into(),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => listed(&facts.pod_ips),
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => listed(facts.host_ips),
        _ => return None,
    })
}

/// Labels or annotations as a file has them: `key="value"`, a line each.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}\n")).collect()
}
