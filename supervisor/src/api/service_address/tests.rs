//! Addresses and ports of Services, from a small range.

use serde_json::{Value, json};

use super::*;
use crate::api::object_store::ObjectStore;
use crate::api::objects::{Half, Propagation};
use crate::api::status::ApiError;

async fn objects(subnet: &str, node_ports: &str) -> (tempfile::TempDir, Objects) {
    dual_objects(subnet, None, node_ports).await
}

async fn dual_objects(four: &str, six: Option<&str>, node_ports: &str) -> (tempfile::TempDir, Objects) {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("objects.redb")).unwrap();
    let network = NetworkConfig {
        service_subnet: four.into(),
        service_subnet6: six.map(str::to_owned),
        node_ports: node_ports.into(),
        ..NetworkConfig::default()
    };
    let objects = Objects::open(store, "node").await.unwrap();
    (folder, objects.with_service_ranges(ServiceRanges::of_config(&network).unwrap()))
}

fn node_port(name: &str, more: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    json_patch::merge(&mut service["spec"], &more);
    service
}

async fn create(objects: &Objects, service: Value) -> Result<Value, String> {
    let created = objects.create(&service::KIND, "default", service).await;
    created.map(|service| service["spec"].clone()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn addresses_and_ports_are_given_until_there_is_none_and_come_back() {
    let (_folder, objects) = objects("10.9.8.0/29", "30000-30001").await;
    let first = create(&objects, node_port("a", json!({}))).await.unwrap();
    let second = create(&objects, node_port("b", json!({}))).await.unwrap();
    assert_ne!(first["clusterIP"], second["clusterIP"]);
    assert_ne!(first["ports"][0]["nodePort"], second["ports"][0]["nodePort"]);
    assert_eq!(first["clusterIPs"], json!([first["clusterIP"]]));
    let refused = create(&objects, node_port("c", json!({}))).await.unwrap_err();
    assert!(refused.contains("range is full: 30000-30001"), "{refused}");
    objects.delete(&service::KIND, "default", "a", Propagation::Background, None).await.unwrap();
    let again = create(&objects, node_port("c", json!({}))).await.unwrap();
    assert_eq!(again["ports"][0]["nodePort"], first["ports"][0]["nodePort"]);
}

#[tokio::test]
async fn what_is_asked_for_is_given_or_refused_in_kubernetes_words() {
    let (_folder, objects) = objects("10.9.8.0/24", "30000-32767").await;
    let asked = json!({"clusterIP": "10.9.8.7", "ports": [{"port": 80, "nodePort": 30080}]});
    let spec = create(&objects, node_port("a", asked.clone())).await.unwrap();
    assert_eq!((&spec["clusterIP"], &spec["ports"][0]["nodePort"]), (&json!("10.9.8.7"), &json!(30080)));
    let refused = create(&objects, node_port("b", asked)).await.unwrap_err();
    for words in [
        "spec.clusterIPs: Invalid value: [\"10.9.8.7\"]: failed to allocate IP 10.9.8.7: provided IP is already allocated",
        "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
    ] {
        assert!(refused.contains(words), "{refused}");
    }
    let outside = json!({"clusterIP": "10.9.9.1", "ports": [{"port": 80, "nodePort": 80}]});
    let refused = create(&objects, node_port("b", outside)).await.unwrap_err();
    for words in [
        "the provided IP (10.9.9.1) is not in the valid range. The range of valid IPs is 10.9.8.0/24",
        "provided port is not in the valid range. The range of valid ports is 30000-32767",
    ] {
        assert!(refused.contains(words), "{refused}");
    }
}

#[tokio::test]
async fn an_update_that_leaves_them_out_keeps_them_and_a_change_of_type_gives_them_back() {
    let (_folder, objects) = objects("10.9.8.0/24", "30000-32767").await;
    let before = create(&objects, node_port("a", json!({}))).await.unwrap();
    let replace = |service: Value| {
        let change = move |_: Value| Ok::<Value, ApiError>(service);
        objects.update(&service::KIND, "default", "a", Half::Desired, change)
    };
    let after = replace(node_port("a", json!({}))).await.unwrap();
    assert_eq!(after["spec"], before);
    let mut plain = Value::clone(&after);
    plain["spec"]["type"] = "ClusterIP".into();
    let plain = replace(plain).await.unwrap();
    assert_eq!((&plain["spec"]["clusterIP"], plain["spec"]["ports"][0].get("nodePort")), (&before["clusterIP"], None));
    let mut moved = Value::clone(&plain);
    moved["spec"]["clusterIP"] = "10.9.8.99".into();
    let refused = replace(moved).await.unwrap_err().to_string();
    assert!(refused.contains("may not change once set"), "{refused}");
    let mut named = Value::clone(&plain);
    named["spec"]["type"] = "ExternalName".into();
    named["spec"]["externalName"] = "elsewhere.test".into();
    let named = replace(named).await.unwrap();
    assert_eq!(named["spec"].get("clusterIP"), None);
    let mut back = Value::clone(&named);
    back["spec"]["type"] = "ClusterIP".into();
    let back = replace(back).await.unwrap();
    assert!(text(&back, "/spec/clusterIP").starts_with("10.9.8."), "{back}");
}

async fn replace(objects: &Objects, service: Value) -> Result<Value, String> {
    let change = move |_: Value| Ok::<Value, ApiError>(service);
    let replaced = objects.update(&service::KIND, "default", "a", Half::Desired, change).await;
    replaced.map(|service| service["spec"].clone()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_service_of_both_families_has_an_address_of_each() {
    let (_folder, objects) = dual_objects("10.9.8.0/24", Some("fd00:9::/126"), "30000-32767").await;
    let both = create(&objects, node_port("a", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.unwrap();
    assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
    let [four, six] = [0, 1].map(|index| both["clusterIPs"][index].as_str().unwrap().to_owned());
    assert!(both["clusterIP"] == *four && four.starts_with("10.9.8.") && six.starts_with("fd00:9::"), "{both}");
    // Whoever names it otherwise names the same.
    let same = format!("FD00:0009::000{}", &six[8..]);
    let taken = create(&objects, node_port("b", json!({"clusterIP": same, "ipFamilies": ["IPv6"]}))).await.unwrap_err();
    assert!(taken.contains("provided IP is already allocated"), "{taken}");
    for name in ["c", "d"] {
        let one = create(&objects, node_port(name, json!({"ipFamilies": ["IPv6"]}))).await.unwrap();
        assert!(one["clusterIPs"].as_array().unwrap().len() == 1 && one["ipFamilyPolicy"] == "SingleStack", "{one}");
    }
    let full = create(&objects, node_port("e", json!({"ipFamilies": ["IPv6"]}))).await.unwrap_err();
    assert!(full.contains("failed to allocate a serviceIP: range is full: fd00:9::/126"), "{full}");
    for outside in ["fd00:9::", "fd00:9::4", "::ffff:10.9.8.9", "::", "fe80::1"] {
        let asked = json!({"clusterIP": outside, "ipFamilies": ["IPv6"]});
        let refused = create(&objects, node_port("e", asked)).await.unwrap_err();
        assert!(refused.contains("is not in the valid range. The range of valid IPs is fd00:9::/126"), "{refused}");
    }
}

#[tokio::test]
async fn a_second_address_comes_and_goes_with_the_policy() {
    let (_folder, objects) = dual_objects("10.9.8.0/24", Some("fd00:9::/108"), "30000-32767").await;
    let one = create(&objects, node_port("a", json!({}))).await.unwrap();
    assert_eq!((&one["ipFamilies"], &one["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    let both = replace(&objects, node_port("a", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.unwrap();
    assert!(both["clusterIP"] == one["clusterIP"] && both["clusterIPs"].as_array().unwrap().len() == 2, "{both}");
    // A client that knows of nothing but the first field changes something else.
    let old = json!({"clusterIP": one["clusterIP"], "selector": {"app": "web"}});
    let kept = replace(&objects, node_port("a", old)).await.unwrap();
    assert_eq!((&kept["clusterIPs"], &kept["ipFamilies"]), (&both["clusterIPs"], &both["ipFamilies"]));
    let other = json!({"clusterIPs": [one["clusterIP"], "fd00:9::77"]});
    let refused = replace(&objects, node_port("a", other)).await.unwrap_err();
    assert!(refused.contains("spec.clusterIPs[1]") && refused.contains("may not change once set"), "{refused}");
    let refused = replace(&objects, node_port("a", json!({"clusterIPs": [one["clusterIP"]]}))).await.unwrap_err();
    assert!(refused.contains("must be set to 'SingleStack' when releasing the secondary clusterIP"), "{refused}");
    let again = replace(&objects, node_port("a", json!({"ipFamilyPolicy": "SingleStack"}))).await.unwrap();
    assert_eq!((&again["clusterIPs"], &again["ipFamilies"]), (&one["clusterIPs"], &one["ipFamilies"]));
}

#[tokio::test]
async fn a_service_stays_as_it_is_where_the_node_has_other_families_by_now() {
    let (folder, objects) = dual_objects("10.9.8.0/24", Some("fd00:9::/108"), "30000-32767").await;
    let both = create(&objects, node_port("a", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.unwrap();
    let single = NetworkConfig { service_subnet: "10.9.7.0/24".into(), ..NetworkConfig::default() };
    let objects = objects.with_service_ranges(ServiceRanges::of_config(&single).unwrap());
    let mut labelled = node_port("a", json!({}));
    labelled["spec"] = both.clone();
    labelled["metadata"]["labels"] = json!({"app": "web"});
    assert_eq!(replace(&objects, labelled).await.unwrap(), both);
    let refused = create(&objects, node_port("b", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.unwrap_err();
    assert!(refused.contains("this cluster is not configured for dual-stack services"), "{refused}");
    drop(folder);
}

#[test]
fn ranges_of_ports_are_refused_by_key() {
    for text in ["", "30000", "a-b", "0-10", "2-1", "1-70000"] {
        let network = NetworkConfig { node_ports: text.into(), ..NetworkConfig::default() };
        let error = ServiceRanges::of_config(&network).unwrap_err().to_string();
        assert!(error.starts_with("network.node_ports: "), "{error}");
    }
}

#[tokio::test]
async fn a_load_balancer_s_port_for_its_health_is_given_kept_and_taken_back() {
    let (_folder, objects) = objects("10.9.8.0/24", "30000-30003").await;
    let balanced = |more: Value| {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        json_patch::merge(&mut spec, &more);
        node_port("a", spec)
    };
    for (more, words) in [
        (
            json!({"healthCheckNodePort": 80}),
            "provided port is not in the valid range. The range of valid ports is 30000-30003",
        ),
        (
            json!({"healthCheckNodePort": 30001, "ports": [{"port": 80, "nodePort": 30001}]}),
            "spec.healthCheckNodePort: Invalid value: 30001: provided port is already allocated",
        ),
    ] {
        let refused = create(&objects, balanced(more)).await.unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
    let first = create(&objects, balanced(json!({}))).await.unwrap();
    let (own, port) = (&first["ports"][0]["nodePort"], &first["healthCheckNodePort"]);
    assert!(port.is_number() && own != port, "{first}");
    // It is nobody else's, and no port of another Service.
    let other = |port: &Value| node_port("b", json!({"ports": [{"port": 80, "nodePort": port}]}));
    let refused = create(&objects, other(port)).await.unwrap_err();
    assert!(refused.contains("provided port is already allocated"), "{refused}");

    let replace = |service: Value| {
        let change = move |_: Value| Ok::<Value, ApiError>(service);
        objects.update(&service::KIND, "default", "a", Half::Desired, change)
    };
    let after = replace(balanced(json!({}))).await.unwrap();
    assert_eq!(after["spec"], first);
    let free = (30_000..=30_003).find(|free| own != free && port != free).unwrap();
    let refused = replace(balanced(json!({"healthCheckNodePort": free}))).await.unwrap_err().to_string();
    assert!(refused.contains("spec.healthCheckNodePort") && refused.contains("field is immutable"), "{refused}");
    let mut spread = Value::clone(&after);
    spread["spec"]["externalTrafficPolicy"] = "Cluster".into();
    let spread = replace(spread).await.unwrap();
    assert_eq!(spread["spec"].get("healthCheckNodePort"), None);
    create(&objects, other(port)).await.unwrap();
    // Back again, it has another one.
    let again = replace(balanced(json!({}))).await.unwrap();
    assert!(again["spec"]["healthCheckNodePort"].is_number() && again["spec"]["healthCheckNodePort"] != *port);
}
