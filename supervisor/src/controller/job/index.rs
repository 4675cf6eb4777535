//! Pods of an indexed Job: each has an index, which it knows, and of each index one pod has to succeed.

use serde_json::{Value, json};

use super::failure_policy::{Action, judge};
use crate::api::kinds::{pod, text};

/// Annotation and label of a pod. All names here are Kubernetes' own.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotations: how often pods of the index have failed before, and how often that did not count.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Variable of every container.
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The bytes of a name that is made of a prefix (names.go of apiserver), without its suffix.
const LONGEST_PREFIX: usize = 253 - 5;

pub(super) fn is_indexed(job: &Value) -> bool {
    text(job, "/spec/completionMode") == "Indexed"
}

/// How often pods of an index have failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Failures {
    pub(super) counted: i64,
    pub(super) ignored: i64,
}

impl Failures {
    /// Before a pod was made.
    pub(super) fn before(made: &Value) -> Self {
        let number = |name: &str| annotation(made, name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Self { counted: number(FAILURES), ignored: number(IGNORED) }
    }

    /// With that of a pod.
    pub(super) fn with(job: &Value, failed: &Value) -> Self {
        let Self { counted, ignored } = Self::before(failed);
        match judge(job, failed).0 {
            Action::Ignore => Self { counted, ignored: ignored.saturating_add(1) },
            _ => Self { counted: counted.saturating_add(1), ignored },
        }
    }

    pub(super) fn all(self) -> i64 {
        self.counted.saturating_add(self.ignored)
    }
}

fn annotation<'a>(made: &'a Value, name: &str) -> Option<&'a str> {
    made["metadata"]["annotations"].get(name)?.as_str()
}

/// Of a pod.
pub(super) fn of(made: &Value) -> Option<i64> {
    annotation(made, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// What orders pods of one index: the last one is that which has not been replaced yet.
pub(super) fn order(made: &Value) -> (i64, &str, &str) {
    (Failures::before(made).all(), text(made, "/metadata/creationTimestamp"), text(made, "/metadata/uid"))
}

/// Makes a pod of the Job's template that of an index.
pub(super) fn give(made: &mut Value, job: &Value, index: i64, failures: Option<Failures>) {
    let name = text(job, "/metadata/name");
    let end = format!("-{index}-");
    let prefix: String = name.chars().take(LONGEST_PREFIX - end.len()).collect();
    made["metadata"]["generateName"] = format!("{prefix}{end}").into();
    made["spec"]["hostname"] = format!("{name}-{index}").into();
    made["metadata"]["labels"][INDEX] = index.to_string().into();
    made["metadata"]["annotations"][INDEX] = index.to_string().into();
    if let Some(failures) = failures {
        made["metadata"]["annotations"][FAILURES] = failures.counted.to_string().into();
        if failures.ignored > 0 {
            made["metadata"]["annotations"][IGNORED] = failures.ignored.to_string().into();
        }
    }
    for list in ["containers", "initContainers"] {
        for container in made["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if pod::items(container, "env").iter().any(|variable| variable["name"] == VARIABLE) {
                continue;
            }
            let field = json!({"fieldPath": format!("metadata.labels['{INDEX}']")});
            let variable = json!({"name": VARIABLE, "valueFrom": {"fieldRef": field}});
            match container.get_mut("env").and_then(Value::as_array_mut) {
                Some(variables) => variables.push(variable),
                None => container["env"] = json!([variable]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_its_index() {
        let job = json!({"metadata": {"name": "work"}});
        let own = json!([{"name": VARIABLE, "value": "own"}]);
        let mut made = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "initContainers": [{"name": "i", "env": own}], "containers": [{"name": "c"}]}});
        give(&mut made, &job, 3, Some(Failures { counted: 2, ignored: 0 }));
        assert_eq!((of(&made), Failures::before(&made).counted), (Some(3), 2));
        assert_eq!((text(&made, "/metadata/generateName"), text(&made, "/spec/hostname")), ("work-3-", "work-3"));
        assert_eq!(made["metadata"]["labels"], json!({"a": "b", INDEX: "3"}));
        assert_eq!(made["spec"]["initContainers"][0]["env"], own);
        let variable = &made["spec"]["containers"][0]["env"][0];
        assert_eq!(text(variable, "/valueFrom/fieldRef/fieldPath"), format!("metadata.labels['{INDEX}']"));
        let mut long = json!({"metadata": {}, "spec": {}});
        give(&mut long, &json!({"metadata": {"name": "x".repeat(253)}}), 10, None);
        assert_eq!(text(&long, "/metadata/generateName").len(), LONGEST_PREFIX);
        assert_eq!(of(&json!({"metadata": {"annotations": {INDEX: "-1"}}})), None);
    }
}
