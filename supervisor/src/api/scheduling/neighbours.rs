//! Whether a pod and those that have the node want to be beside each other: affinities between pods, and their spread.

use serde_json::Value;

use super::occupants::Occupants;
use crate::api::kinds::pod::items;
use crate::api::kinds::pod_affinity::{AFFINITY, ANTI_AFFINITY, Term, selector};
use crate::api::kinds::{integer, text};

/// What the pod has against the others or they against it, in the order in which Kubernetes looks; `labels_of` a namespace.
pub(super) fn obstacle(
    pod: &Value,
    node: &Value,
    others: &Occupants,
    labels_of: &dyn Fn(&str) -> Value,
) -> Option<&'static str> {
    let uid = text(pod, "/metadata/uid");
    let has_label = |key: &str| node["metadata"]["labels"].get(key).is_some();
    if let Some(reason) = spread_obstacle(pod, node, others) {
        return Some(reason);
    }
    let wants = Term::required(pod, AFFINITY);
    let is_wanted = |other: &Value| wants.iter().all(|term| term.is_about(other, labels_of));
    // The first of pods that want to be beside each other is beside itself.
    let finds_them = || others.beside(uid).any(|other| is_wanted(&other.pod)) || is_wanted(pod);
    let is_content = || wants.iter().all(|term| has_label(&term.topology_key)) && finds_them();
    if !wants.is_empty() && !is_content() {
        return Some("node(s) didn't match pod affinity rules");
    }
    let shuns = Term::required(pod, ANTI_AFFINITY);
    let mut shuns = shuns.iter().filter(|term| has_label(&term.topology_key));
    if shuns.any(|term| others.beside(uid).any(|other| term.is_about(&other.pod, labels_of))) {
        return Some("node(s) didn't match pod anti-affinity rules");
    }
    let mut shunned = others.beside(uid).flat_map(|other| &other.shuns).filter(|term| has_label(&term.topology_key));
    shunned
        .any(|term| term.is_about(pod, labels_of))
        .then_some("node(s) didn't satisfy existing pods anti-affinity rules")
}

/// The node is the only domain there is, which no pod can make uneven, unless there have to be more of them.
fn spread_obstacle(pod: &Value, node: &Value, others: &Occupants) -> Option<&'static str> {
    let constraints = items(&pod["spec"], "topologySpreadConstraints").iter();
    for constraint in constraints.filter(|constraint| text(constraint, "/whenUnsatisfiable") == "DoNotSchedule") {
        if node["metadata"]["labels"].get(text(constraint, "/topologyKey")).is_none() {
            return Some("node(s) didn't match pod topology spread constraints (missing required label)");
        }
        if integer(constraint, "/minDomains") <= 1 {
            continue;
        }
        // As if the domains that are missing were there, and empty.
        let selector = selector(&constraint["labelSelector"]);
        let counts = |other: &Value| {
            let is_near = text(other, "/metadata/namespace") == text(pod, "/metadata/namespace");
            let stays = text(other, "/metadata/deletionTimestamp").is_empty();
            let is_meant = selector.as_ref().is_some_and(|selector| selector.matches(&other["metadata"]["labels"]));
            is_near && stays && is_meant
        };
        let beside = others.beside(text(pod, "/metadata/uid")).filter(|other| counts(&other.pod)).count();
        let skew = beside + usize::from(counts(pod));
        if i64::try_from(skew).is_ok_and(|skew| skew > integer(constraint, "/maxSkew")) {
            return Some("node(s) didn't match pod topology spread constraints");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

    fn pod(uid: &str, app: &str, spec: Value) -> Value {
        json!({"metadata": {"uid": uid, "namespace": "default", "labels": {"app": app}}, "spec": spec})
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn said(pod: &Value, others: &[&Value]) -> &'static str {
        let node = json!({"metadata": {"name": "n", "labels": {"host": "n"}}});
        let others: Occupants = others.iter().map(|other| Arc::new(Value::clone(other))).collect();
        obstacle(pod, &node, &others, &|_| json!({})).unwrap_or_default()
    }

    #[test]
    fn pods_are_beside_those_that_they_want() {
        let wants = |app: &str, terms: Value| pod("x", app, json!({"affinity": {AFFINITY: {REQUIRED: terms}}}));
        let db = pod("db", "db", json!({}));
        let missing = "node(s) didn't match pod affinity rules";
        assert_eq!(said(&wants("web", json!([term("db", "host")])), &[&db]), "");
        assert_eq!(said(&wants("web", json!([term("db", "host")])), &[]), missing);
        assert_eq!(said(&wants("web", json!([term("web", "host")])), &[]), "", "itself");
        assert_eq!(said(&wants("web", json!([term("web", "zone")])), &[]), missing, "the node has no such label");
        let both = wants("web", json!([term("db", "host"), term("web", "host")]));
        assert_eq!(said(&both, &[&db]), missing, "one pod has to be all that is wanted");
    }

    #[test]
    fn pods_are_not_beside_those_that_they_shun_or_that_shun_them() {
        let shuns =
            |uid: &str, app: &str, terms: Value| pod(uid, app, json!({"affinity": {ANTI_AFFINITY: {REQUIRED: terms}}}));
        let (db, web) = (pod("db", "db", json!({})), pod("web", "web", json!({})));
        let own = "node(s) didn't match pod anti-affinity rules";
        let theirs = "node(s) didn't satisfy existing pods anti-affinity rules";
        let shy = shuns("x", "shy", json!([term("db", "host")]));
        assert_eq!(said(&shy, &[&web]), "");
        assert_eq!(said(&shy, &[&web, &db]), own);
        assert_eq!(said(&db, &[&shy]), theirs);
        assert_eq!(said(&web, &[&shy]), "");
        let elsewhere = shuns("x", "shy", json!([term("db", "zone")]));
        assert_eq!((said(&elsewhere, &[&db]), said(&db, &[&elsewhere])), ("", ""));
        let alone = shuns("x", "alone", json!([term("alone", "host")]));
        assert_eq!(said(&alone, &[&alone]), "", "it does not shun itself");
        assert_eq!(said(&shuns("y", "alone", json!([term("alone", "host")])), &[&alone]), own);
    }

    #[test]
    fn one_domain_is_even_unless_there_have_to_be_more() {
        let spread = |key: &str, more: Value| {
            let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}}});
            more.as_object().unwrap().iter().for_each(|(field, value)| constraint[field] = value.clone());
            pod("x", "web", json!({"topologySpreadConstraints": [constraint]}))
        };
        let web = |uid: &str| pod(uid, "web", json!({}));
        let others = [&web("a"), &web("b"), &web("c")];
        assert_eq!(said(&spread("host", json!({})), &others), "");
        assert_eq!(said(&spread("zone", json!({"whenUnsatisfiable": "ScheduleAnyway"})), &others), "");
        let unlabelled = "node(s) didn't match pod topology spread constraints (missing required label)";
        assert_eq!(said(&spread("zone", json!({})), &[]), unlabelled);
        let two = spread("host", json!({"minDomains": 2}));
        assert_eq!(said(&two, &[]), "");
        assert_eq!(said(&two, &[&pod("db", "db", json!({}))]), "");
        assert_eq!(said(&two, &[&web("a")]), "node(s) didn't match pod topology spread constraints");
        let mut leaving = web("a");
        leaving["metadata"]["deletionTimestamp"] = "now".into();
        assert_eq!(said(&two, &[&leaving]), "");
        let mut beyond = web("a");
        beyond["metadata"]["namespace"] = "other".into();
        assert_eq!(said(&two, &[&beyond]), "");
    }
}
