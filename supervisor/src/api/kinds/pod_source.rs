//! Where a pod's values come from: the sources of its volumes and of its containers' environments.

use serde_json::Value;

use super::config_map::is_data_key;
use super::persistent_volume_claim::spec_causes as claim_causes;
use super::pod::{items, one_of};
use super::{integer, is_dns_label, is_dns_subdomain, text};
use crate::api::access::service_account_token::lifetime_causes;
use crate::api::quantity;
use crate::api::status::Cause;

/// Fields of its pod that a container's environment can name.
const ENVIRONMENT_FIELDS: &[&str] = &[
    "metadata.annotations['KEY']",
    "metadata.labels['KEY']",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Likewise a file.
const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.annotations['KEY']",
    "metadata.labels",
    "metadata.labels['KEY']",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn is_field(path: &str, allowed: &[&str]) -> bool {
    allowed.iter().any(|field| match field.split_once("KEY") {
        None => *field == path,
        Some((before, after)) => {
            let key = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            key.is_some_and(|key| !key.is_empty() && !key.contains('\''))
        }
    })
}

pub(super) fn environment_causes(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, variable) in items(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, "/name");
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = "must be a name without =";
            causes.push(Cause::invalid(format!("{path}.name"), format_args!("{name:?}"), message));
        }
        let Some(source) = variable.get("valueFrom").and_then(Value::as_object) else { continue };
        let path = format!("{path}.valueFrom");
        if !text(variable, "/value").is_empty() {
            causes.push(Cause::invalid(&path, "\"\"", "may not be specified when `value` is not empty"));
        }
        if source.len() != 1 {
            causes.push(Cause::invalid(&path, source.len(), "must specify exactly one source"));
        }
        for (name, value) in source {
            let field = text(value, "/fieldPath");
            if name == "fieldRef" && !is_field(field, ENVIRONMENT_FIELDS) {
                let message = format!("{field:?}: one of {}", ENVIRONMENT_FIELDS.join(", "));
                causes.push(Cause::unsupported(format!("{path}.fieldRef.fieldPath"), &message));
            }
            if name == "resourceFieldRef" {
                resource_causes(value, &format!("{path}.{name}"), causes);
            }
            if name.ends_with("KeyRef") {
                required(value, &format!("{path}.{name}"), &["name", "key"], causes);
            }
        }
    }
    for (index, from) in items(container, "envFrom").iter().enumerate() {
        let path = format!("{path}.envFrom[{index}]");
        let sources = ["configMapRef", "secretRef"];
        let given: Vec<&str> = sources.into_iter().filter(|name| from.get(*name).is_some()).collect();
        match given.as_slice() {
            [one] => required(&from[*one], &format!("{path}.{one}"), &["name"], causes),
            _ => causes.push(Cause::invalid(&path, given.len(), "must specify one of: `configMapRef` or `secretRef`")),
        }
        if text(from, "/prefix").contains(['=', '\0']) {
            let prefix = text(from, "/prefix");
            causes.push(Cause::invalid(format!("{path}.prefix"), format_args!("{prefix:?}"), "must be without ="));
        }
    }
}

/// Resources of a container that it can name, and their divisors.
fn resource_causes(selector: &Value, path: &str, causes: &mut Vec<Cause>) {
    const CPU: [&str; 2] = ["1m", "1"];
    const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let resource = text(selector, "/resource");
    let divisors: &[&str] = match resource {
        "" => return causes.push(Cause::required(format!("{path}.resource"), "a request or limit of a container")),
        "limits.cpu" | "requests.cpu" => &CPU,
        "limits.memory" | "requests.memory" | "limits.ephemeral-storage" | "requests.ephemeral-storage" => &BYTES,
        _ => {
            let known = "limits.cpu, limits.ephemeral-storage, limits.memory, requests.cpu, requests.ephemeral-storage, requests.memory";
            let message = format!("{resource:?}: supported values: {known}");
            return causes.push(Cause::unsupported(format!("{path}.resource"), &message));
        }
    };
    let divisor = text(selector, "/divisor");
    if !matches!(divisor, "" | "0") && !divisors.contains(&divisor) {
        let (_, kind) = resource.split_once('.').unwrap_or_default();
        let message = format!("only divisor's values {} are supported with the {kind} resource", divisors.join(", "));
        causes.push(Cause::invalid(format!("{path}.divisor"), format_args!("{divisor:?}"), &message));
    }
}

