//! PUTs of objects that are not there: which kinds they make, and for whom.

use serde_json::{Value, json};

use crate::api_requests::{Answer, request};
use crate::kube_doors::start;
use crate::replicas::{apply, assert_nothing_left};
use crate::rights::{Asker, binding, has_curl, role};
use crate::testnode::{self, TestNode};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

fn put(node: &TestNode, path: &str, object: &Value) -> Answer {
    request(node, "PUT", path, &["Content-Type: application/json"], object.to_string().as_bytes())
}

#[tokio::test]
async fn a_put_makes_what_kubernetes_makes_by_one() {
    let Some(mut node) = testnode::start("putmakes").await else { return };
    let named = |mut object: Value| {
        object["metadata"] = json!({"name": "made"});
        object
    };
    let subjects = json!([{"kind": "Group", "name": "g", "apiGroup": "rbac.authorization.k8s.io"}]);
    let role_ref = |kind: &str| json!({"kind": kind, "name": "r", "apiGroup": "rbac.authorization.k8s.io"});
    let space = "namespaces/default";
    let made = [
        (format!("/api/v1/{space}/services"), json!({"spec": {"ports": [{"port": 80}]}})),
        (LEASES.to_owned(), json!({"spec": {"holderIdentity": "me"}})),
        (
            format!("/api/v1/{space}/events"),
            json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Because"}),
        ),
        (format!("{RBAC}/{space}/roles"), json!({"rules": []})),
        (format!("{RBAC}/{space}/rolebindings"), json!({"roleRef": role_ref("Role"), "subjects": subjects})),
        (format!("{RBAC}/clusterroles"), json!({"rules": []})),
        (format!("{RBAC}/clusterrolebindings"), json!({"roleRef": role_ref("ClusterRole"), "subjects": subjects})),
    ];
    for (collection, object) in &made {
        let path = format!("{collection}/made");
        // A try makes nothing.
        let tried = put(&node, &format!("{path}?dryRun=All"), &named(object.clone()));
        assert_eq!(tried.code, 201, "{path}: {}", tried.body);
        assert_eq!(request(&node, "GET", &path, &[], b"").code, 404, "{path}");
        let first = put(&node, &path, &named(object.clone()));
        assert_eq!((first.code, &first.body["metadata"]["name"]), (201, &json!("made")), "{path}: {}", first.body);
        assert!(first.body["metadata"]["managedFields"].is_array(), "{path}: {}", first.body);
        // The next one changes it, and what it was comes back by no late change of it.
        let mut changed = first.body.clone();
        changed["metadata"]["labels"] = json!({"again": "yes"});
        let second = put(&node, &path, &changed);
        assert_eq!((second.code, &second.body["metadata"]["uid"]), (200, &first.body["metadata"]["uid"]), "{path}");
        assert_eq!(request(&node, "DELETE", &path, &[], b"").code, 200, "{path}");
        assert_eq!(put(&node, &path, &second.body).code, 404, "{path}");
        let mut of_another = named(object.clone());
        of_another["metadata"]["uid"] = first.body["metadata"]["uid"].clone();
        let refused = put(&node, &path, &of_another);
        assert_eq!((refused.code, refused.body["reason"].as_str()), (409, Some("Conflict")), "{path}");
        assert_eq!(request(&node, "GET", &path, &[], b"").code, 404, "{path}");
    }
    let service = &made[0].1;
    assert_eq!(put(&node, &format!("/api/v1/{space}/services/other"), &named(service.clone())).code, 400);
    assert_eq!(put(&node, "/api/v1/namespaces/none/services/made", &named(service.clone())).code, 404);
    assert_eq!(put(&node, &format!("/api/v1/{space}/services/made/status"), &named(service.clone())).code, 404);
    // Whose name is left to chance is not asked for by one.
    let mut by_chance = service.clone();
    by_chance["metadata"] = json!({"generateName": "chance-"});
    let answer = put(&node, &format!("/api/v1/{space}/services/made"), &by_chance);
    assert!(answer.code == 400 || answer.body["metadata"]["name"] == "made", "{}", answer.body);
    let pod = json!({"spec": {"containers": [{"name": "main", "image": "i"}]}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod["spec"]});
    for (path, object) in [
        (format!("/api/v1/{space}/configmaps/made"), json!({"data": {}})),
        (format!("/api/v1/{space}/secrets/made"), json!({})),
        (format!("/api/v1/{space}/serviceaccounts/made"), json!({})),
        (format!("/api/v1/{space}/pods/made"), pod.clone()),
        ("/api/v1/namespaces/made".into(), json!({})),
        (
            format!("/apis/apps/v1/{space}/deployments/made"),
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        ),
    ] {
        let answer = put(&node, &path, &named(object));
        assert_eq!((answer.code, answer.body["reason"].as_str()), (404, Some("NotFound")), "{path}: {}", answer.body);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_put_that_makes_something_needs_both_rights() {
    if !has_curl("a_put_that_makes_something_needs_both_rights") {
        return;
    }
    let Some(node) = start("putrights").await else { return };
    let group = |name: &str| json!({"kind": "Group", "name": name});
    for (name, verbs) in
        [("updates", json!(["update"])), ("creates", json!(["create"])), ("both", json!(["create", "update"]))]
    {
        let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs},
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": verbs}]);
        apply(&node, &role(name, rules));
        apply(&node, &binding(name, "Role", name, group(name)));
    }
    let lease = json!({"metadata": {"name": "made"}, "spec": {"holderIdentity": "me"}});
    let path = format!("{LEASES}/made");
    let (code, status) = Asker::named(&node, "alice", &["updates"]).ask("PUT", &path, &lease);
    assert!(
        code == 403 && status["message"].as_str().unwrap().contains("cannot create resource \"leases\""),
        "{status}"
    );
    let (code, status) = Asker::named(&node, "bob", &["creates"]).ask("PUT", &path, &lease);
    assert!(
        code == 403 && status["message"].as_str().unwrap().contains("cannot update resource \"leases\""),
        "{status}"
    );
    let carol = Asker::named(&node, "carol", &["both"]);
    assert_eq!(carol.code("PUT", &path, &lease), 201);
    assert_eq!(carol.code("PUT", &path, &lease), 200);
    assert_eq!(Asker::named(&node, "alice", &["updates"]).code("PUT", &path, &lease), 200);
    // Nobody gives themselves more in this way either.
    let everything =
        json!({"metadata": {"name": "more"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let (code, status) = carol.ask("PUT", &format!("{RBAC}/namespaces/default/roles/more"), &everything);
    assert!(code == 403 && status["message"].as_str().unwrap().contains("attempting to grant"), "{status}");
    assert_nothing_left(node);
}
