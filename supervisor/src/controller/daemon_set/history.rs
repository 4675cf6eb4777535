//! The history of a DaemonSet: each version of its template is a ControllerRevision, which `kubectl rollout undo` applies.

use std::sync::Arc;

use serde_json::{Value, json};

use super::HASH_LABEL;
use crate::api::kinds::{controller_revision, daemon_set, integer, text};
use crate::api::objects::{Half, Objects, Propagation, is_owned_by, owner_reference};
use crate::api::status::ApiError;
use crate::controller::deployment::revision::copied_annotations;

/// Has the present template be the newest revision, and no more old ones be kept than the set says. Those in `used`, by
/// hash, have pods and stay.
pub(super) async fn keep(objects: &Objects, set: &Value, hash: &str, used: &[String]) -> Result<(), ApiError> {
    let namespace = text(set, "/metadata/namespace");
    let (mut revisions, _) = objects.list(&controller_revision::KIND, Some(namespace));
    revisions.retain(|revision| is_owned_by(revision, text(set, "/metadata/uid")));
    revisions.sort_by_key(|revision| integer(revision, "/revision"));
    let last = revisions.last().map_or(0, |revision| integer(revision, "/revision"));
    let annotations = Value::Object(copied_annotations(set));
    match revisions.iter().find(|revision| is_of(revision, hash)) {
        None => {
            objects
                .create(&controller_revision::KIND, namespace, revision_of(set, hash, last + 1, annotations))
                .await?;
        }
        Some(known) => {
            // One that is applied again is the newest.
            let number = if integer(known, "/revision") == last { last } else { last + 1 };
            if integer(known, "/revision") != number || known["metadata"]["annotations"] != annotations {
                let change = move |mut revision: Value| {
                    revision["revision"] = number.into();
                    revision["metadata"]["annotations"] = annotations;
                    Ok(revision)
                };
                let name = text(known, "/metadata/name");
                objects.update(&controller_revision::KIND, namespace, name, Half::Desired, change).await?;
            }
        }
    }
    for old in surplus(set, &revisions, hash, used) {
        let name = text(old, "/metadata/name");
        match objects.delete(&controller_revision::KIND, namespace, name, Propagation::Background, None).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_of(revision: &Value, hash: &str) -> bool {
    revision["metadata"]["labels"][HASH_LABEL] == hash
}

fn revision_of(set: &Value, hash: &str, number: i64, annotations: Value) -> Value {
    let mut labels = set.pointer("/spec/template/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    labels[HASH_LABEL] = hash.into();
    let mut template = set["spec"]["template"].clone();
    // The patch that brings the version back takes nothing over from the one that it finds.
    template["$patch"] = "replace".into();
    json!({
        "metadata": {
            "name": format!("{}-{hash}", text(set, "/metadata/name")),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner_reference(&daemon_set::KIND, set)],
        },
        "revision": number,
        "data": {"spec": {"template": template}},
    })
}

/// The oldest of those that nothing uses; `revisions` begin with the oldest.
fn surplus<'a>(set: &Value, revisions: &'a [Arc<Value>], hash: &str, used: &[String]) -> Vec<&'a Arc<Value>> {
    let kept = usize::try_from(integer(set, "/spec/revisionHistoryLimit")).unwrap_or(0);
    let is_used = |revision: &Arc<Value>| is_of(revision, hash) || used.iter().any(|hash| is_of(revision, hash));
    let unused: Vec<&Arc<Value>> = revisions.iter().filter(|revision| !is_used(revision)).collect();
    let count = unused.len().saturating_sub(kept);
    unused.into_iter().take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_patch_that_brings_its_template_back() {
        let set = json!({"metadata": {"name": "agent", "uid": "u"}, "spec": {"template": {
            "metadata": {"labels": {"app": "agent"}}, "spec": {"containers": []}}}});
        let revision = revision_of(&set, "abc", 3, json!({}));
        assert_eq!(text(&revision, "/metadata/name"), "agent-abc");
        assert_eq!(revision["metadata"]["labels"], json!({"app": "agent", HASH_LABEL: "abc"}));
        assert_eq!(text(&revision, "/data/spec/template/$patch"), "replace");
        assert!(is_owned_by(&revision, "u") && is_of(&revision, "abc"));
    }

    #[test]
    fn old_revisions_go_and_those_in_use_stay() {
        let revision = |hash: &str| Arc::new(json!({"metadata": {"labels": {HASH_LABEL: hash}}}));
        let all = ["a", "b", "c", "d", "e"].map(revision);
        let hashes = |limit: i64| {
            let set = json!({"spec": {"revisionHistoryLimit": limit}});
            let surplus = surplus(&set, &all, "d", &["a".to_owned()]);
            surplus.iter().map(|r| r["metadata"]["labels"][HASH_LABEL].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(hashes(1), ["b", "c"]);
        assert_eq!(hashes(0), ["b", "c", "e"]);
        assert_eq!(hashes(10), Vec::<String>::new());
    }
}
