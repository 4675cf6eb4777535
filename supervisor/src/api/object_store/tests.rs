use super::*;
use serde_json::json;

fn pod(name: &str) -> (Key, Value) {
    (Key::new("pods", "default", name), json!({"metadata": {"name": name}}))
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.redb");
    let (key, object) = pod("a");
    {
        let store = ObjectStore::open(&path).unwrap();
        store.create(key.clone(), object).await.unwrap();
        let change = |o: &mut Value| -> Result<(), ()> {
            o["x"] = json!(1);
            Ok(())
        };
        store.update(key.clone(), change).await.unwrap().unwrap();
    }
    let store = ObjectStore::open(&path).unwrap();
    let object = store.get(&key).unwrap();
    assert_eq!((&object["x"], &object["metadata"]["resourceVersion"]), (&json!(1), &json!("3")));
    assert_eq!(store.version(), 3);
}

#[tokio::test]
async fn a_check_counts_objects_and_finds_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.redb");
    let (key, object) = pod("a");
    ObjectStore::open(&path).unwrap().create(key, object).await.unwrap();
    assert_eq!(ObjectStore::check(&path).unwrap(), 1);
    let mut content = std::fs::read(&path).unwrap();
    let at = content.windows(8).position(|bytes| bytes == b"metadata").unwrap();
    content[at] = b'M';
    std::fs::write(&path, content).unwrap();
    assert!(ObjectStore::check(&path).is_err());
}

#[tokio::test]
async fn watchers_see_every_change_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
    let start = store.version();
    let (key, object) = pod("a");
    store.create(key.clone(), object).await.unwrap();
    store.remove(key).await.unwrap();
    let changes = store.changes_since(start).unwrap();
    let types: Vec<ChangeType> = changes.iter().map(|c| c.change_type).collect();
    assert_eq!(types, [ChangeType::Added, ChangeType::Deleted]);
    assert_eq!(store.changes_since(start + 1).unwrap().len(), 1);
    assert!(matches!(store.changes_since(0), Err(StoreError::Expired { .. })));
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
    let (key, object) = pod("a");
    store.create(key.clone(), object).await.unwrap();
    let before = store.version();
    store.update(key, |_| Ok::<(), ()>(())).await.unwrap().unwrap();
    assert_eq!(store.version(), before);
}

#[tokio::test]
async fn a_list_at_a_version_is_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
    let key = |name: &str| Key::new("pods", "a", name);
    for name in ["x", "y"] {
        store.create(key(name), json!({"metadata": {"name": name}})).await.unwrap();
    }
    let (before, version) = store.list("pods", Some("a"));
    store.remove(key("x")).await.unwrap();
    let change = |object: &mut Value| {
        object["spec"] = 1.into();
        Ok::<(), ()>(())
    };
    store.update(key("y"), change).await.unwrap().unwrap();
    store.create(key("z"), json!({"metadata": {"name": "z"}})).await.unwrap();
    assert_eq!(store.list_at("pods", Some("a"), version).unwrap(), before);
    assert_eq!(store.list_at("pods", None, store.version()).unwrap(), store.list("pods", None).0);
    assert_eq!(store.list_at("pods", Some("b"), version).unwrap(), Vec::<Arc<Value>>::new());
    assert!(matches!(store.list_at("pods", None, 0), Err(StoreError::Expired { .. })));
}

#[tokio::test]
async fn lists_keep_to_their_resource_and_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
    for (resource, namespace) in [("pods", "a"), ("pods", "b"), ("podsx", "a"), ("nodes", "")] {
        store.create(Key::new(resource, namespace, "n"), json!({"metadata": {}})).await.unwrap();
    }
    assert_eq!(store.list("pods", None).0.len(), 2);
    assert_eq!(store.list("pods", Some("b")).0.len(), 1);
    assert_eq!(store.list("nodes", None).0.len(), 1);
}

#[tokio::test]
async fn renewals_are_seen_and_not_written_and_their_versions_are_not_given_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("o.redb");
    let (key, object) = pod("a");
    let renew = |number: u64| move |object: &mut Value| object["renewed"] = number.into();
    let (start, latest);
    {
        let store = ObjectStore::open(&path).unwrap();
        store.create(key.clone(), object).await.unwrap();
        start = store.version();
        for number in 0..3000 {
            store.renew(key.clone(), renew(number)).await.unwrap();
        }
        latest = store.version();
        assert_eq!(latest, start + 3000);
        let seen = store.get(&key).unwrap();
        assert_eq!(
            (&seen["renewed"], &seen["metadata"]["resourceVersion"]),
            (&json!(2999), &json!(latest.to_string()))
        );
        // A watcher that has been away gets the last of them, and whoever has seen that one gets nothing.
        let changes = store.changes_since(start).unwrap();
        assert_eq!(changes.iter().map(|change| change.version).collect::<Vec<_>>(), [latest]);
        assert!(store.changes_since(latest).unwrap().is_empty());
        assert_eq!(store.list_at("pods", None, start).unwrap().len(), 1);
        let missing = store.renew(Key::new("pods", "default", "none"), renew(0)).await;
        assert!(matches!(missing, Err(StoreError::Missing(_))));
        assert_eq!(store.version(), latest);
    }
    // As after a crash.
    let store = ObjectStore::open(&path).unwrap();
    assert_eq!(store.get(&key).unwrap().get("renewed"), None);
    assert!(store.version() >= latest && store.version() <= latest + RESERVED_VERSIONS, "{}", store.version());
    assert!(matches!(store.changes_since(latest - 1), Err(StoreError::Expired { .. })));
    store.renew(key.clone(), renew(1)).await.unwrap();
    let write = |object: &mut Value| -> Result<(), ()> {
        object["written"] = true.into();
        Ok(())
    };
    store.update(key.clone(), write).await.unwrap().unwrap();
    // As after an orderly end.
    let last = store.version();
    store.settle().await.unwrap();
    drop(store);
    let store = ObjectStore::open(&path).unwrap();
    assert_eq!((store.version(), &store.get(&key).unwrap()["renewed"]), (last, &json!(1)));
    assert!(store.changes_since(last).unwrap().is_empty());
}

#[tokio::test]
async fn a_list_at_a_version_has_what_was_before_changes_among_renewals() {
    let store = ObjectStore::in_memory([]).unwrap();
    let (key, object) = pod("a");
    store.create(key.clone(), object).await.unwrap();
    let (other, object) = pod("b");
    store.renew(key.clone(), |object| object["n"] = 1.into()).await.unwrap();
    let version = store.version();
    store.create(other, object).await.unwrap();
    store.renew(key.clone(), |object| object["n"] = 2.into()).await.unwrap();
    let names = |objects: Vec<Arc<Value>>| -> Vec<Value> {
        objects.iter().map(|object| object["metadata"]["name"].clone()).collect()
    };
    assert_eq!(names(store.list_at("pods", None, version).unwrap()), ["a"]);
    assert_eq!(names(store.list("pods", None).0), ["a", "b"]);
    let seen: Vec<ChangeType> = store.changes_since(version).unwrap().iter().map(|c| c.change_type).collect();
    assert_eq!(seen, [ChangeType::Added, ChangeType::Modified]);
    store.remove(key).await.unwrap();
    assert_eq!(names(store.list_at("pods", None, store.version() - 1).unwrap()), ["a", "b"]);
}
