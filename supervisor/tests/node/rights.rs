//! Who may do what over TLS: roles and bindings, what is refused and in which words, and that nobody gives themselves more.

use serde_json::{Value, json};
use wharf_supervisor::api::tls::{MASTERS, TokenKey};

use crate::api_tls::{answered, curl, url};
use crate::kube_doors::start;
use crate::replicas::{apply, assert_nothing_left, wharf, wharf_with};
use crate::testnode::{self, TestNode};

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Somebody with a token.
pub struct Asker<'a> {
    pub node: &'a TestNode,
    authority: String,
    authorization: String,
}

impl<'a> Asker<'a> {
    pub fn with_token(node: &'a TestNode, token: &str) -> Self {
        let authority = node.path("data/pki/ca.crt").to_str().unwrap().to_owned();
        Self { node, authority, authorization: format!("Authorization: Bearer {token}") }
    }

    pub fn named(node: &'a TestNode, name: &str, groups: &[&str]) -> Self {
        let tokens = TokenKey::open(&node.path("data/pki")).unwrap();
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        Self::with_token(node, &tokens.issue(name, &groups, DAY))
    }

    pub fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.ask_with(method, path, body, &[])
    }

    fn ask_with(&self, method: &str, path: &str, body: &Value, headers: &[&str]) -> (u16, Value) {
        let (address, body) = (url(path), body.to_string());
        let mut arguments = vec!["--path-as-is", "--cacert", &self.authority, "-H", &self.authorization, "-X", method];
        headers.iter().for_each(|header| arguments.extend(["-H", header]));
        if body != "null" {
            arguments.extend(["--data", body.as_str()]);
            if !headers.iter().any(|header| header.starts_with("Content-Type")) {
                arguments.extend(["-H", "Content-Type: application/json"]);
            }
        }
        arguments.push(&address);
        answered(&curl(self.node, &arguments))
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, &Value::Null)
    }

    /// The code alone.
    pub fn code(&self, method: &str, path: &str, body: &Value) -> u16 {
        self.ask(method, path, body).0
    }
}

pub fn has_curl(test: &str) -> bool {
    let found = testnode::tool("curl").is_some();
    if !found {
        println!("SKIP {test}: needs curl");
    }
    found
}

pub fn role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules})
}

pub fn binding(name: &str, role_kind: &str, role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}, "subjects": [subject],
    })
}

