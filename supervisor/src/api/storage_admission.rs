//! What claims and volumes get when they are created: a class, and finalizers that keep them while they are used.

use serde_json::{Value, json};

use super::kinds::{Kind, persistent_volume, persistent_volume_claim, pod, storage_class, text};
use super::objects::Objects;

impl Objects {
    /// Fills in what the kind cannot know by itself.
    pub(super) fn admit_storage(&self, kind: &Kind, object: &mut Value) {
        if std::ptr::eq(kind, &persistent_volume::KIND) {
            protect(object, persistent_volume::PROTECTION);
        }
        if !std::ptr::eq(kind, &persistent_volume_claim::KIND) {
            return;
        }
        protect(object, persistent_volume_claim::PROTECTION);
        // The empty name is the wish for a volume without a class.
        let names_none = object.pointer("/spec/storageClassName").is_none_or(Value::is_null);
        if let Some(class) = self.default_class().filter(|_| names_none && object["spec"].is_object()) {
            object["spec"]["storageClassName"] = class.into();
        }
    }

    /// The newest of the classes that are marked.
    fn default_class(&self) -> Option<String> {
        let (classes, _) = self.list(&storage_class::KIND, None);
        let marked = classes.iter().filter(|class| storage_class::is_default(class));
        let key = |class: &&std::sync::Arc<Value>| {
            // Of the same second, the first by name.
            (
                text(class, "/metadata/creationTimestamp").to_owned(),
                std::cmp::Reverse(text(class, "/metadata/name").to_owned()),
            )
        };
        marked.max_by_key(key).map(|class| text(class, "/metadata/name").to_owned())
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    if pod::items(&object["metadata"], "finalizers").iter().any(|known| known == finalizer) {
        return;
    }
    match object["metadata"]["finalizers"].as_array_mut() {
        Some(finalizers) => finalizers.push(finalizer.into()),
        None => object["metadata"]["finalizers"] = json!([finalizer]),
    }
}