fn required(value: &Value, path: &str, fields: &[&str], causes: &mut Vec<Cause>) {
    for field in fields.iter().filter(|field| text(value, &format!("/{field}")).is_empty()) {
        causes.push(Cause::required(format!("{path}.{field}"), "what is referred to"));
    }
}

pub(super) fn volume_causes(volume: &Value, path: &str, causes: &mut Vec<Cause>) {
    let name = text(volume, "/name");
    if !is_dns_label(name) {
        let message = "must be a lowercase RFC 1123 label";
        causes.push(Cause::invalid(format!("{path}.name"), format_args!("{name:?}"), message));
    }
    const SOURCES: [&str; 9] = [
        "configMap",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "hostPath",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let given: Vec<&str> =
        SOURCES.into_iter().filter(|source| volume.get(*source).is_some_and(|value| !value.is_null())).collect();
    let source = match given.as_slice() {
        // Another one is named as not supported.
        [] if volume.as_object().is_some_and(|fields| fields.len() > 1) => return,
        [] => {
            let message = format!("must specify a volume type: one of {}", SOURCES.join(", "));
            causes.push(Cause::required(path, &message));
            return;
        }
        [one] => *one,
        _ => {
            causes.push(Cause::forbidden(path, "may not specify more than 1 volume type"));
            return;
        }
    };
    let (value, path) = (&volume[source], format!("{path}.{source}"));
    match source {
        "emptyDir" => {
            let in_memory = text(value, "/medium") == "Memory";
            if !in_memory && !text(value, "/medium").is_empty() {
                let message = format!("{:?}: supported values: \"\", \"Memory\"", text(value, "/medium"));
                causes.push(Cause::unsupported(format!("{path}.medium"), &message));
            }
            let limit = text(value, "/sizeLimit");
            let path = format!("{path}.sizeLimit");
            match quantity::parse(limit) {
                _ if value.get("sizeLimit").is_none_or(Value::is_null) => {}
                Some(size) if size < 0.0 => {
                    causes.push(Cause::invalid(path, limit, "must be greater than or equal to 0"));
                }
                Some(_) => {}
                None => causes.push(Cause::invalid(path, format_args!("{limit:?}"), "must be a quantity such as 64Mi")),
            }
        }
        "ephemeral" => match value.pointer("/volumeClaimTemplate/spec") {
            Some(spec) => causes.extend(claim_causes(spec, &format!("{path}.volumeClaimTemplate.spec"))),
            None => causes.push(Cause::required(format!("{path}.volumeClaimTemplate"), "the claim to make")),
        },
        "hostPath" => host_path_causes(value, &path, causes),
        "image" => {
            let reference = text(value, "/reference");
            if reference.is_empty() {
                causes.push(Cause::required(format!("{path}.reference"), "the image to mount"));
            } else if let Err(error) = reference.parse::<wharf_images::Reference>() {
                let path = format!("{path}.reference");
                causes.push(Cause::invalid(path, format_args!("{reference:?}"), &error.to_string()));
            }
            if value.get("pullPolicy").is_some() {
                one_of(value, &path, "pullPolicy", &["Always", "IfNotPresent", "Never"], causes);
            }
        }
        "persistentVolumeClaim" => {
            let claim = text(value, "/claimName");
            if claim.is_empty() {
                causes.push(Cause::required(format!("{path}.claimName"), "the claim in the pod's namespace"));
            } else if !is_dns_subdomain(claim) {
                let message = "must be a lowercase RFC 1123 subdomain";
                causes.push(Cause::invalid(format!("{path}.claimName"), format_args!("{claim:?}"), message));
            }
        }
        "projected" => {
            mode_causes(value, &path, "defaultMode", causes);
            for (index, source) in items(value, "sources").iter().enumerate() {
                let path = format!("{path}.sources[{index}]");
                for (name, value) in source.as_object().into_iter().flatten() {
                    projection_causes(name, value, &format!("{path}.{name}"), causes);
                }
            }
        }
        _ => projection_causes(source, value, &path, causes),
    }
}

/// A part of a volume, named as it is or by variables.
pub(super) fn sub_path_causes(mount: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["subPath", "subPathExpr"] {
        let part = text(mount, &format!("/{field}"));
        let path = format!("{path}.{field}");
        if part.starts_with('/') {
            causes.push(Cause::invalid(path, format_args!("{part:?}"), "must be a relative path"));
        } else if part.split('/').any(|step| step == "..") {
            causes.push(Cause::invalid(path, format_args!("{part:?}"), "must not contain '..'"));
        } else if field == "subPathExpr" && !part.is_empty() && !text(mount, "/subPath").is_empty() {
            let message = "subPathExpr and subPath are mutually exclusive";
            causes.push(Cause::invalid(path, format_args!("{part:?}"), message));
        }
    }
}

pub(super) fn host_path_causes(host: &Value, path: &str, causes: &mut Vec<Cause>) {
    let host_path = text(host, "/path");
    if !host_path.starts_with('/') || host_path.split('/').any(|part| part == "..") {
        let message = "must be an absolute path without ..";
        causes.push(Cause::invalid(format!("{path}.path"), format_args!("{host_path:?}"), message));
    }
    let types = ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    if host.get("type").is_some_and(|value| !value.is_null()) {
        one_of(host, path, "type", &types, causes);
    }
}

/// A ConfigMap, a Secret or the pod's fields as files.
fn projection_causes(source: &str, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if source == "serviceAccountToken" {
        path_causes(text(value, "/path"), format!("{path}.path"), causes);
        if let Some(seconds) = value.get("expirationSeconds").and_then(Value::as_i64) {
            causes.extend(lifetime_causes(seconds, &format!("{path}.expirationSeconds")));
        }
        return;
    }
    mode_causes(value, path, "defaultMode", causes);
    if source != "downwardAPI" && text(value, "/name").is_empty() && text(value, "/secretName").is_empty() {
        let field = if source == "secret" && !path.contains(".projected.") { "secretName" } else { "name" };
        causes.push(Cause::required(format!("{path}.{field}"), "the object whose keys become files"));
    }
    for (index, item) in items(value, "items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        mode_causes(item, &path, "mode", causes);
        path_causes(text(item, "/path"), format!("{path}.path"), causes);
        match source {
            "downwardAPI" => {
                let field = text(item, "/fieldRef/fieldPath");
                let resource = item.get("resourceFieldRef").filter(|resource| !resource.is_null());
                match (resource, item.get("fieldRef").filter(|field| !field.is_null())) {
                    (Some(_), Some(_)) => {
                        let message = "fieldRef and resourceFieldRef can not be specified simultaneously";
                        causes.push(Cause::invalid(&path, "resource", message));
                    }
                    (Some(resource), None) => {
                        let path = format!("{path}.resourceFieldRef");
                        if text(resource, "/containerName").is_empty() {
                            causes.push(Cause::required(format!("{path}.containerName"), "whose resource it is"));
                        }
                        resource_causes(resource, &path, causes);
                    }
                    (None, _) => {}
                }
                if resource.is_none() && !is_field(field, FILE_FIELDS) {
                    let message = format!("{field:?}: one of {}", FILE_FIELDS.join(", "));
                    causes.push(Cause::unsupported(format!("{path}.fieldRef.fieldPath"), &message));
                }
            }
            _ if !is_data_key(text(item, "/key")) => {
                let message = "must be a key of the object";
                let key = text(item, "/key");
                causes.push(Cause::invalid(format!("{path}.key"), format_args!("{key:?}"), message));
            }
            _ => {}
        }
    }
}

/// Where a file is to be in its volume.
fn path_causes(target: &str, path: String, causes: &mut Vec<Cause>) {
    let is_inside = !target.is_empty()
        && !target.starts_with("..")
        && target.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !target.contains('\0');
    if !is_inside {
        let message = "must be a relative path that stays in the volume and does not start with \"..\"";
        causes.push(Cause::invalid(path, format_args!("{target:?}"), message));
    }
}

fn mode_causes(value: &Value, path: &str, field: &str, causes: &mut Vec<Cause>) {
    let mode = integer(value, &format!("/{field}"));
    if !(0..=0o777).contains(&mode) {
        let message = "must be a number between 0 and 0777 (octal), both inclusive";
        causes.push(Cause::invalid(format!("{path}.{field}"), mode, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_sources_are_named_with_their_path() {
        for (volume, field) in [
            (json!({"configMap": {}}), "v.configMap.name"),
            (json!({"secret": {}}), "v.secret.secretName"),
            (json!({"configMap": {"name": "x", "defaultMode": 512}}), "v.configMap.defaultMode"),
            (json!({"configMap": {"name": "x", "items": [{"key": "a", "path": "../a"}]}}), "v.configMap.items[0].path"),
            (json!({"configMap": {"name": "x", "items": [{"key": "a", "path": "/a"}]}}), "v.configMap.items[0].path"),
            (json!({"configMap": {"name": "x", "items": [{"key": "a/b", "path": "a"}]}}), "v.configMap.items[0].key"),
            (json!({"emptyDir": {"medium": "HugePages"}}), "v.emptyDir.medium"),
            (json!({"emptyDir": {"sizeLimit": "-1Mi"}}), "v.emptyDir.sizeLimit"),
            (json!({"emptyDir": {"medium": "Memory", "sizeLimit": "lots"}}), "v.emptyDir.sizeLimit"),
            (json!({"image": {}}), "v.image.reference"),
            (json!({"persistentVolumeClaim": {}}), "v.persistentVolumeClaim.claimName"),
            (json!({"persistentVolumeClaim": {"claimName": "A b"}}), "v.persistentVolumeClaim.claimName"),
            (json!({"ephemeral": {}}), "v.ephemeral.volumeClaimTemplate"),
            (json!({"image": {"reference": "a:1", "pullPolicy": "Maybe"}}), "v.image.pullPolicy"),
            (json!({"projected": {"sources": [{"secret": {}}]}}), "v.projected.sources[0].secret.name"),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "../token"}}]}}),
                "v.projected.sources[0].serviceAccountToken.path",
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "a", "expirationSeconds": 599}}]}}),
                "v.projected.sources[0].serviceAccountToken.expirationSeconds",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
                "v.downwardAPI.items[0].fieldRef.fieldPath",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
                "v.downwardAPI.items[0].resourceFieldRef.containerName",
            ),
            (json!({"emptyDir": {}, "secret": {"secretName": "x"}}), "v"),
            (json!({}), "v"),
        ] {
            let mut volume = volume;
            volume["name"] = "name".into();
            let mut causes = Vec::new();
            volume_causes(&volume, "v", &mut causes);
            let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
            assert_eq!(fields, [field], "{volume}");
        }
    }

    #[test]
    fn wrong_variables_are_named_with_their_path() {
        for (container, field) in [
            (json!({"env": [{"name": "a=b"}]}), "c.env[0].name"),
            (
                json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
                "c.env[0].valueFrom.fieldRef.fieldPath",
            ),
            (
                json!({"env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}),
                "c.env[0].valueFrom.secretKeyRef.key",
            ),
            (
                json!({"env": [{"name": "a", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
                "c.env[0].valueFrom",
            ),
            (
                json!({"env": [{"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.disk"}}}]}),
                "c.env[0].valueFrom.resourceFieldRef.resource",
            ),
            (
                json!({"env": [{"name": "a",
                    "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1Mi"}}}]}),
                "c.env[0].valueFrom.resourceFieldRef.divisor",
            ),
            (json!({"envFrom": [{}]}), "c.envFrom[0]"),
            (json!({"envFrom": [{"secretRef": {}}]}), "c.envFrom[0].secretRef.name"),
        ] {
            let mut causes = Vec::new();
            environment_causes(&container, "c", &mut causes);
            let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
            assert_eq!(fields, [field], "{container}");
        }
    }
}