#[tokio::test]
async fn roles_grant_what_they_name_and_nothing_else() {
    if !has_curl("roles_grant_what_they_name_and_nothing_else") {
        return;
    }
    let Some(node) = start("rights").await else { return };
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "patch"], "resourceNames": ["mine"]},
    ]);
    apply(&node, &role("reader", rules));
    apply(&node, &binding("readers", "Role", "reader", json!({"kind": "Group", "name": "readers"})));
    wharf_with(
        &node,
        &["apply", "-f", "-"],
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"a": "1"}}).to_string(),
    );
    let alice = Asker::named(&node, "alice", &["readers"]);

    let (code, status) = alice.get("/api/v1/namespaces/kube-system/pods");
    let expected = "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"kube-system\"";
    assert_eq!((code, status["message"].as_str(), status["reason"].as_str()), (403, Some(expected), Some("Forbidden")));
    assert_eq!(status["details"]["kind"], "pods");
    for (method, path, expected) in [
        ("GET", "/api/v1/namespaces/default/pods", 200),
        ("GET", "/api/v1/namespaces/default/pods?watch=true&timeoutSeconds=1", 200),
        ("GET", "/api/v1/namespaces/default/pods/none", 404),
        ("GET", "/api/v1/pods", 403),
        ("GET", "/api/v1/pods?watch=true&timeoutSeconds=1", 403),
        ("GET", "/api/v1/namespaces/default/secrets", 403),
        ("GET", "/api/v1/namespaces/default/pods/none/log", 403),
        ("GET", "/api/v1/namespaces/default/pods/none/exec?command=id", 403),
        ("POST", "/api/v1/namespaces/default/pods/none/exec?command=id", 403),
        ("GET", "/api/v1/namespaces/default/pods/none/portforward", 403),
        ("PUT", "/api/v1/namespaces/default/pods/none/ephemeralcontainers", 403),
        ("DELETE", "/api/v1/namespaces/default/pods/none", 403),
        ("DELETE", "/api/v1/namespaces/default/pods", 403),
        ("POST", "/api/v1/namespaces/default/pods", 403),
        ("GET", "/api/v1/nodes", 403),
        ("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", 403),
        // By name, and by a selector that says as much.
        ("GET", "/api/v1/namespaces/default/configmaps/mine", 200),
        ("GET", "/api/v1/namespaces/default/configmaps/yours", 403),
        ("GET", "/api/v1/namespaces/default/configmaps", 403),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dmine", 200),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dyours", 403),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name!%3Dmine", 403),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=a%3Db&fieldSelector=metadata.name%3Dmine", 403),
        ("DELETE", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dmine", 403),
        // Everybody sees what is served, and how the server is.
        ("GET", "/healthz", 200),
        ("GET", "/version", 200),
        ("GET", "/api", 200),
        ("GET", "/apis/apps/v1", 200),
        ("GET", "/openapi/v3", 200),
        ("POST", "/healthz", 403),
    ] {
        assert_eq!(alice.code(method, path, &Value::Null), expected, "{method} {path}");
    }

    // However a path is written, it is authorized as what it is dispatched to.
    for path in [
        "//api/v1/secrets",
        "/api/v1//secrets",
        "/api/v1/secrets/",
        "/api//v1/namespaces//default/secrets",
        "/api/v1/namespaces/default/pods/../secrets",
        "/api/v1/namespaces/default/pods/%2e%2e/secrets",
        "/api/v1/namespaces/default/pods%2f..%2fsecrets",
        "/api/v1/namespaces/default%2fpods/secrets",
        "/api/v1/namespaces/default/%73ecrets",
        "/healthz/../api/v1/secrets",
        "/healthz%2f..%2fapi/v1/secrets",
        "/api/v1/watch/secrets",
        "/api/v1/namespaces/default/pods/x/log/../../../secrets",
        "/api/v1/secrets%00",
        "/api/v1/namespaces/kube-system%00default/pods",
    ] {
        let (code, answer) = alice.get(path);
        let is_list = answer["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        assert!((matches!(code, 403 | 404) || answer == "ok") && !is_list, "{path}: {code} {answer}");
    }
    // One that is written in another way is the same one.
    assert_eq!(alice.get("//api/v1/namespaces/default//%70ods/").0, 200);

    // A server-side apply that makes an object needs the right to make it.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"b": "2"}});
    let path = "/api/v1/namespaces/default/configmaps/mine?fieldManager=alice";
    let apply_header = ["Content-Type: application/apply-patch+yaml"];
    assert_eq!(alice.ask_with("PATCH", path, &map, &apply_header).0, 200);
    wharf(&node, &["delete", "configmap", "mine"]);
    let (code, status) = alice.ask_with("PATCH", path, &map, &apply_header);
    assert_eq!(code, 403, "{status}");
    assert!(status["message"].as_str().unwrap().contains("cannot create resource \"configmaps\""), "{status}");

    // A name is no group, and what headers say of users is for those who may speak for others.
    let impostor = Asker::named(&node, MASTERS, &["system:authenticated"]);
    assert_eq!(impostor.get("/api/v1/namespaces/default/pods").0, 403);
    for headers in [
        &["Impersonate-User: root"][..],
        &["Impersonate-User: alice", "Impersonate-Group: system:masters"],
        &["Impersonate-User: system:serviceaccount:default:default"],
        &["X-Remote-User: root", "X-Remote-Group: system:masters"],
    ] {
        assert_eq!(alice.ask_with("GET", "/api/v1/secrets", &Value::Null, headers).0, 403, "{headers:?}");
    }
    assert_eq!(alice.ask_with("GET", "/version", &Value::Null, &["Impersonate-Group: system:masters"]).0, 400);
    // Who may all may speak for others, and may then do what those may.
    let root = Asker::named(&node, "root", &[MASTERS]);
    let as_alice = ["Impersonate-User: alice", "Impersonate-Group: readers"];
    assert_eq!(root.ask_with("GET", "/api/v1/secrets", &Value::Null, &as_alice).0, 403);
    assert_eq!(root.ask_with("GET", "/api/v1/namespaces/default/pods", &Value::Null, &as_alice).0, 200);

    // What is taken back is gone at once.
    wharf(&node, &["delete", "rolebinding", "readers"]);
    assert_eq!(alice.get("/api/v1/namespaces/default/pods").0, 403);
    assert_nothing_left(node);
}

