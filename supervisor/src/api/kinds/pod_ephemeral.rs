//! Ephemeral containers: added to a pod that runs, to look into it; never changed and never removed.

use serde_json::Value;

use super::pod::items;
use super::text;
use crate::api::status::Cause;

/// Fields that a container has and an ephemeral one has not.
const FORBIDDEN: [&str; 8] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "startupProbe",
];

/// What is wrong with the ephemeral container at `path` beyond what may be wrong with any.
pub(super) fn ephemeral_causes(spec: &Value, container: &Value, path: &str, causes: &mut Vec<Cause>) {
    const MESSAGE: &str = "cannot be set for an Ephemeral Container";
    // Clients write what is empty too.
    let is_set = |value: &Value, field: &str| match value.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    };
    for field in FORBIDDEN.iter().filter(|field| is_set(container, field)) {
        causes.push(Cause::forbidden(format!("{path}.{field}"), MESSAGE));
    }
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"].iter().filter(|field| is_set(mount, field)) {
            causes.push(Cause::forbidden(format!("{path}.volumeMounts[{index}].{field}"), MESSAGE));
        }
    }
    let target = text(container, "/targetContainerName");
    let mut others = items(spec, "containers").iter().chain(items(spec, "initContainers"));
    if !target.is_empty() && !others.any(|other| text(other, "/name") == target) {
        let field = format!("{path}.targetContainerName");
        causes.push(Cause { reason: "FieldValueNotFound", field, message: format!("Not found: {target:?}") });
    }
}

/// What may not become of the ephemeral containers that a pod has.
pub(in crate::api) fn update_causes(old: &Value, new: &Value) -> Vec<Cause> {
    const LIST: &str = "ephemeralContainers";
    let refusal = |container: &Value| {
        let name = text(container, "/name");
        let done = match items(&new["spec"], LIST).iter().find(|other| text(other, "/name") == name) {
            None => "removed",
            Some(other) if other != container => "changed",
            Some(_) => return None,
        };
        let message = format!("existing ephemeral containers {name:?} may not be {done}");
        Some(Cause::forbidden(format!("spec.{LIST}"), &message))
    };
    items(&old["spec"], LIST).iter().filter_map(refusal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_there_stays_as_it_is() {
        let with = |containers: Value| json!({"spec": {"ephemeralContainers": containers}});
        let old = with(json!([{"name": "a", "image": "i"}]));
        let messages = |new: Value| -> Vec<String> {
            update_causes(&old, &with(new)).into_iter().map(|cause| cause.message).collect()
        };
        assert!(messages(json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}])).is_empty());
        let removed = "Forbidden: existing ephemeral containers \"a\" may not be removed";
        assert_eq!(messages(json!([{"name": "b", "image": "i"}])), [removed]);
        let changed = "Forbidden: existing ephemeral containers \"a\" may not be changed";
        assert_eq!(messages(json!([{"name": "a", "image": "j"}])), [changed]);
    }

    #[test]
    fn what_an_ephemeral_container_cannot_have_is_named() {
        let spec = json!({"containers": [{"name": "main"}]});
        let container = json!({"name": "d", "ports": [{}], "resources": {}, "targetContainerName": "other", "lifecycle": null,
            "volumeMounts": [{"name": "v", "subPath": "x"}]});
        let mut causes = Vec::new();
        ephemeral_causes(&spec, &container, "e", &mut causes);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["e.ports", "e.volumeMounts[0].subPath", "e.targetContainerName"]);
    }
}
