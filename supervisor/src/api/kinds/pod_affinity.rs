//! Which other pods a pod is to be beside, or not to be: `podAffinity` and `podAntiAffinity`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::node_affinity::{PREFERRED, REQUIRED, requirement_causes, weight_causes};
use super::pod::items;
use super::{is_dns_label, is_qualified_name, text};
use crate::api::metadata::{NAME_RULE, label_causes};
use crate::api::selector::Selector;
use crate::api::status::Cause;

pub const AFFINITY: &str = "podAffinity";
pub const ANTI_AFFINITY: &str = "podAntiAffinity";

/// Which pods a required term is about, and by which label of nodes one is near them.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    pub topology_key: String,
    namespaces: Vec<String>,
    /// Of the labels of namespaces; these pods are meant beside those of `namespaces`.
    namespace_selector: Option<Selector>,
    /// Without one no pod is meant.
    selector: Option<Selector>,
}

impl Term {
    /// The required terms of a pod, of [`AFFINITY`] or [`ANTI_AFFINITY`].
    pub fn required(pod: &Value, affinity: &str) -> Vec<Self> {
        let own = text(pod, "/metadata/namespace");
        items(&pod["spec"]["affinity"][affinity], REQUIRED).iter().map(|term| Self::new(term, own)).collect()
    }

    /// `own` is the namespace of the pod whose term it is.
    fn new(term: &Value, own: &str) -> Self {
        let names = items(term, "namespaces").iter().filter_map(Value::as_str);
        let mut namespaces: Vec<String> = names.map(str::to_owned).collect();
        let namespace_selector = selector(&term["namespaceSelector"]);
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(own.to_owned());
        }
        let topology_key = text(term, "/topologyKey").to_owned();
        Self { topology_key, namespaces, namespace_selector, selector: selector(&term["labelSelector"]) }
    }

    /// Whether `pod` is one of those that the term is about; `labels_of` a namespace.
    pub fn is_about(&self, pod: &Value, labels_of: &dyn Fn(&str) -> Value) -> bool {
        let namespace = text(pod, "/metadata/namespace");
        let of_labels = |selector: &Selector| selector.is_empty() || selector.matches(&labels_of(namespace));
        let in_namespace = self.namespaces.iter().any(|name| name == namespace)
            || self.namespace_selector.as_ref().is_some_and(of_labels);
        in_namespace && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod["metadata"]["labels"]))
    }
}

/// A label selector that is there.
pub(in crate::api) fn selector(selector: &Value) -> Option<Selector> {
    (!selector.is_null()).then(|| Selector::from_label_selector(selector).ok()).flatten()
}

/// Writes what a new pod's `matchLabelKeys` and `mismatchLabelKeys` come to into the selectors beside them.
pub(in crate::api) fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    for affinity in [AFFINITY, ANTI_AFFINITY] {
        for (list, field) in [(REQUIRED, ""), (PREFERRED, "/podAffinityTerm")] {
            let terms = spec.pointer_mut(&format!("/affinity/{affinity}/{list}")).and_then(Value::as_array_mut);
            for term in terms.into_iter().flatten().filter_map(|term| term.pointer_mut(field)) {
                merge_keys(term, "matchLabelKeys", "In", &labels);
                merge_keys(term, "mismatchLabelKeys", "NotIn", &labels);
            }
        }
    }
    let constraints = spec.get_mut("topologySpreadConstraints").and_then(Value::as_array_mut);
    constraints.into_iter().flatten().for_each(|constraint| merge_keys(constraint, "matchLabelKeys", "In", &labels));
}

fn merge_keys(term: &mut Value, field: &str, operator: &str, labels: &Value) {
    let found = items(term, field).iter().filter_map(|key| Some((key.clone(), labels.get(key.as_str()?)?.clone())));
    let more: Vec<Value> =
        found.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})).collect();
    let Some(selector) = term.get_mut("labelSelector").filter(|selector| selector.is_object()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(more),
        None if !more.is_empty() => selector["matchExpressions"] = more.into(),
        None => {}
    }
}

