//! `batch/v1` Job: pods that run until enough of them have succeeded.

use serde_json::{Map, Value, json};

use super::pod_fields::unsupported;
use super::template_columns::{CONTAINERS_COLUMN, IMAGES_COLUMN, SELECTOR_COLUMN};
use super::{
    AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, is_dns_label, is_dns_subdomain, job_policy, pod,
    set_default, text,
};
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
        CONTAINERS_COLUMN,
        IMAGES_COLUMN,
        SELECTOR_COLUMN,
    ],
};

/// Fields of the specification that are carried out.
const FIELDS: &[&str] = &[
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completionMode",
    "completions",
    "managedBy",
    "manualSelector",
    "maxFailedIndexes",
    "parallelism",
    "podFailurePolicy.*",
    "podReplacementPolicy",
    "selector.*",
    "successPolicy.*",
    "suspend",
    "template.*",
    "ttlSecondsAfterFinished",
];

/// Numbers that are not negative.
const NUMBERS: [&str; 7] = [
    "parallelism",
    "completions",
    "backoffLimit",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
];

const IMMUTABLE: [&str; 7] = [
    "backoffLimitPerIndex",
    "completionMode",
    "managedBy",
    "podFailurePolicy",
    "selector",
    "successPolicy",
    "template",
];

/// The controller of Jobs that name none; Kubernetes' own name.
const OWN_CONTROLLER: &str = "kubernetes.io/job-controller";
const MAX_CONTROLLER_BYTES: usize = 63;

/// Kubernetes' bounds of an indexed Job's numbers: what more completions than the first need is bounded by the second.
const MANY: i64 = 100_000;
const MANY_AT_ONCE: i64 = 10_000;

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
    let (has_policy, limit) = (is_set("podFailurePolicy"), if is_set("backoffLimitPerIndex") { i32::MAX } else { 6 });
    if !is_set("completions") && !is_set("parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    // Failures count for each index by itself then.
    set_default(spec, "backoffLimit", limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "podReplacementPolicy", if has_policy { "Failed" } else { "TerminatingOrFailed" });
    job_policy::set_defaults(spec);
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
    for field in NUMBERS {
        let number = integer(spec, &format!("/{field}"));
        if number < 0 {
            let message = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("spec.{field}"), number, message));
        }
    }
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        let message = "true: only false: a job selects the pods it makes";
        causes.push(Cause::unsupported("spec.manualSelector", message));
    }
    pod::one_of(spec, "spec", "completionMode", &["Indexed", "NonIndexed"], &mut causes);
    manager_causes(spec, &mut causes);
    let replaced: &[&str] = match spec.get("podFailurePolicy").is_some_and(|policy| !policy.is_null()) {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    pod::one_of(spec, "spec", "podReplacementPolicy", replaced, &mut causes);
    index_causes(text(job, "/metadata/name"), spec, &mut causes);
    job_policy::failure_causes(spec, &mut causes);
    job_policy::success_causes(spec, &mut causes);
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

/// Whether another controller than the node's brings the Job to its end.
pub fn is_managed_elsewhere(job: &Value) -> bool {
    !matches!(text(job, "/spec/managedBy"), "" | OWN_CONTROLLER)
}

fn manager_causes(spec: &Value, causes: &mut Vec<Cause>) {
    let Some(manager) = spec.get("managedBy").and_then(Value::as_str) else { return };
    let mut invalid =
        |message: &str| causes.push(Cause::invalid("spec.managedBy", format_args!("{manager:?}"), message));
    match manager.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            if !is_dns_subdomain(domain) {
                invalid("must be a domain-prefixed path: a lowercase RFC 1123 subdomain, / and a name");
            }
            if !path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c)) {
                invalid("must be a domain-prefixed path, of characters that a URL's path may have");
            }
        }
        _ => invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if manager.len() > MAX_CONTROLLER_BYTES {
        let message = format!("Too long: may not be more than {MAX_CONTROLLER_BYTES} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", field: "spec.managedBy".into(), message });
    }
}

