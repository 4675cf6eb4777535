//! What is wrong with an object's labels, annotations, finalizers and owners, and with those of its pods' template.

use serde_json::{Map, Value};

use super::kinds::pod::items;
use super::kinds::{is_label_value, is_qualified_name, text};
use super::status::Cause;

/// Of all annotations of an object, keys and values; Kubernetes' own limit.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;
pub(super) const NAME_RULE: &str = "must be up to 63 of the characters A-Z, a-z, 0-9, '-', '_' and '.', begin and end with a letter or \
                         digit, and may have a DNS subdomain and '/' before it";
pub(super) const VALUE_RULE: &str = "a valid label must be an empty string or up to 63 of the characters A-Z, a-z, 0-9, '-', '_' and '.', \
                          and begin and end with a letter or digit";
/// Finalizers without a domain before them.
const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

/// Names each wrong field of `object`, except what was so in `current` already (null where there is none).
pub(super) fn causes(current: &Value, object: &Value) -> Vec<Cause> {
    let places = [("/metadata", "metadata"), ("/spec/template/metadata", "spec.template")];
    let mut causes = Vec::new();
    for (pointer, field) in places {
        let Some(metadata) = object.pointer(pointer).and_then(Value::as_object) else { continue };
        let before = current.pointer(pointer).unwrap_or(&Value::Null);
        let changed = |name: &str| metadata.get(name).filter(|value| before.get(name) != Some(value));
        if let Some(labels) = changed("labels").and_then(Value::as_object) {
            causes.extend(label_causes(labels, &format!("{field}.labels")));
        }
        if let Some(annotations) = changed("annotations").and_then(Value::as_object) {
            causes.extend(annotation_causes(annotations, &format!("{field}.annotations")));
        }
        if changed("finalizers").is_some() {
            causes.extend(finalizer_causes(&object["metadata"]));
        }
        if changed("ownerReferences").is_some() {
            causes.extend(owner_causes(&object["metadata"]));
        }
    }
    causes
}

/// What is wrong with labels, or with what has the form of labels.
pub(super) fn label_causes(labels: &Map<String, Value>, field: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in labels {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid(field, format_args!("{key:?}"), NAME_RULE));
        }
        if let Some(value) = value.as_str().filter(|value| !is_label_value(value)) {
            causes.push(Cause::invalid(field, format_args!("{value:?}"), VALUE_RULE));
        }
    }
    causes
}

fn annotation_causes(annotations: &Map<String, Value>, field: &str) -> Vec<Cause> {
    let wrong = annotations.keys().filter(|key| !is_qualified_name(&key.to_ascii_lowercase()));
    let mut causes: Vec<Cause> = wrong.map(|key| Cause::invalid(field, format_args!("{key:?}"), NAME_RULE)).collect();
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        causes.push(Cause::too_long(field, MAX_ANNOTATION_BYTES));
    }
    causes
}

fn finalizer_causes(metadata: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (index, finalizer) in items(metadata, "finalizers").iter().enumerate() {
        let (field, name) = (format!("metadata.finalizers[{index}]"), finalizer.as_str().unwrap_or_default());
        if !is_qualified_name(name) {
            causes.push(Cause::invalid(field, finalizer, NAME_RULE));
        } else if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(field, finalizer, message));
        }
    }
    causes
}

fn owner_causes(metadata: &Value) -> Vec<Cause> {
    let owners = items(metadata, "ownerReferences");
    let mut causes = Vec::new();
    for (index, owner) in owners.iter().enumerate() {
        for name in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{name}")).is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{name}");
                causes.push(Cause::invalid(field, "\"\"", "must not be empty"));
            }
        }
    }
    if owners.iter().filter(|owner| owner["controller"] == true).count() > 1 {
        let names: Vec<&str> = owners.iter().map(|owner| text(owner, "/name")).collect();
        let message = "only one reference can have controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", format_args!("{names:?}"), message));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(current: &Value, object: &Value) -> Vec<String> {
        causes(current, object).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn metadata_has_the_form_that_kubernetes_gives_it() {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
        let good = json!({
            "metadata": {"labels": {"a.b/c_d": "", "x": "A.b-1"}, "annotations": {"Example.COM/Key": "any text\n"},
                "finalizers": ["a.b/c", "orphan"], "ownerReferences": [owner]},
            "spec": {"template": {"metadata": {"labels": {"app": "web"}}}},
        });
        assert_eq!(causes(&Value::Null, &good), []);
        let long = "a".repeat(64);
        for (object, expected) in [
            (json!({"metadata": {"labels": {"a b": "x"}}}), "metadata.labels"),
            (json!({"metadata": {"labels": {"/a": "x"}}}), "metadata.labels"),
            (json!({"metadata": {"labels": {"a": "x y"}}}), "metadata.labels"),
            (json!({"metadata": {"labels": {"a": "-x"}}}), "metadata.labels"),
            (json!({"metadata": {"labels": {"a": long}}}), "metadata.labels"),
            (json!({"metadata": {"labels": {&long: ""}}}), "metadata.labels"),
            (json!({"metadata": {"annotations": {"": "x"}}}), "metadata.annotations"),
            (json!({"metadata": {"annotations": {"a": "x".repeat(256 << 10)}}}), "metadata.annotations"),
            (json!({"metadata": {"finalizers": ["a b/c"]}}), "metadata.finalizers[0]"),
            (json!({"metadata": {"finalizers": ["orphan", "mine"]}}), "metadata.finalizers[1]"),
            (
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
                "metadata.ownerReferences[0].uid",
            ),
            (json!({"spec": {"template": {"metadata": {"labels": {"a": "x y"}}}}}), "spec.template.labels"),
            (json!({"spec": {"template": {"metadata": {"annotations": {"a b": ""}}}}}), "spec.template.annotations"),
        ] {
            assert_eq!(fields(&Value::Null, &object), [expected], "{object}");
            // What is there already keeps nobody from changing the rest.
            assert_eq!(fields(&object, &object), [""; 0], "{object}");
        }
        let mut first = owner.clone();
        first["controller"] = true.into();
        let two = json!({"metadata": {"ownerReferences": [first, first]}});
        assert_eq!(fields(&Value::Null, &two), ["metadata.ownerReferences"]);
    }
}
