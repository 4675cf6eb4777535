//! `batch/v1` Job: pods that run until enough of them have succeeded.

use serde_json::{Map, Value, json};

use super::pod_fields::unsupported;
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, pod, set_default, text};
use crate::api::status::Cause;
use crate::api::table::short_duration;

pub static KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["status"],
    set_defaults,
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Status", data_type: "string", priority: 0, cell: |o| state(o).into() },
        Column { name: "Completions", data_type: "string", priority: 0, cell: completions_cell },
        Column { name: "Duration", data_type: "string", priority: 0, cell: duration_cell },
        AGE_COLUMN,
    ],
};

/// Fields of the specification that are carried out.
const FIELDS: &[&str] = &[
    "activeDeadlineSeconds",
    "backoffLimit",
    "completionMode",
    "completions",
    "manualSelector",
    "parallelism",
    "podReplacementPolicy",
    "selector.*",
    "suspend",
    "template.*",
    "ttlSecondsAfterFinished",
];

/// Labels by which a Job knows its pods, and the same under their old names.
fn labels(job: &Value) -> [(&'static str, Value); 4] {
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    [
        ("batch.kubernetes.io/controller-uid", uid.clone()),
        ("batch.kubernetes.io/job-name", name.clone()),
        ("controller-uid", uid),
        ("job-name", name),
    ]
}

fn set_defaults(job: &mut Value) {
    let labels = labels(job);
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let is_set = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    if !is_set("completions") && !is_set("parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    set_default(spec, "backoffLimit", 6);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    set_default(spec, "selector", json!({"matchLabels": {labels[0].0: labels[0].1}}));
    if !spec["template"].is_object() {
        return;
    }
    set_default(&mut spec["template"], "metadata", json!({}));
    set_default(&mut spec["template"]["metadata"], "labels", json!({}));
    for (label, value) in labels {
        spec["template"]["metadata"]["labels"][label] = value;
    }
    if let Some(template) = spec.pointer_mut("/template/spec") {
        pod::spec_defaults(template);
    }
}

fn validate(job: &Value) -> Vec<Cause> {
    let spec = job.get("spec").unwrap_or(&Value::Null);
    let mut causes = unsupported(spec, "spec", FIELDS);
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        let number = integer(spec, &format!("/{field}"));
        if number < 0 {
            let message = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("spec.{field}"), number, message));
        }
    }
    let only = [
        ("completionMode", json!("NonIndexed"), "pods have no index here"),
        ("manualSelector", json!(false), "a job selects the pods it makes"),
        ("podReplacementPolicy", json!("TerminatingOrFailed"), "a pod is replaced once it ends or is deleted"),
    ];
    for (field, supported, why) in only {
        if let Some(found) = spec.get(field).filter(|found| !found.is_null() && **found != supported) {
            causes.push(Cause::unsupported(format!("spec.{field}"), &format!("{found}: only {supported}: {why}")));
        }
    }
    let own = labels(job);
    let expected: Map<String, Value> = own.iter().take(1).map(|(label, uid)| ((*label).into(), uid.clone())).collect();
    if spec.get("selector") != Some(&json!({"matchLabels": expected})) {
        let message = "`selector` not auto-generated";
        causes.push(Cause::invalid("spec.selector", spec["selector"].clone(), message));
    }
    let template = spec.pointer("/template/spec").cloned().unwrap_or_default();
    causes.extend(pod::spec_causes(&template, "spec.template.spec"));
    let policy = text(&template, "/restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let message = format!("{policy:?}: supported values: \"OnFailure\", \"Never\"");
        causes.push(Cause::unsupported("spec.template.spec.restartPolicy", &message));
    }
    causes
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let fields = ["completions", "selector", "template", "completionMode"];
    let changed = fields.iter().filter(|field| old["spec"].get(**field) != new["spec"].get(**field));
    changed
        .map(|field| Cause::invalid(format!("spec.{field}"), new["spec"][*field].clone(), "field is immutable"))
        .collect()
}

/// Whether a condition of the status is true.
pub fn has_condition(job: &Value, condition_type: &str) -> bool {
    let conditions = pod::items(&job["status"], "conditions");
    conditions.iter().any(|condition| condition["type"] == condition_type && condition["status"] == "True")
}

fn state(job: &Value) -> &'static str {
    let states = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let told = states.iter().find(|(condition, _)| has_condition(job, condition)).map(|(_, shown)| *shown);
    match text(job, "/metadata/deletionTimestamp") {
        "" => told.unwrap_or("Running"),
        _ => told.unwrap_or("Terminating"),
    }
}

fn completions_cell(job: &Value) -> Value {
    let succeeded = integer(job, "/status/succeeded");
    match job.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}").into(),
        None => match integer(job, "/spec/parallelism") {
            parallelism @ 2.. => format!("{succeeded}/1 of {parallelism}").into(),
            _ => format!("{succeeded}/1").into(),
        },
    }
}

fn duration_cell(job: &Value) -> Value {
    let time = |pointer: &str| text(job, pointer).parse::<jiff::Timestamp>().ok();
    let Some(start) = time("/status/startTime") else { return "".into() };
    let end = time("/status/completionTime").unwrap_or_else(jiff::Timestamp::now);
    short_duration(end.as_second() - start.as_second()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
        set_defaults(&mut job);
        job
    }

    fn template(policy: &str) -> Value {
        json!({"spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}})
    }

    #[test]
    fn a_job_has_its_own_selector_and_counts() {
        let made = job(json!({"template": template("Never")}));
        assert_eq!(validate(&made), []);
        assert_eq!((&made["spec"]["completions"], &made["spec"]["parallelism"]), (&json!(1), &json!(1)));
        let labels = &made["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["job-name"], &labels["batch.kubernetes.io/controller-uid"]), (&json!("j"), &json!("u")));
        let queue = job(json!({"parallelism": 3, "template": template("OnFailure")}));
        assert_eq!(queue["spec"].get("completions"), None);
        assert_eq!(completions_cell(&queue), "0/1 of 3");
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name() {
        let fields = |spec: Value| validate(&job(spec)).into_iter().map(|cause| cause.field).collect::<Vec<_>>();
        assert_eq!(fields(json!({"template": template("Always")})), ["spec.template.spec.restartPolicy"]);
        let never = template("Never");
        for (field, value) in [
            ("podFailurePolicy", json!({"rules": []})),
            ("completionMode", json!("Indexed")),
            ("manualSelector", json!(true)),
            ("backoffLimit", json!(-1)),
            ("podReplacementPolicy", json!("Failed")),
            ("selector", json!({"matchLabels": {"a": "b"}})),
        ] {
            let mut spec = json!({"template": never});
            spec[field] = value;
            assert_eq!(fields(spec), [format!("spec.{field}")]);
        }
    }

    #[test]
    fn a_template_stays() {
        let old = job(json!({"template": template("Never")}));
        let mut new = old.clone();
        new["spec"]["parallelism"] = 2.into();
        assert_eq!(validate_update(&old, &new), []);
        new["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
        assert_eq!(validate_update(&old, &new)[0].field, "spec.template");
    }
}