/// What is wrong with the indexes of a Job, and with bounds that are of such alone.
fn index_causes(name: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let number = |field: &str| spec.get(field).and_then(Value::as_i64);
    let (completions, parallelism) = (number("completions"), number("parallelism").unwrap_or(0));
    let (limit, most_failed) = (number("backoffLimitPerIndex"), number("maxFailedIndexes"));
    if text(spec, "/completionMode") != "Indexed" {
        for (field, number) in [("backoffLimitPerIndex", limit), ("maxFailedIndexes", most_failed)] {
            if let Some(number) = number {
                causes.push(Cause::invalid(format!("spec.{field}"), number, "requires indexed completion mode"));
            }
        }
        return;
    }
    let mut bounded = |field: &str, number: i64, most: i64, when: &str| {
        if number > most {
            let message = format!("must be less than or equal to {most}{when}");
            causes.push(Cause::invalid(format!("spec.{field}"), number, &message));
        }
    };
    bounded("parallelism", parallelism, MANY, " when completion mode is Indexed");
    bounded("maxFailedIndexes", most_failed.unwrap_or(0), completions.unwrap_or(MANY).min(MANY), "");
    let is_large = limit.is_some() && completions.is_some_and(|completions| completions > MANY);
    if is_large {
        let when = " when completions are above 100000 and used with backoff limit per index";
        bounded("parallelism", parallelism, MANY_AT_ONCE, when);
        bounded("maxFailedIndexes", most_failed.unwrap_or(0), MANY_AT_ONCE, when);
    }
    if is_large && most_failed.is_none() {
        causes.push(Cause::required("spec.maxFailedIndexes", "must be specified when completions is above 100000"));
    }
    if most_failed.is_some() && limit.is_none() {
        causes.push(Cause::required("spec.backoffLimitPerIndex", "when maxFailedIndexes is specified"));
    }
    let Some(completions) = completions else {
        causes.push(Cause::required("spec.completions", "when completion mode is Indexed"));
        return;
    };
    // Each pod's host name is the Job's with its index.
    let last = format!("{name}-{}", (completions - 1).max(0));
    if !is_dns_label(&last) {
        let message = format!("will not able to create pod with invalid DNS label: {last}");
        causes.push(Cause::invalid("metadata.name", format_args!("{name:?}"), &message));
    }
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let is_changed = |field: &str| old["spec"].get(field) != new["spec"].get(field);
    let changed = IMMUTABLE.iter().filter(|field| is_changed(field));
    let cause =
        |field: &&str| Cause::invalid(format!("spec.{field}"), new["spec"][*field].clone(), "field is immutable");
    let mut causes: Vec<Cause> = changed.map(cause).collect();
    if is_changed("completions") {
        let completions = &new["spec"]["completions"];
        let message = match text(new, "/spec/completionMode") {
            "Indexed" if *completions == new["spec"]["parallelism"] => return causes,
            "Indexed" => "can only be modified in tandem with parallelism",
            _ => "field is immutable",
        };
        causes.push(Cause::invalid("spec.completions", completions, message));
    }
    causes
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
            ("managedBy", json!("")),
            ("managedBy", json!("other")),
            ("managedBy", json!("/other")),
            ("managedBy", json!("Example.com/other")),
            ("managedBy", json!("example.com/other one")),
            ("managedBy", json!(format!("example.com/{}", "x".repeat(52)))),
            ("completionMode", json!("Sorted")),
            ("manualSelector", json!(true)),
            ("backoffLimit", json!(-1)),
            ("backoffLimitPerIndex", json!(1)),
            ("maxFailedIndexes", json!(1)),
            ("podReplacementPolicy", json!("Never")),
            ("selector", json!({"matchLabels": {"a": "b"}})),
        ] {
            let mut spec = json!({"template": never});
            spec[field] = value;
            assert_eq!(fields(spec), [format!("spec.{field}")]);
        }
    }

    #[test]
    fn indexes_have_their_bounds() {
        let fields = |spec: Value| {
            let mut spec = spec;
            spec["template"] = template("Never");
            spec["completionMode"] = "Indexed".into();
            validate(&job(spec)).into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert!(fields(json!({"completions": 5, "backoffLimitPerIndex": 1, "maxFailedIndexes": 5})).is_empty());
        let per_index = job(json!({"completions": 5, "backoffLimitPerIndex": 1, "template": template("Never")}));
        assert_eq!(per_index["spec"]["backoffLimit"], i32::MAX);
        for (spec, field) in [
            (json!({"parallelism": 2}), "spec.completions"),
            (json!({"completions": 5, "maxFailedIndexes": 1}), "spec.backoffLimitPerIndex"),
            (json!({"completions": 5, "backoffLimitPerIndex": 1, "maxFailedIndexes": 6}), "spec.maxFailedIndexes"),
            (json!({"completions": 200_000, "backoffLimitPerIndex": 1}), "spec.maxFailedIndexes"),
            (json!({"completions": 5, "parallelism": 200_000}), "spec.parallelism"),
        ] {
            assert_eq!(fields(spec.clone()), [field], "{spec}");
        }
        let mut long = job(json!({"completionMode": "Indexed", "completions": 100, "template": template("Never")}));
        long["metadata"]["name"] = "x".repeat(61).into();
        assert_eq!(validate(&long)[0].field, "metadata.name");
    }

    #[test]
    fn a_failure_policy_replaces_pods_that_have_failed() {
        let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
        let mut made = job(json!({"podFailurePolicy": policy, "template": template("Never")}));
        assert_eq!((validate(&made), &made["spec"]["podReplacementPolicy"]), (vec![], &json!("Failed")));
        made["spec"]["podReplacementPolicy"] = "TerminatingOrFailed".into();
        assert_eq!(validate(&made)[0].field, "spec.podReplacementPolicy");
    }

    #[test]
    fn a_job_may_be_another_controllers_for_good() {
        let of = |manager: &str| job(json!({"managedBy": manager, "template": template("Never")}));
        let other = of("example.com/other");
        assert_eq!(validate(&other), []);
        assert!(is_managed_elsewhere(&other) && !is_managed_elsewhere(&of("kubernetes.io/job-controller")));
        assert!(!is_managed_elsewhere(&job(json!({"template": template("Never")}))));
        assert_eq!(validate_update(&other, &of("example.com/another"))[0].field, "spec.managedBy");
    }

    #[test]
    fn a_template_stays() {
        let old = job(json!({"template": template("Never")}));
        let mut new = old.clone();
        new["spec"]["parallelism"] = 2.into();
        assert_eq!(validate_update(&old, &new), []);
        new["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
        assert_eq!(validate_update(&old, &new)[0].field, "spec.template");
        let indexed =
            |count: i64| json!({"spec": {"completionMode": "Indexed", "completions": count, "parallelism": 4}});
        assert_eq!(validate_update(&indexed(2), &indexed(4)), []);
        assert_eq!(validate_update(&indexed(2), &indexed(3))[0].field, "spec.completions");
    }
}
