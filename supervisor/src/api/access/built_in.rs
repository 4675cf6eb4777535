//! Roles and bindings that every node has. They are made at the start where they are missing, and stay as people then
//! change them.

use serde_json::{Value, json};

use super::user::{AUTHENTICATED, MASTERS, MONITORING};
use crate::api::kinds::{Kind, cluster_role, cluster_role_binding};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// What of the core group is looked at by whoever may look at a namespace: not Secrets, which are other people's rights.
const CORE_READ: &[&str] = &[
    "configmaps",
    "endpoints",
    "events",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumeclaims/status",
    "pods",
    "pods/log",
    "pods/status",
    "pods/why",
    "serviceaccounts",
    "services",
    "services/status",
];
const CORE_WRITE: &[&str] = &[
    "configmaps",
    "events",
    "persistentvolumeclaims",
    "pods",
    "pods/attach",
    "pods/ephemeralcontainers",
    "pods/exec",
    "pods/portforward",
    "pods/proxy",
    "pods/resize",
    "secrets",
    "serviceaccounts",
    "services",
    "services/proxy",
];
const APPS: &[&str] = &["daemonsets", "deployments", "deployments/scale", "replicasets", "replicasets/scale"];
const APPS_STATUS: &[&str] = &["controllerrevisions", "daemonsets/status", "deployments/status", "replicasets/status"];

/// Every kind and what is to be there of it.
pub fn objects() -> Vec<(&'static Kind, Value)> {
    let role = |name: &str, rules: Vec<Value>| {
        let metadata = json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}});
        let role = json!({"apiVersion": cluster_role::KIND.api_version(), "kind": "ClusterRole", "metadata": metadata, "rules": rules});
        (&cluster_role::KIND, role)
    };
    let binding = |name: &str, group: &str| {
        let metadata = json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}});
        let group_subject = json!({"apiGroup": cluster_role::KIND.group, "kind": "Group", "name": group});
        let binding = json!({
            "apiVersion": cluster_role::KIND.api_version(), "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": cluster_role::KIND.group, "kind": "ClusterRole", "name": name},
            "subjects": [group_subject],
        });
        (&cluster_role_binding::KIND, binding)
    };
    vec![
        role("cluster-admin", vec![rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})]),
        role("admin", [edit_rules(), admin_rules()].concat()),
        role("edit", edit_rules()),
        role("view", view_rules()),
        role(
            "system:discovery",
            vec![paths(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
            ])],
        ),
        role(
            "system:basic-user",
            vec![
                rule(&["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
        role(
            "system:monitoring",
            vec![paths(&["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"])],
        ),
        role("system:public-info-viewer", vec![paths(&["/healthz", "/livez", "/readyz", "/version"])]),
        binding("cluster-admin", MASTERS),
        binding("system:discovery", AUTHENTICATED),
        binding("system:basic-user", AUTHENTICATED),
        binding("system:monitoring", MONITORING),
        binding("system:public-info-viewer", AUTHENTICATED),
    ]
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn paths(urls: &[&str]) -> Value {
    json!({"nonResourceURLs": urls, "verbs": ["get"]})
}

fn view_rules() -> Vec<Value> {
    vec![
        rule(&[""], CORE_READ, READ),
        rule(&["apps"], &[APPS, APPS_STATUS].concat(), READ),
        rule(&["batch"], &["jobs", "jobs/status"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["metrics.k8s.io"], &["pods"], READ),
    ]
}

fn edit_rules() -> Vec<Value> {
    let mut rules = view_rules();
    rules.extend([
        rule(&[""], CORE_WRITE, WRITE),
        rule(&[""], &["pods/proxy", "secrets", "services/proxy"], READ),
        rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(&["apps"], APPS, WRITE),
        rule(&["batch"], &["jobs"], WRITE),
    ]);
    rules
}

fn admin_rules() -> Vec<Value> {
    vec![
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
        rule(&[cluster_role::KIND.group], &["rolebindings", "roles"], &[READ, WRITE].concat()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::{KINDS, REVIEWS, pod::items, text};

    #[test]
    fn what_every_node_has_is_valid_and_names_what_is_served() {
        for (kind, mut object) in objects() {
            (kind.set_defaults)(&mut object);
            assert_eq!((kind.validate)(&object), [], "{}", text(&object, "/metadata/name"));
            assert_eq!(kind.broken_name_rule(text(&object, "/metadata/name")), None);
            for rule in items(&object, "rules").iter().filter(|rule| rule["apiGroups"] != json!(["*"])) {
                for group in items(rule, "apiGroups").iter().filter(|group| **group != "metrics.k8s.io") {
                    for resource in items(rule, "resources").iter().filter_map(Value::as_str) {
                        let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                        let mut served = KINDS.iter().chain(REVIEWS).filter(|kind| *group == kind.group);
                        let kind = served.find(|kind| kind.plural == plural).unwrap_or_else(|| panic!("{resource}"));
                        assert!(subresource.is_empty() || kind.parts().any(|part| part == subresource), "{resource}");
                    }
                }
            }
        }
    }

    #[test]
    fn who_may_look_sees_no_secrets_and_does_nothing() {
        for rule in view_rules() {
            assert!(items(&rule, "verbs").iter().all(|verb| READ.contains(&verb.as_str().unwrap())));
            assert!(items(&rule, "resources").iter().all(|resource| resource != "secrets" && resource != "*"));
        }
    }
}