#[tokio::test]
async fn nobody_gives_rights_that_they_do_not_have() {
    if !has_curl("nobody_gives_rights_that_they_do_not_have") {
        return;
    }
    let Some(node) = start("escalation").await else { return };
    apply(&node, &binding("admins", "ClusterRole", "admin", json!({"kind": "User", "name": "bob"})));
    let bob = Asker::named(&node, "bob", &[]);
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let me = json!({"kind": "User", "name": "bob"});

    assert_eq!(bob.code("POST", &roles, &role("small", pods.clone())), 201);
    let (code, status) = bob.ask("POST", &roles, &role("large", everything.clone()));
    let said = status["message"].as_str().unwrap();
    assert!(
        code == 403 && said.starts_with("roles.rbac.authorization.k8s.io \"large\" is forbidden: user \"bob\""),
        "{said}"
    );
    assert!(said.contains("is attempting to grant RBAC permissions not currently held:\n{"), "{said}");
    assert_eq!(bob.code("POST", &format!("{roles}?dryRun=All"), &role("large", everything.clone())), 403);
    // The rights of a role that is there do not grow by any way of writing it.
    let small = format!("{roles}/small");
    assert_eq!(bob.code("PUT", &small, &role("small", everything.clone())), 403);
    for (media_type, body) in [
        ("application/merge-patch+json", json!({"rules": everything})),
        ("application/strategic-merge-patch+json", json!({"rules": everything})),
        ("application/json-patch+json", json!([{"op": "replace", "path": "/rules", "value": everything}])),
        ("application/apply-patch+yaml", role("small", everything.clone())),
    ] {
        let path = format!("{small}?fieldManager=bob&force={}", media_type.contains("apply"));
        let (code, status) = bob.ask_with("PATCH", &path, &body, &[&format!("Content-Type: {media_type}")]);
        assert_eq!(code, 403, "{media_type}: {status}");
    }
    let applied = format!("{roles}/applied?fieldManager=bob");
    let header = ["Content-Type: application/apply-patch+yaml"];
    assert_eq!(bob.ask_with("PATCH", &applied, &role("applied", everything.clone()), &header).0, 403);
    assert_eq!(bob.ask_with("PATCH", &applied, &role("applied", pods.clone()), &header).0, 201);

    // Nor by a binding: to what has more, to what is not there yet, or by turning one.
    assert_eq!(bob.code("POST", &bindings, &binding("up", "ClusterRole", "cluster-admin", me.clone())), 403);
    assert_eq!(bob.code("POST", &bindings, &binding("later", "Role", "not-yet", me.clone())), 404);
    assert_eq!(bob.code("POST", &bindings, &binding("down", "ClusterRole", "edit", me.clone())), 201);
    let (code, status) =
        bob.ask("PUT", &format!("{bindings}/down"), &binding("down", "ClusterRole", "cluster-admin", me.clone()));
    assert!(matches!(code, 403 | 422), "{status}");
    let root = Asker::named(&node, "root", &[MASTERS]);
    let (code, status) =
        root.ask("PUT", &format!("{bindings}/down"), &binding("down", "ClusterRole", "view", me.clone()));
    assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some("roleRef")));
    // Others may be named in one whose rights he has, not in one that root has made of more.
    apply(&node, &binding("roots", "ClusterRole", "cluster-admin", json!({"kind": "User", "name": "root"})));
    let add = json!([{"op": "add", "path": "/subjects/-", "value": me}]);
    let patched =
        bob.ask_with("PATCH", &format!("{bindings}/roots"), &add, &["Content-Type: application/json-patch+json"]);
    assert_eq!(patched.0, 403);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled =
        bob.ask_with("PATCH", &format!("{bindings}/roots"), &label, &["Content-Type: application/merge-patch+json"]);
    assert_eq!(labelled.0, 200);

    // Outside of the namespace there is nothing to give.
    assert_eq!(bob.code("POST", &format!("{RBAC}/namespaces/kube-system/roles"), &role("small", pods.clone())), 403);
    let mut elsewhere = role("small", pods.clone());
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    assert_eq!(bob.code("POST", &roles, &elsewhere), 400);
    assert_eq!(bob.code("POST", &format!("{RBAC}/roles"), &elsewhere), 403);
    let mut cluster = role("large", pods);
    cluster["kind"] = "ClusterRole".into();
    assert_eq!(bob.code("POST", &format!("{RBAC}/clusterroles"), &cluster), 403);

    // `bind` and `escalate` are the rights to do that.
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["cluster-admin"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]},
    ]);
    apply(&node, &role("giver", rules));
    apply(&node, &binding("giver", "Role", "giver", json!({"kind": "User", "name": "bob"})));
    assert_eq!(bob.code("POST", &bindings, &binding("up", "ClusterRole", "cluster-admin", me)), 201);
    assert_eq!(bob.code("POST", &roles, &role("large", everything)), 201);

    // What is no role is named.
    for (mut wrong, field) in [
        (role("a/b", json!([])), "metadata.name"),
        (role("a", json!([{"verbs": ["get"], "resources": ["pods"]}])), "rules[0].apiGroups"),
        (role("a", json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}])), "rules[0].nonResourceURLs"),
    ] {
        wrong["metadata"]["namespace"] = "default".into();
        let (code, status) = root.ask("POST", &roles, &wrong);
        assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some(field)), "{status}");
    }
    let aggregated = json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let (code, status) = root.ask("POST", &format!("{RBAC}/clusterroles"), &aggregated);
    assert!(code == 422 && status["message"].as_str().unwrap().contains("aggregationRule"), "{status}");
    // Names of roles may have colons, and clients may write them as %3A.
    assert_eq!(root.get(&format!("{RBAC}/clusterroles/system%3Adiscovery")).1["metadata"]["name"], "system:discovery");
    assert_nothing_left(node);
}

