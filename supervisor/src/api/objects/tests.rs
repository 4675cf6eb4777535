use super::*;
use crate::api::kinds::{config_map, deployment, integer, node};

async fn objects() -> (tempfile::TempDir, Objects) {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
    (folder, Objects::open(store, "node").await.unwrap())
}

fn web() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
        },
    })
}

#[tokio::test]
async fn a_created_object_has_identity_and_defaults() {
    let (_folder, objects) = objects().await;
    let object = objects.create(&deployment::KIND, "default", web()).await.unwrap();
    assert_eq!((integer(&object, "/spec/replicas"), integer(&object, "/metadata/generation")), (1, 1));
    assert_eq!(text(&object, "/metadata/uid").len(), 36);
    let again = objects.create(&deployment::KIND, "default", web()).await;
    assert!(matches!(again, Err(ApiError::AlreadyExists { .. })));
    let elsewhere = objects.create(&deployment::KIND, "nowhere", web()).await;
    assert!(matches!(elsewhere, Err(ApiError::NotFound { .. })));
}

#[tokio::test]
async fn an_update_from_an_old_version_is_a_conflict() {
    let (_folder, objects) = objects().await;
    let object = objects.create(&deployment::KIND, "default", web()).await.unwrap();
    let change = |replicas: i64, base: Value| {
        move |_| {
            let mut wanted = base;
            wanted["spec"]["replicas"] = replicas.into();
            Ok(wanted)
        }
    };
    let base = Value::clone(&object);
    let first =
        objects.update(&deployment::KIND, "default", "web", Half::Desired, change(2, base.clone())).await.unwrap();
    assert_eq!(integer(&first, "/metadata/generation"), 2);
    let second = objects.update(&deployment::KIND, "default", "web", Half::Desired, change(3, base)).await;
    assert!(matches!(second, Err(ApiError::Conflict { .. })), "{second:?}");
}

#[tokio::test]
async fn status_and_desired_state_do_not_touch_each_other() {
    let (_folder, objects) = objects().await;
    objects.create(&deployment::KIND, "default", web()).await.unwrap();
    let change = |mut object: Value| {
        object["spec"]["replicas"] = 9.into();
        object["status"] = json!({"replicas": 4});
        Ok(object)
    };
    let object = objects.update(&deployment::KIND, "default", "web", Half::Status, change).await.unwrap();
    assert_eq!((integer(&object, "/spec/replicas"), integer(&object, "/status/replicas")), (1, 4));
}

