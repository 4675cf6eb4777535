//! Endpoints: kept for Services that select pods, and served where people write them.

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::kubectl_objects::{get as shown, said, start};
use crate::replicas::{LIMIT, apply, list, wait_ready, wharf, wharf_with};
use crate::services::{end, get, rules, service, wait_for_endpoints, web};
use crate::testnode::{self, TestNode, wait_for};

const PATH: &str = "/api/v1/namespaces/default/endpoints";

fn endpoints(node: &TestNode, name: &str) -> Option<Value> {
    let answer = request(node, "GET", &format!("{PATH}/{name}"), &[], b"");
    (answer.code == 200).then_some(answer.body)
}

/// Addresses of the first subset.
fn addresses(node: &TestNode, name: &str, list: &str) -> Vec<String> {
    let endpoints = endpoints(node, name).unwrap_or_default();
    let addresses = endpoints["subsets"][0][list].as_array().cloned().unwrap_or_default();
    addresses.iter().map(|address| address["ip"].as_str().unwrap().to_owned()).collect()
}

fn pod_ips(node: &TestNode) -> Vec<String> {
    let mut ips: Vec<std::net::Ipv4Addr> =
        list(node, "pods").iter().map(|pod| pod["status"]["podIP"].as_str().unwrap().parse().unwrap()).collect();
    ips.sort();
    ips.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn endpoints_follow_the_pods_of_a_service() {
    let Some(node) = testnode::start("endpoints").await else { return };
    apply(&node, &service(json!({})));
    wait_for("empty endpoints", LIMIT, || endpoints(&node, "web").is_some());
    assert_eq!(endpoints(&node, "web").unwrap().get("subsets").cloned().unwrap_or(json!([])), json!([]));
    apply(&node, &web(2));
    wait_ready(&node, 2);
    wait_for("both pods", LIMIT, || addresses(&node, "web", "addresses") == pod_ips(&node));
    let found = endpoints(&node, "web").unwrap();
    assert_eq!(found["subsets"][0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
    assert_eq!(found["subsets"][0]["addresses"][0]["targetRef"]["kind"], "Pod");
    assert_eq!(found["metadata"].get("generation"), None);
    let shown = wharf(&node, &["get", "endpoints", "web"]);
    assert!(
        shown.contains(&pod_ips(&node).iter().map(|ip| format!("{ip}:8080")).collect::<Vec<_>>().join(",")),
        "{shown}"
    );
    // What somebody makes of them does not last.
    let forged = json!({"subsets": [{"addresses": [{"ip": "198.51.100.7"}], "ports": [{"port": 1}]}]}).to_string();
    let merge = ["Content-Type: application/merge-patch+json"];
    assert_eq!(request(&node, "PATCH", &format!("{PATH}/web"), &merge, forged.as_bytes()).code, 200);
    wait_for("the pods again", LIMIT, || addresses(&node, "web", "addresses") == pod_ips(&node));
    assert_eq!(request(&node, "DELETE", &format!("{PATH}/web"), &[], b"").code, 200);
    wait_for("new endpoints", LIMIT, || addresses(&node, "web", "addresses") == pod_ips(&node));
    assert!(!rules(&node).contains("198.51.100.7"));
    wharf(&node, &["scale", "deployment/web", "--replicas", "1"]);
    wait_ready(&node, 1);
    wait_for("one pod", LIMIT, || addresses(&node, "web", "addresses") == pod_ips(&node));
    wharf(&node, &["delete", "service", "web"]);
    wait_for("their end", LIMIT, || endpoints(&node, "web").is_none());
    end(node, "deployments");
}

#[tokio::test]
async fn endpoints_that_people_write_are_served_as_slices() {
    let Some(node) = testnode::start("epmirror").await else { return };
    let mut outer = service(json!({"ports": [{"port": 80}]}));
    outer["spec"].as_object_mut().unwrap().remove("selector");
    apply(&node, &outer);
    let written = |ips: &[&str]| {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"},
            "subsets": [{"addresses": addresses, "ports": [{"port": 8008}]}]})
    };
    apply(&node, &written(&["198.51.100.7", "198.51.100.8"]));
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let slices = list(&node, "endpointslices");
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    assert_eq!(slices[0]["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    apply(&node, &written(&["198.51.100.9"]));
    wait_for("the new address", LIMIT, || {
        rules(&node).contains("198.51.100.9") && !rules(&node).contains("198.51.100.7")
    });
    // What is no address of somebody else is refused, in Kubernetes' words.
    for (ip, words) in [
        ("127.0.0.1", "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range"),
        ("169.254.169.254", "may not be in the link-local range"),
        ("x", "must be a valid IP address"),
    ] {
        let output = wharf_with(&node, &["apply", "-f", "-"], &written(&[ip]).to_string());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{error}");
    }
    // Left alone, and given back.
    let label = r#"{"metadata":{"labels":{"endpointslice.kubernetes.io/skip-mirror":"true"}}}"#;
    let merge = ["Content-Type: application/merge-patch+json"];
    assert_eq!(request(&node, "PATCH", &format!("{PATH}/web"), &merge, label.as_bytes()).code, 200);
    wait_for("no slices", LIMIT, || list(&node, "endpointslices").is_empty());
    let label = r#"{"metadata":{"labels":null}}"#;
    assert_eq!(request(&node, "PATCH", &format!("{PATH}/web"), &merge, label.as_bytes()).code, 200);
    wait_for("a slice", LIMIT, || list(&node, "endpointslices").len() == 1);
    wharf(&node, &["delete", "endpoints", "web"]);
    wait_for("no slice", LIMIT, || list(&node, "endpointslices").is_empty());
    // A Service that selects pods makes them its own.
    apply(&node, &written(&["198.51.100.9"]));
    wait_for("a slice", LIMIT, || list(&node, "endpointslices").len() == 1);
    apply(&node, &service(json!({})));
    wait_for("the pods', which are none", LIMIT, || addresses(&node, "web", "addresses").is_empty());
    wait_for("no address", LIMIT, || !rules(&node).contains("198.51.100.9"));
    assert_eq!(get(&node, "endpoints", "web")["metadata"]["ownerReferences"][0]["kind"], "Service");
    end(node, "services");
}

#[tokio::test]
async fn kubectl_shows_endpoints() {
    let Some((mut node, kubectl)) = start("kubectl_shows_endpoints", "kubeep").await else { return };
    let none = Value::Null;
    apply(&node, &service(json!({"ports": [{"port": 80, "targetPort": 8080}]})));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": testnode::IMAGE, "command": ["sleep", "1000"]}]}});
    apply(&node, &pod);
    let ip = wait_ready(&node, 1)[0]["status"]["podIP"].as_str().unwrap().to_owned();
    wait_for("the endpoint", LIMIT, || said(&kubectl, &["get", "ep", "web"], &none).contains(&format!("{ip}:8080")));
    let described = said(&kubectl, &["describe", "endpoints", "web"], &none);
    assert!(described.contains(&ip) && described.contains("8080"), "{described}");
    assert!(said(&kubectl, &["explain", "endpoints.subsets"], &none).contains("notReadyAddresses"));
    // kubectl sends them as protobuf where it makes objects out of what it knows.
    let other = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "other"},
        "subsets": [{"addresses": [{"ip": "198.51.100.7", "hostname": "a"}], "ports": [{"port": 1, "name": "x"}]}]});
    said(&kubectl, &["create", "-f", "-"], &other);
    assert_eq!(
        shown(&kubectl, "endpoints/other")["subsets"][0]["ports"],
        json!([{"name": "x", "port": 1, "protocol": "TCP"}])
    );
    said(&kubectl, &["delete", "pods,services,endpoints", "--all"], &none);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
