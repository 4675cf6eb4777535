//! The priority of a pod, as Kubernetes gives it when the pod is made, and the one class that others have by default.

use std::sync::Arc;

use serde_json::Value;

use super::kinds::{Kind, integer, pod, priority_class, text};
use super::objects::Objects;
use super::status::ApiError;

impl Objects {
    /// Gives a new pod the number of its class.
    pub(super) fn admit_priority(&self, name: &str, pod: &mut Value) -> Result<(), ApiError> {
        if !pod["spec"].is_object() {
            return Ok(());
        }
        let forbidden =
            |message: String| Err(ApiError::Forbidden { resource: pod::KIND.resource(), name: name.into(), message });
        let wanted = text(pod, "/spec/priorityClassName").to_owned();
        let class = match wanted.as_str() {
            "" => self.default_priority_class(),
            wanted => match self.get(&priority_class::KIND, "", wanted) {
                Ok(class) => Some(class),
                Err(_) => return forbidden(format!("no PriorityClass with name {wanted} was found")),
            },
        };
        let value = class.as_deref().map_or(0, |class| integer(class, "/value"));
        let policy = class.as_deref().map_or("", |class| text(class, "/preemptionPolicy"));
        let policy = if policy.is_empty() { priority_class::PREEMPTING } else { policy };
        let computed = "priority admission controller computed";
        if let Some(given) = pod["spec"].get("priority").and_then(Value::as_i64).filter(|given| *given != value) {
            return forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; {computed} {value} from the given \
                 PriorityClass name"
            ));
        }
        let given = text(pod, "/spec/preemptionPolicy");
        if !given.is_empty() && given != policy {
            return forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; {computed} {policy} from the \
                 given PriorityClass name"
            ));
        }
        if let Some(class) = &class {
            pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
        }
        pod["spec"]["priority"] = value.into();
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }

    /// The least of those that are marked, should there be several.
    fn default_priority_class(&self) -> Option<Arc<Value>> {
        let (classes, _) = self.list(&priority_class::KIND, None);
        classes
            .into_iter()
            .filter(|class| priority_class::is_default(class))
            .min_by_key(|class| integer(class, "/value"))
    }

    /// Refuses a class that is to be the default beside another one. Nobody writes meanwhile.
    pub(super) fn check_default_class(&self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        if !std::ptr::eq(kind, &priority_class::KIND) || !priority_class::is_default(object) {
            return Ok(());
        }
        let name = text(object, "/metadata/name");
        let (classes, _) = self.list(&priority_class::KIND, None);
        let mut others = classes.iter().filter(|class| priority_class::is_default(class));
        match others.find(|class| text(class, "/metadata/name") != name) {
            None => Ok(()),
            Some(other) => {
                let other = text(other, "/metadata/name");
                let message = format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(ApiError::Forbidden { resource: kind.resource(), name: name.into(), message })
            }
        }
    }
}

/// A pod keeps the priority that it was given, also where whoever writes it says nothing of it.
pub(super) fn keep(current: &Value, pod: &mut Value) {
    if !pod["spec"].is_object() {
        return;
    }
    for field in ["preemptionPolicy", "priority", "priorityClassName"] {
        let given = current["spec"].get(field).filter(|_| pod["spec"].get(field).is_none_or(Value::is_null));
        if let Some(given) = given.cloned() {
            pod["spec"][field] = given;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::object_store::ObjectStore;
    use serde_json::json;

    async fn objects(classes: &[Value]) -> Objects {
        let objects = Objects::open(ObjectStore::in_memory([]).unwrap(), "node").await.unwrap();
        for class in classes {
            objects.create(&priority_class::KIND, "", class.clone()).await.unwrap();
        }
        objects
    }

    #[tokio::test]
    async fn a_pod_has_the_number_of_its_class() {
        let high = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
        let usual = json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true});
        let (plain, with_default) = (objects(std::slice::from_ref(&high)).await, objects(&[high, usual]).await);
        let admitted = |objects: &Objects, spec: Value| {
            let mut pod = json!({"spec": spec});
            let admitted = objects.admit_priority("p", &mut pod);
            admitted.map(|()| pod["spec"].clone()).map_err(|error| error.to_string())
        };
        let none = json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"});
        assert_eq!(admitted(&plain, json!({})), Ok(none));
        let usual = json!({"priorityClassName": "usual", "priority": 7, "preemptionPolicy": "PreemptLowerPriority"});
        assert_eq!(admitted(&with_default, json!({})), Ok(usual));
        let high = json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"});
        assert_eq!(admitted(&with_default, json!({"priorityClassName": "high"})), Ok(high.clone()));
        assert_eq!(admitted(&plain, high.clone()), Ok(high), "what it comes to may be said");
        let critical = admitted(&plain, json!({"priorityClassName": "system-node-critical"})).unwrap();
        assert_eq!(critical["priority"], 2_000_001_000);
        for (spec, expected) in [
            (
                json!({"priorityClassName": "none"}),
                "pods \"p\" is forbidden: no PriorityClass with name none was found",
            ),
            (json!({"priority": 5}), "the integer value of priority (5) must not be provided"),
            (json!({"priorityClassName": "high", "priority": 1}), "computed 1000 from the given PriorityClass name"),
            (json!({"preemptionPolicy": "Never"}), "the string value of PreemptionPolicy (Never) must not be provided"),
        ] {
            let error = admitted(&plain, spec.clone()).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[tokio::test]
    async fn there_is_one_default_class() {
        let class = |name: &str| json!({"metadata": {"name": name}, "value": 1, "globalDefault": true});
        let objects = objects(&[class("one")]).await;
        let error = objects.create(&priority_class::KIND, "", class("two")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "priorityclasses.scheduling.k8s.io \"two\" is forbidden: PriorityClass one is already marked as default. Only \
             one default can exist"
        );
    }

    #[test]
    fn a_pod_keeps_what_it_was_given() {
        let current = json!({"spec": {"priority": 7, "preemptionPolicy": "Never", "priorityClassName": "usual"}});
        let mut pod = json!({"spec": {"priority": null}});
        keep(&current, &mut pod);
        assert_eq!(pod, current);
        let mut other = json!({"spec": {"priority": 8, "preemptionPolicy": "Never", "priorityClassName": "usual"}});
        keep(&current, &mut other);
        assert_eq!(other["spec"]["priority"], 8);
        let mut old = json!({"spec": {}});
        keep(&json!({"spec": {}}), &mut old);
        assert_eq!(old, json!({"spec": {}}));
    }
}
