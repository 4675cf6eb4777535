//! Addresses and ports of Services, from a small range.

use serde_json::{Value, json};

use super::*;
use crate::api::object_store::ObjectStore;
use crate::api::objects::{Half, Propagation};
use crate::api::status::ApiError;

async fn objects(subnet: &str, node_ports: &str) -> (tempfile::TempDir, Objects) {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("objects.redb")).unwrap();
    let network =
        NetworkConfig { service_subnet: subnet.into(), node_ports: node_ports.into(), ..NetworkConfig::default() };
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

#[test]
fn ranges_of_ports_are_refused_by_key() {
    for text in ["", "30000", "a-b", "0-10", "2-1", "1-70000"] {
        let network = NetworkConfig { node_ports: text.into(), ..NetworkConfig::default() };
        let error = ServiceRanges::of_config(&network).unwrap_err().to_string();
        assert!(error.starts_with("network.node_ports: "), "{error}");
    }
}
