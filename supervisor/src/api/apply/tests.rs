use super::*;
use crate::api::kinds::deployment;
use serde_json::json;

fn writer(manager: &str) -> Writer {
    Writer { manager: manager.into(), subresource: "" }
}

fn wanted(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn container(name: &str, image: &str) -> Value {
    json!({"template": {"spec": {"containers": [{"name": name, "image": image}]}}})
}

fn applied(live: &Value, wanted: &Value, manager: &str) -> Value {
    apply(&deployment::KIND, live, wanted, &writer(manager), false).unwrap()
}

#[test]
fn appliers_of_other_fields_do_not_disturb_each_other() {
    let live = applied(&Value::Null, &wanted(container("a", "1")), "one");
    let live = applied(&live, &wanted(container("b", "1")), "two");
    let names: Vec<_> =
        live["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    // The same value is wanted by both, and stays until neither wants it.
    let live = applied(&live, &wanted(container("a", "1")), "two");
    let containers = &live["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1, "{containers}");
    let live = applied(&live, &wanted(json!({"replicas": 1})), "one");
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["name"], "a");
}

#[test]
fn what_is_applied_no_more_is_removed() {
    let mut spec = container("a", "1");
    spec["replicas"] = 3.into();
    let live = applied(&Value::Null, &wanted(spec), "one");
    let live = applied(&live, &wanted(container("a", "1")), "one");
    assert_eq!(live["spec"].get("replicas"), None);
    assert_eq!(live["metadata"]["name"], "web");
}

#[test]
fn another_value_is_a_conflict_unless_forced() {
    let mut live = wanted(json!({"replicas": 3}));
    record_update("apps/v1", "Deployment", &Value::Null, &mut live, &writer("scaler"));
    let change = wanted(json!({"replicas": 5}));
    let refused = apply(&deployment::KIND, &live, &change, &writer("one"), false).unwrap_err();
    let status = refused.to_status();
    assert_eq!(status["code"], 409);
    let cause = &status["details"]["causes"][0];
    assert_eq!((&cause["reason"], &cause["field"]), (&json!("FieldManagerConflict"), &json!(".spec.replicas")));
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1 at ")
    );
    let forced = apply(&deployment::KIND, &live, &change, &writer("one"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    let managers: Vec<_> =
        forced["metadata"]["managedFields"].as_array().unwrap().iter().map(|m| &m["manager"]).collect();
    assert_eq!(managers, ["one"]);
    // The same value is none.
    let same = apply(&deployment::KIND, &live, &wanted(json!({"replicas": 3})), &writer("one"), false).unwrap();
    assert_eq!(same["metadata"]["managedFields"].as_array().unwrap().len(), 2);
}

#[test]
fn what_was_there_before_anybody_applied_has_a_manager() {
    let live = wanted(json!({"replicas": 3}));
    let refused = apply(&deployment::KIND, &live, &wanted(json!({"replicas": 5})), &writer("one"), false).unwrap_err();
    assert!(refused.to_string().contains(BEFORE_FIRST_APPLY), "{refused}");
}

#[test]
fn applying_again_changes_nothing() {
    let want = wanted(container("a", "1"));
    let live = applied(&Value::Null, &want, "one");
    assert_eq!(applied(&live, &want, "one"), live);
}

#[test]
fn items_without_keys_and_with_the_same_are_refused_by_name() {
    for (spec, message) in [
        (json!({"template": {"spec": {"containers": [{"image": "x"}]}}}), "containers[0]: a key field is missing"),
        (
            json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}),
            "containers: two items have the same key",
        ),
    ] {
        let refused = apply(&deployment::KIND, &Value::Null, &wanted(spec), &writer("one"), false).unwrap_err();
        assert!(refused.to_string().ends_with(message), "{refused}");
    }
}
