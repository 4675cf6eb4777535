//! The history of a Deployment: each version of its template is a ReplicaSet with a revision.

use serde_json::{Map, Value};

use crate::api::kinds::{deployment, replica_set, text};
use crate::api::objects::{Half, Objects};
use crate::api::status::ApiError;
use crate::controller::manifest_folder::FILE_ANNOTATION;

/// Of a ReplicaSet, its revision; of a Deployment, that of its template.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations of a Deployment that say nothing about a version of it.
const NOT_COPIED: &[&str] = &[
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
    "kubectl.kubernetes.io/last-applied-configuration",
    // The file has a Deployment and no ReplicaSet, which would go as a part that was taken out.
    FILE_ANNOTATION,
];

/// 0 where it has none.
pub(super) fn of(object: &Value) -> i64 {
    annotation(object, REVISION).parse().unwrap_or(0)
}

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["annotations"].get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What a version of the Deployment is annotated with: what `kubectl rollout history` shows, and `undo` brings back.
pub(super) fn annotations(deployment: &Value, revision: i64) -> Map<String, Value> {
    let mut copied = copied_annotations(deployment);
    copied.insert(REVISION.into(), revision.to_string().into());
    copied
}

/// The annotations of an object that say something of its present version.
pub(in crate::controller) fn copied_annotations(object: &Value) -> Map<String, Value> {
    let own = object.pointer("/metadata/annotations").and_then(Value::as_object);
    let own = own.into_iter().flatten().filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()));
    own.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Has the present version and its Deployment say which revision it is.
pub(super) async fn tell(objects: &Objects, deployment: &Value, set: &Value, revision: i64) -> Result<(), ApiError> {
    let namespace = text(deployment, "/metadata/namespace");
    let wanted = annotations(deployment, revision);
    if wanted.iter().any(|(name, value)| annotation(set, name) != value) {
        let change = move |mut set: Value| {
            for (name, value) in wanted {
                set["metadata"]["annotations"][name] = value;
            }
            Ok(set)
        };
        objects.update(&replica_set::KIND, namespace, text(set, "/metadata/name"), Half::Desired, change).await?;
    }
    if of(deployment) != revision {
        let change = move |mut deployment: Value| {
            deployment["metadata"]["annotations"][REVISION] = revision.to_string().into();
            Ok(deployment)
        };
        let name = text(deployment, "/metadata/name");
        objects.update(&deployment::KIND, namespace, name, Half::Desired, change).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_version_has_the_annotations_of_its_deployment() {
        let deployment = json!({"metadata": {"annotations": {
            REVISION: "3", "kubernetes.io/change-cause": "why", "kubectl.kubernetes.io/last-applied-configuration": "{}",
            FILE_ANNOTATION: "web.yaml"}}});
        assert_eq!(of(&deployment), 3);
        let expected = json!({REVISION: "4", "kubernetes.io/change-cause": "why"});
        assert_eq!(Value::Object(annotations(&deployment, 4)), expected);
        assert_eq!(of(&json!({"metadata": {}})), 0);
    }
}