/// Everything wrong with the affinity to pods of a pod's specification at `path`.
pub(super) fn pod_affinity_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for affinity in [AFFINITY, ANTI_AFFINITY] {
        let terms = &spec["affinity"][affinity];
        let path = format!("{path}.affinity.{affinity}");
        for (index, term) in items(terms, REQUIRED).iter().enumerate() {
            term_causes(term, &format!("{path}.{REQUIRED}[{index}]"), causes);
        }
        for (index, term) in items(terms, PREFERRED).iter().enumerate() {
            let path = format!("{path}.{PREFERRED}[{index}]");
            weight_causes(term, &path, causes);
            term_causes(&term["podAffinityTerm"], &format!("{path}.podAffinityTerm"), causes);
        }
    }
}

fn term_causes(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["labelSelector", "namespaceSelector"] {
        label_selector_causes(&term[field], &format!("{path}.{field}"), causes);
    }
    for name in items(term, "namespaces").iter().filter(|name| !name.as_str().is_some_and(is_dns_label)) {
        causes.push(Cause::invalid(format!("{path}.namespace"), name, "must be a lowercase RFC 1123 label"));
    }
    label_key_causes(term, "matchLabelKeys", path, causes);
    label_key_causes(term, "mismatchLabelKeys", path, causes);
    let others: BTreeSet<&str> = items(term, "mismatchLabelKeys").iter().filter_map(Value::as_str).collect();
    for (index, key) in items(term, "matchLabelKeys").iter().enumerate() {
        if key.as_str().is_some_and(|key| others.contains(key)) {
            let message = "exists in both matchLabelKeys and mismatchLabelKeys";
            causes.push(Cause::invalid(format!("{path}.matchLabelKeys[{index}]"), key, message));
        }
    }
    topology_key_causes(term, path, causes);
}

pub(super) fn topology_key_causes(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    let (key, path) = (text(object, "/topologyKey"), format!("{path}.topologyKey"));
    if key.is_empty() {
        causes.push(Cause::required(path, "can not be empty"));
    } else if !is_qualified_name(key) {
        causes.push(Cause::invalid(path, format_args!("{key:?}"), NAME_RULE));
    }
}

/// What is wrong with a list of keys whose values are to be the pod's own.
pub(super) fn label_key_causes(term: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let keys = items(term, field);
    if !keys.is_empty() && term["labelSelector"].is_null() {
        causes.push(Cause::forbidden(format!("{path}.{field}"), "must not be specified when labelSelector is not set"));
    }
    for (index, key) in keys.iter().enumerate() {
        if !key.as_str().is_some_and(is_qualified_name) {
            causes.push(Cause::invalid(format!("{path}.{field}[{index}]"), key, NAME_RULE));
        }
    }
}

