use super::*;
use crate::api::kinds::deployment;
use crate::api::kinds::integer;

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
    let release = |mut object: Value| {
        object["metadata"]["finalizers"] = json!([]);
        Ok(object)
    };
    objects.update(&deployment::KIND, "default", "web", Half::Desired, release).await.unwrap();
    assert!(objects.get(&deployment::KIND, "default", "web").is_err());
}