#[tokio::test]
async fn foreground_deletion_keeps_the_owner_until_its_finalizer_goes() {
    let (_folder, objects) = objects().await;
    objects.create(&deployment::KIND, "default", web()).await.unwrap();
    objects.delete(&deployment::KIND, "default", "web", Propagation::Foreground, None).await.unwrap();
    let object = objects.get(&deployment::KIND, "default", "web").unwrap();
    assert!(!text(&object, "/metadata/deletionTimestamp").is_empty());
    // Who asks a second time asks for nothing new.
    objects.delete(&deployment::KIND, "default", "web", Propagation::Foreground, None).await.unwrap();
    let again = objects.get(&deployment::KIND, "default", "web").unwrap();
    assert_eq!((integer(&object, "/metadata/generation"), integer(&again, "/metadata/generation")), (2, 2));
    let release = |mut object: Value| {
        object["metadata"]["finalizers"] = json!([]);
        Ok(object)
    };
    objects.update(&deployment::KIND, "default", "web", Half::Desired, release).await.unwrap();
    assert!(objects.get(&deployment::KIND, "default", "web").is_err());
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

#[tokio::test]
async fn a_pod_gets_its_node_unless_that_is_cordoned() {
    let (_folder, objects) = objects().await;
    let node_of = |name: &str| text(&objects.get(&pod::KIND, "default", name).unwrap(), "/spec/nodeName").to_owned();
    objects.create(&pod::KIND, "default", pod("first")).await.unwrap();
    assert_eq!(node_of("first"), "node");
    let cordoned = json!({"metadata": {"name": "node"}, "spec": {"unschedulable": true}});
    objects.create(&node::KIND, "", cordoned).await.unwrap();
    let waiting = objects.create(&pod::KIND, "default", pod("second")).await.unwrap();
    assert_eq!(node_of("second"), "");
    let uid = text(&waiting, "/metadata/uid");
    objects.bind_waiting("default", "second", "another").await.unwrap();
    assert_eq!(node_of("second"), "");
    objects.bind_waiting("default", "second", uid).await.unwrap();
    assert_eq!(node_of("second"), "", "it is cordoned still, or again");
    let uncordoned = |mut node: Value| {
        node["spec"] = json!({});
        Ok(node)
    };
    objects.update(&node::KIND, "", "node", Half::Desired, uncordoned).await.unwrap();
    objects.bind_waiting("default", "second", uid).await.unwrap();
    assert_eq!(node_of("second"), "node");
}

#[tokio::test]
async fn a_renamed_host_keeps_its_pods() {
    let (_folder, mut objects) = objects().await;
    objects.create(&node::KIND, "", json!({"metadata": {"name": "node"}})).await.unwrap();
    objects.create(&pod::KIND, "default", pod("here")).await.unwrap();
    let mut elsewhere = pod("elsewhere");
    elsewhere["spec"]["nodeName"] = "far".into();
    objects.create(&pod::KIND, "default", elsewhere).await.unwrap();
    objects.node_name = "renamed".into();
    objects.take_over().await.unwrap();
    let node_of = |name: &str| text(&objects.get(&pod::KIND, "default", name).unwrap(), "/spec/nodeName").to_owned();
    assert_eq!((node_of("here").as_str(), node_of("elsewhere").as_str()), ("renamed", "far"));
    assert!(objects.get(&node::KIND, "", "node").is_err());
}

#[tokio::test]
async fn metadata_that_is_no_object_is_refused() {
    let (_folder, objects) = objects().await;
    for wrong in [json!({"metadata": "x"}), json!([]), json!("x")] {
        let refused = objects.create(&deployment::KIND, "default", wrong.clone()).await;
        assert!(matches!(refused, Err(ApiError::BadRequest(_))), "{wrong}: {refused:?}");
    }
}

#[tokio::test]
async fn the_namespaces_of_every_node_stay() {
    let (_folder, objects) = objects().await;
    objects.create(&namespace::KIND, "", json!({"metadata": {"name": "side"}})).await.unwrap();
    let delete = async |name: &str| objects.delete(&namespace::KIND, "", name, Propagation::Background, None).await;
    let refused = delete("default").await.unwrap_err();
    let message = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    assert_eq!((refused.code().as_u16(), refused.to_string().as_str()), (403, message));
    assert!(delete("kube-system").await.is_err());
    let change = |mut object: Value| {
        object["metadata"]["labels"] = json!({"a": "b"});
        Ok(object)
    };
    let labelled = objects.update(&namespace::KIND, "", "side", Half::Desired, change).await.unwrap();
    assert_eq!(labelled["metadata"]["labels"], json!({"a": "b", "kubernetes.io/metadata.name": "side"}));
    assert!(delete("side").await.is_ok());
}

#[tokio::test]
async fn an_object_without_a_status_gets_none_by_a_change() {
    let (_folder, objects) = objects().await;
    let map = json!({"metadata": {"name": "m"}, "status": {"phase": "x"}});
    objects.create(&config_map::KIND, "default", map).await.unwrap();
    let change = |mut object: Value| {
        object["data"] = json!({"a": "1"});
        Ok(object)
    };
    let changed = objects.update(&config_map::KIND, "default", "m", Half::Desired, change).await.unwrap();
    assert_eq!((&changed["data"]["a"], changed.get("status")), (&json!("1"), None));
}