/// What is wrong with a label selector; nothing with one that is not there.
pub(super) fn label_selector_causes(selector: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        causes.extend(label_causes(labels, &format!("{path}.matchLabels")));
    }
    for (index, requirement) in items(selector, "matchExpressions").iter().enumerate() {
        requirement_causes(requirement, &format!("{path}.matchExpressions[{index}]"), &[], true, causes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, labels: Value) -> Value {
        json!({"metadata": {"namespace": namespace, "labels": labels}})
    }

    #[test]
    fn a_term_is_about_pods_of_its_namespaces_with_its_labels() {
        let labels_of = |namespace: &str| json!({"team": namespace});
        let web = json!({"matchLabels": {"app": "web"}});
        for (term, namespace, expected) in [
            (json!({"labelSelector": web}), "own", true),
            (json!({"labelSelector": web}), "other", false),
            (json!({"labelSelector": web, "namespaces": ["other"]}), "other", true),
            (json!({"labelSelector": web, "namespaces": ["other"]}), "own", false),
            (json!({"labelSelector": web, "namespaceSelector": {}}), "other", true),
            (json!({"labelSelector": web, "namespaceSelector": {"matchLabels": {"team": "other"}}}), "other", true),
            (json!({"labelSelector": web, "namespaceSelector": {"matchLabels": {"team": "other"}}}), "own", false),
            (
                json!({"labelSelector": web, "namespaces": ["own"], "namespaceSelector": {"matchLabels": {"team": "x"}}}),
                "own",
                true,
            ),
            (json!({"labelSelector": {}}), "own", true),
            (json!({}), "own", false),
            (json!({"labelSelector": {"matchLabels": {"app": "db"}}}), "own", false),
        ] {
            let found = Term::new(&term, "own").is_about(&pod(namespace, json!({"app": "web"})), &labels_of);
            assert_eq!(found, expected, "{term} {namespace}");
        }
    }

    #[test]
    fn keys_of_labels_become_requirements_with_the_pod_s_own_values() {
        let term = json!({"topologyKey": "t", "labelSelector": {"matchLabels": {"app": "web"}},
            "matchLabelKeys": ["version", "none"], "mismatchLabelKeys": ["tenant"]});
        let without = json!({"topologyKey": "t", "matchLabelKeys": ["version"]});
        let mut pod = json!({"metadata": {"labels": {"version": "2", "tenant": "a"}}, "spec": {
            "affinity": {AFFINITY: {REQUIRED: [term, without]}, ANTI_AFFINITY: {PREFERRED: [{"podAffinityTerm": term}]}},
            "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["tenant"]}],
        }});
        merge_label_keys(&mut pod);
        let expressions = json!([{"key": "version", "operator": "In", "values": ["2"]},
            {"key": "tenant", "operator": "NotIn", "values": ["a"]}]);
        let affinity = &pod["spec"]["affinity"];
        assert_eq!(affinity[AFFINITY][REQUIRED][0]["labelSelector"]["matchExpressions"], expressions);
        assert_eq!(affinity[AFFINITY][REQUIRED][1], without);
        let preferred = &affinity[ANTI_AFFINITY][PREFERRED][0]["podAffinityTerm"];
        assert_eq!(preferred["labelSelector"]["matchExpressions"], expressions);
        let spread = &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"];
        assert_eq!(*spread, json!([{"key": "tenant", "operator": "In", "values": ["a"]}]));
        let mut wrong = json!({"metadata": {}, "spec": {"affinity": {AFFINITY: {REQUIRED: [null, 1]}}}});
        merge_label_keys(&mut wrong);
        merge_label_keys(&mut json!({"metadata": {}, "spec": null}));
    }

    #[test]
    fn wrong_terms_are_named_with_their_path() {
        let fields = |affinity: Value| -> Vec<String> {
            let mut causes = Vec::new();
            pod_affinity_causes(&json!({"affinity": affinity}), "spec", &mut causes);
            causes.into_iter().map(|cause| cause.field).collect()
        };
        let good = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}},
            "namespaces": ["x"], "namespaceSelector": {}, "matchLabelKeys": ["c"]});
        let weighted = json!({"weight": 1, "podAffinityTerm": good});
        assert_eq!(fields(json!({AFFINITY: {REQUIRED: [good], PREFERRED: [weighted]}})), [""; 0]);
        let operator = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        for (field, value, wrong) in [
            ("topologyKey", json!(""), "topologyKey"),
            ("topologyKey", json!("a b"), "topologyKey"),
            ("labelSelector", operator("Gt", json!(["1"])), "labelSelector.matchExpressions[0].operator"),
            ("labelSelector", operator("In", json!([])), "labelSelector.matchExpressions[0].values"),
            ("labelSelector", json!({"matchLabels": {"a b": ""}}), "labelSelector.matchLabels"),
            ("labelSelector", Value::Null, "matchLabelKeys"),
            ("namespaceSelector", operator("Exists", json!(["x"])), "namespaceSelector.matchExpressions[0].values"),
            ("namespaces", json!(["A"]), "namespace"),
            ("matchLabelKeys", json!(["a b"]), "matchLabelKeys[0]"),
            ("mismatchLabelKeys", json!(["c"]), "matchLabelKeys[0]"),
        ] {
            let mut term = good.clone();
            term[field] = value;
            let expected = format!("spec.affinity.{ANTI_AFFINITY}.{REQUIRED}[0].{wrong}");
            assert_eq!(fields(json!({ANTI_AFFINITY: {REQUIRED: [term]}})), [expected]);
        }
        let weightless = json!({AFFINITY: {PREFERRED: [{"weight": 0, "podAffinityTerm": good}]}});
        assert_eq!(fields(weightless), [format!("spec.affinity.{AFFINITY}.{PREFERRED}[0].weight")]);
    }
}
