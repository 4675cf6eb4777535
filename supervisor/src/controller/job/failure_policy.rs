//! `podFailurePolicy`: what the failure of a pod means for its Job. The first rule that fits decides.

use serde_json::Value;

use crate::api::kinds::{pod, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It counts, as without any rule.
    Count,
    /// It does not count: the pod is replaced.
    Ignore,
    /// Its index has failed, however often it could still be tried.
    FailIndex,
    /// The Job has failed.
    FailJob,
}

/// What is to be made of a pod, and why: the message of a Job that fails by it.
pub(super) fn judge(job: &Value, failed: &Value) -> (Action, String) {
    let rules = job.pointer("/spec/podFailurePolicy").map_or(&[][..], |policy| pod::items(policy, "rules"));
    // One that was taken down before it came to an end of its own has met no rule.
    let rules = if text(failed, "/status/phase") == "Failed" { rules } else { &[] };
    let fitting = rules.iter().enumerate().find_map(|(index, rule)| Some((index, rule, fits(rule, failed)?)));
    let Some((index, rule, what)) = fitting else { return (Action::Count, String::new()) };
    let name = text(rule, "/action");
    let action = match name {
        "FailJob" => Action::FailJob,
        "FailIndex" => Action::FailIndex,
        "Ignore" => Action::Ignore,
        _ => Action::Count,
    };
    (action, format!("{what} matching {name} rule at index {index}"))
}

/// What about the pod a rule fits.
fn fits(rule: &Value, failed: &Value) -> Option<String> {
    let (namespace, name) = (text(failed, "/metadata/namespace"), text(failed, "/metadata/name"));
    if let Some(codes) = rule.get("onExitCodes").filter(|codes| !codes.is_null()) {
        let lists = ["containerStatuses", "initContainerStatuses"];
        let mut statuses = lists.iter().flat_map(|list| pod::items(&failed["status"], list));
        return statuses.find_map(|status| {
            let container = text(status, "/name");
            let code = exit_code(status).filter(|code| *code != 0)?;
            let wanted = text(codes, "/containerName");
            let is_meant = wanted.is_empty() || wanted == container;
            let is_named = pod::items(codes, "values").iter().any(|value| value.as_i64() == Some(code));
            let fits = is_meant && is_named == (text(codes, "/operator") == "In");
            fits.then(|| format!("Container {container} for pod {namespace}/{name} failed with exit code {code}"))
        });
    }
    let has = |wanted: &&Value| {
        let mut conditions = pod::items(&failed["status"], "conditions").iter();
        conditions.any(|condition| condition["type"] == wanted["type"] && condition["status"] == wanted["status"])
    };
    let found = pod::items(rule, "onPodConditions").iter().find(has)?;
    Some(format!("Pod {namespace}/{name} has condition {}", text(found, "/type")))
}

fn exit_code(status: &Value) -> Option<i64> {
    status.pointer("/state/terminated/exitCode").and_then(Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(rules: Value) -> Value {
        json!({"spec": {"podFailurePolicy": {"rules": rules}}})
    }

    fn failed(codes: &[(&str, i64)], condition: &str) -> Value {
        let status = |(name, code): &(&str, i64)| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        json!({
            "metadata": {"namespace": "x", "name": "p"},
            "status": {"phase": "Failed", "containerStatuses": codes.iter().map(status).collect::<Vec<_>>(),
                "conditions": [{"type": condition, "status": "True"}]},
        })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let job = job(json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2, 42]}},
        ]));
        let action = |codes: &[(&str, i64)], condition: &str| judge(&job, &failed(codes, condition)).0;
        assert_eq!(action(&[("main", 42)], "DisruptionTarget"), Action::Ignore);
        assert_eq!(action(&[("main", 42)], "Ready"), Action::FailJob);
        assert_eq!(action(&[("main", 1)], "Ready"), Action::Count);
        assert_eq!(action(&[("side", 42), ("main", 7)], "Ready"), Action::FailIndex);
        // A container that has succeeded beside the others is none of those that a rule excludes.
        assert_eq!(action(&[("main", 0), ("side", 2)], "Ready"), Action::Count);
        let mut gone = failed(&[("main", 42)], "Ready");
        gone["status"]["phase"] = "Running".into();
        assert_eq!(judge(&job, &gone).0, Action::Count);
    }

    #[test]
    fn a_job_says_by_what_it_has_failed() {
        let codes = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
        let message = "Container main for pod x/p failed with exit code 42 matching FailJob rule at index 0";
        assert_eq!(judge(&job(codes), &failed(&[("main", 42)], "Ready")), (Action::FailJob, message.into()));
        let condition = json!([{"action": "FailJob", "onPodConditions": [{"type": "Config", "status": "True"}]}]);
        let message = "Pod x/p has condition Config matching FailJob rule at index 0";
        assert_eq!(judge(&job(condition), &failed(&[], "Config")), (Action::FailJob, message.into()));
    }
}