#[tokio::test]
async fn people_ask_what_they_may_and_who_they_are() {
    if !has_curl("people_ask_what_they_may_and_who_they_are") {
        return;
    }
    let Some(node) = start("reviews").await else { return };
    apply(&node, &binding("viewers", "ClusterRole", "view", json!({"kind": "User", "name": "carol"})));
    let carol = Asker::named(&node, "carol", &["staff"]);
    let (access, identity) = ("/apis/authorization.k8s.io/v1", "/apis/authentication.k8s.io/v1");
    let about = |verb: &str, resource: &str, namespace: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace}}});
    let own = format!("{access}/selfsubjectaccessreviews");
    for (verb, resource, namespace, expected) in [
        ("list", "pods", "default", true),
        ("create", "pods", "default", false),
        ("list", "pods", "kube-system", false),
        ("list", "secrets", "default", false),
        ("*", "*", "", false),
    ] {
        let (code, review) = carol.ask("POST", &own, &about(verb, resource, namespace));
        assert_eq!((code, review["status"]["allowed"].as_bool()), (201, Some(expected)), "{verb} {resource} {review}");
    }
    let (_, review) = carol.ask("POST", &own, &about("list", "pods", "default"));
    let expected = "RBAC: allowed by RoleBinding \"viewers/default\" of ClusterRole \"view\" to User \"carol\"";
    assert_eq!(review["status"]["reason"], expected);
    let path = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/healthz"}}});
    assert_eq!(carol.ask("POST", &own, &path).1["status"]["allowed"], true);
    assert_eq!(carol.ask("POST", &own, &json!({"spec": {}})).0, 422);
    assert_eq!(carol.code("GET", &own, &Value::Null), 403);

    let (code, rules) =
        carol.ask("POST", &format!("{access}/selfsubjectrulesreviews"), &json!({"spec": {"namespace": "default"}}));
    assert_eq!((code, rules["status"]["incomplete"].as_bool()), (201, Some(false)));
    let lists_pods = |rule: &Value| rule["resources"].as_array().unwrap().contains(&"pods".into());
    assert!(rules["status"]["resourceRules"].as_array().unwrap().iter().any(lists_pods));
    assert!(!rules["status"]["nonResourceRules"].as_array().unwrap().is_empty());
    let (_, whoami) = carol.ask("POST", &format!("{identity}/selfsubjectreviews"), &json!({}));
    assert_eq!(whoami["status"]["userInfo"], json!({"username": "carol", "groups": ["staff", "system:authenticated"]}));

    // About others, only who may ask about others.
    let other = json!({"spec": {"user": "carol", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    assert_eq!(carol.code("POST", &format!("{access}/subjectaccessreviews"), &other), 403);
    let root = Asker::named(&node, "root", &[MASTERS]);
    assert_eq!(root.ask("POST", &format!("{access}/subjectaccessreviews"), &other).1["status"]["allowed"], true);
    let local = format!("{access}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(root.ask("POST", &local, &other).1["status"]["allowed"], true);
    let local = format!("{access}/namespaces/kube-system/localsubjectaccessreviews");
    assert_eq!(root.ask("POST", &local, &other).0, 422);
    let nobody = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let (code, status) = root.ask("POST", &format!("{access}/subjectaccessreviews"), &nobody);
    assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some("spec.user")));
    // A question names groups as they are: that of administrators is theirs.
    let masters = json!({"spec": {"groups": [MASTERS], "resourceAttributes": {"verb": "*", "resource": "*"}}});
    assert_eq!(root.ask("POST", &format!("{access}/subjectaccessreviews"), &masters).1["status"]["allowed"], true);

    assert_eq!(carol.code("POST", &format!("{identity}/tokenreviews"), &json!({"spec": {"token": "x"}})), 403);
    let (code, review) = root.ask("POST", &format!("{identity}/tokenreviews"), &json!({"spec": {"token": "x.y.z"}}));
    assert_eq!((code, review["status"]["authenticated"].as_bool()), (201, Some(false)));
    assert_nothing_left(node);
}
