//! kube-rs as its users use it, over each way in: objects, patches, watches, and what goes on in containers.

use std::collections::BTreeSet;

use futures_util::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    AttachParams, DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions,
    WatchEvent, WatchParams,
};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Error, ResourceExt};
use serde_json::{Value, from_value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kube_doors::{over_each_door, start};
use crate::replicas::{assert_nothing_left, list};
use crate::testnode::IMAGE;

fn map(name: &str, tier: &str) -> ConfigMap {
    from_value(json!({"metadata": {"name": name, "labels": {"tier": tier}}, "data": {"a": "1"}})).unwrap()
}

/// Code and reason of a refusal.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> (u16, String) {
    match answer {
        Err(Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("not refused: {other:?}"),
    }
}

/// A namespace of its own for each way in, named after it.
async fn namespace(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let made = from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces.create(&PostParams::default(), &made).await.unwrap();
}

async fn end_namespace(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let uid = namespaces.get(name).await.unwrap().uid().unwrap();
    namespaces.delete(name, &DeleteParams::default()).await.unwrap();
    await_condition(namespaces, name, conditions::is_deleted(&uid)).await.unwrap();
}

#[tokio::test]
async fn kube_writes_selects_and_patches_objects_over_each_door() {
    let Some(node) = start("kubeobjects").await else { return };
    over_each_door(&node, |client, name| async move {
        namespace(&client, name).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), name);
        lists(&maps).await;
        writes(&maps).await;
        patches(&maps).await;
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("tier")).await.unwrap();
        assert_eq!(maps.list(&ListParams::default()).await.unwrap().items, []);
        end_namespace(&client, name).await;
    });
    assert_nothing_left(node);
}

async fn lists(maps: &Api<ConfigMap>) {
    let post = PostParams::default();
    for (name, tier) in [("a", "one"), ("b", "one"), ("c", "two"), ("d", "two"), ("e", "two")] {
        let made = maps.create(&post, &map(name, tier)).await.unwrap();
        assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    }
    let names = async |params: ListParams| {
        let found = maps.list(&params).await.unwrap();
        found.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(names(ListParams::default().labels("tier in (one),tier!=two")).await, ["a", "b"]);
    assert_eq!(names(ListParams::default().fields("metadata.name=c")).await, ["c"]);
    assert_eq!(names(ListParams::default().labels("tier=none")).await, [""; 0]);
    // In parts.
    let (mut params, mut parts) = (ListParams::default().limit(2), Vec::new());
    loop {
        let part = maps.list(&params).await.unwrap();
        parts.push(part.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        let Some(token) = part.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        params = params.continue_token(&token);
    }
    assert_eq!(parts, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
    let metadata = maps.list_metadata(&ListParams::default().limit(1)).await.unwrap();
    assert_eq!(metadata.items[0].metadata.labels.as_ref().unwrap()["tier"], "one");
}

async fn writes(maps: &Api<ConfigMap>) {
    let post = PostParams::default();
    assert_eq!(refusal(maps.get("none").await), (404, "NotFound".into()));
    assert_eq!(maps.get_opt("none").await.unwrap(), None);
    assert_eq!(refusal(maps.create(&post, &map("a", "one")).await), (409, "AlreadyExists".into()));
    assert_eq!(refusal(maps.create(&post, &map("A b", "one")).await), (422, "Invalid".into()));
    let tried = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&tried, &map("tried", "one")).await.unwrap();
    assert_eq!(maps.get_opt("tried").await.unwrap(), None);

    let stale = maps.get("a").await.unwrap();
    let mut changed = stale.clone();
    changed.data.as_mut().unwrap().insert("a".into(), "2".into());
    let replaced = maps.replace("a", &post, &changed).await.unwrap();
    assert_ne!(replaced.resource_version(), stale.resource_version());
    assert_eq!(refusal(maps.replace("a", &post, &changed).await), (409, "Conflict".into()));
    let other = Preconditions { uid: Some("other".into()), ..Preconditions::default() };
    let params = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
    assert_eq!(refusal(maps.delete("a", &params).await), (409, "Conflict".into()));

    let entry = maps.entry("a").await.unwrap().and_modify(|map| {
        map.labels_mut().insert("entry".into(), "1".into());
    });
    let mut entry = entry.or_insert(|| map("a", "one"));
    entry.commit(&post).await.unwrap();
    assert_eq!(maps.get("a").await.unwrap().labels()["entry"], "1");
}

async fn patches(maps: &Api<ConfigMap>) {
    let none = PatchParams::default();
    let merge = json!({"data": {"a": null, "merged": "1"}});
    let patched = maps.patch("b", &none, &Patch::Merge(&merge)).await.unwrap();
    assert_eq!(patched.data.unwrap().keys().collect::<Vec<_>>(), ["merged"]);
    let strategic = json!({"metadata": {"labels": {"tier": "three"}}});
    assert_eq!(maps.patch("b", &none, &Patch::Strategic(&strategic)).await.unwrap().labels()["tier"], "three");
    let test =
        json!([{"op": "test", "path": "/data/merged", "value": "1"}, {"op": "add", "path": "/data/x", "value": "2"}]);
    let test: json_patch::Patch = from_value(test).unwrap();
    assert_eq!(maps.patch("b", &none, &Patch::<()>::Json(test.clone())).await.unwrap().data.unwrap()["x"], "2");
    let metadata =
        maps.patch_metadata("b", &none, &Patch::Merge(json!({"metadata": {"annotations": {"n": "1"}}}))).await;
    assert_eq!(metadata.unwrap().annotations()["n"], "1");

    // Server-side apply: who has set a field keeps it until somebody insists.
    let wanted = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "labels": {"tier": "x"}}, "data": {"k": value}});
    let by = PatchParams::apply;
    maps.patch("applied", &by("one"), &Patch::Apply(wanted("1"))).await.unwrap();
    assert_eq!(refusal(maps.patch("applied", &by("two"), &Patch::Apply(wanted("2"))).await), (409, "Conflict".into()));
    let forced = maps.patch("applied", &by("two").force(), &Patch::Apply(wanted("2"))).await.unwrap();
    let managers: BTreeSet<_> = forced.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
    assert_eq!((forced.data.unwrap()["k"].as_str(), managers), ("2", ["one".to_owned(), "two".to_owned()].into()));
    assert_eq!(refusal(maps.patch("b", &none, &Patch::Apply(wanted("1"))).await).0, 400, "no manager");
}

#[tokio::test]
async fn kube_watches_and_reflects_objects_over_each_door() {
    let Some(node) = start("kubewatch").await else { return };
    over_each_door(&node, |client, name| async move {
        namespace(&client, name).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), name);
        plain_watch(&maps).await;
        for config in [watcher::Config::default().page_size(2), watcher::Config::default().streaming_lists()] {
            reflected(&maps, config).await;
        }
        end_namespace(&client, name).await;
    });
    assert_nothing_left(node);
}

async fn plain_watch(maps: &Api<ConfigMap>) {
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let params = WatchParams::default().labels("tier=one").timeout(60);
    let mut events = std::pin::pin!(maps.watch(&params, &version).await.unwrap());
    let post = PostParams::default();
    maps.create(&post, &map("unseen", "two")).await.unwrap();
    maps.create(&post, &map("seen", "one")).await.unwrap();
    let label = |tier: &str| Patch::Merge(json!({"metadata": {"labels": {"tier": tier}}}));
    // It comes into what is watched, changes, and leaves it.
    maps.patch("unseen", &PatchParams::default(), &label("one")).await.unwrap();
    maps.patch("unseen", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2"}}))).await.unwrap();
    maps.patch("unseen", &PatchParams::default(), &label("two")).await.unwrap();
    maps.delete("seen", &DeleteParams::default()).await.unwrap();
    maps.delete("unseen", &DeleteParams::default()).await.unwrap();
    let expected =
        [("ADDED", "seen"), ("ADDED", "unseen"), ("MODIFIED", "unseen"), ("DELETED", "unseen"), ("DELETED", "seen")];
    for expected in expected {
        let told = match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => ("ADDED", map.name_any()),
            WatchEvent::Modified(map) => ("MODIFIED", map.name_any()),
            WatchEvent::Deleted(map) => ("DELETED", map.name_any()),
            other => panic!("{other:?}"),
        };
        assert_eq!((told.0, told.1.as_str()), expected);
    }
}

/// A store that a watcher fills, and which follows.
async fn reflected(maps: &Api<ConfigMap>, config: watcher::Config) {
    let post = PostParams::default();
    for name in ["a", "b", "c"] {
        maps.create(&post, &map(name, "one")).await.unwrap();
    }
    let (store, writer) = reflector::store();
    let events = watcher(maps.clone(), config).default_backoff().reflect(writer).touched_objects();
    let mut events = std::pin::pin!(events);
    for _ in 0..3 {
        events.try_next().await.unwrap().unwrap();
    }
    assert_eq!(store.len(), 0, "it is filled all at once");
    maps.patch("c", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "9"}}))).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let names =
        |store: &reflector::Store<ConfigMap>| store.state().iter().map(|map| map.name_any()).collect::<BTreeSet<_>>();
    for touched in ["c", "b"] {
        assert_eq!(events.try_next().await.unwrap().unwrap().name_any(), touched);
    }
    assert_eq!(names(&store), ["a".to_owned(), "c".to_owned()].into());
    let key = ObjectRef::new("c").within(&store.state()[0].namespace().unwrap());
    assert_eq!(store.get(&key).unwrap().data.as_ref().unwrap()["a"], "9");
    maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    while !store.is_empty() {
        events.try_next().await.unwrap().unwrap();
    }
}

fn pod(name: &str, script: &str) -> Pod {
    let container = json!({"name": "main", "image": IMAGE, "stdin": true, "command": ["sh", "-c", script]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container], "readinessGates": [{"conditionType": "example/ok"}]});
    from_value(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn kube_talks_to_containers_over_each_door() {
    let Some(node) = start("kubepods").await else { return };
    over_each_door(&node, |client, name| async move {
        namespace(&client, name).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), name);
        let post = PostParams::default();
        pods.create(&post, &pod("web", "echo up; exec httpd -f -p 8080")).await.unwrap();
        pods.create(&post, &pod("echo", r#"while read line; do echo "line $line"; done"#)).await.unwrap();
        for pod in ["web", "echo"] {
            await_condition(pods.clone(), pod, conditions::is_pod_running()).await.unwrap();
        }
        gates(&pods).await;
        logs(&pods).await;
        execs(&pods).await;
        attaches(&pods).await;
        forwards(&pods).await;
        let uid = pods.get("web").await.unwrap().uid().unwrap();
        pods.evict("web", &EvictParams::default()).await.unwrap();
        await_condition(pods.clone(), "web", conditions::is_deleted(&uid)).await.unwrap();
        assert_eq!(refusal(pods.evict("web", &EvictParams::default()).await), (404, "NotFound".into()));
        end_namespace(&client, name).await;
    });
    assert_nothing_left(node);
}

/// The status is written on its own path, and by it a condition that others set.
async fn gates(pods: &Api<Pod>) {
    let ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    assert!(!ready(Some(&pods.get_status("web").await.unwrap())));
    let status = json!({"status": {"conditions": [{"type": "example/ok", "status": "True"}]}});
    pods.patch_status("web", &PatchParams::default(), &Patch::Strategic(&status)).await.unwrap();
    await_condition(pods.clone(), "web", ready).await.unwrap();
}

async fn logs(pods: &Api<Pod>) {
    let following = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("web", &following).await.unwrap().lines();
    assert_eq!(lines.try_next().await.unwrap().unwrap(), "up");
    let last = LogParams { tail_lines: Some(1), timestamps: true, ..LogParams::default() };
    assert!(pods.logs("web", &last).await.unwrap().ends_with("Z up\n"));
    let other = LogParams { container: Some("other".into()), ..LogParams::default() };
    assert_eq!(refusal(pods.logs("web", &other).await), (400, "BadRequest".into()));
}

async fn execs(pods: &Api<Pod>) {
    let params = AttachParams::default().stdin(true).stderr(true);
    let mut running =
        pods.exec("web", ["sh", "-c", "busybox head -c 300000; echo err >&2; exit 7"], &params).await.unwrap();
    let sent = vec![b'x'; 300_000];
    let mut stdin = running.stdin().unwrap();
    let (mut stdout, mut stderr) = (running.stdout().unwrap(), running.stderr().unwrap());
    let status = running.take_status().unwrap();
    let (mut out, mut err) = (Vec::new(), String::new());
    let (written, _, _) =
        tokio::join!(stdin.write_all(&sent), stdout.read_to_end(&mut out), stderr.read_to_string(&mut err));
    written.unwrap();
    assert!(out == sent && err == "err\n", "{} bytes, {err:?}", out.len());
    let status = serde_json::to_value(status.await.unwrap()).unwrap();
    let code = json!([{"reason": "ExitCode", "message": "7"}]);
    assert_eq!((&status["reason"], &status["details"]["causes"]), (&json!("NonZeroExitCode"), &code));
    assert!(pods.exec("none", ["true"], &AttachParams::default()).await.is_err());
}

async fn attaches(pods: &Api<Pod>) {
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut attached = pods.attach("echo", &params).await.unwrap();
    attached.stdin().unwrap().write_all(b"hello\n").await.unwrap();
    let mut said = [0; 11];
    attached.stdout().unwrap().read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"line hello\n");
    attached.abort();
}

async fn forwards(pods: &Api<Pod>) {
    let mut forwarder = pods.portforward("web", &[8080]).await.unwrap();
    let mut stream = forwarder.take_stream(8080).unwrap();
    stream.write_all(b"GET /missing HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
    drop(stream);
    forwarder.abort();
}

#[tokio::test]
async fn kube_scales_a_deployment_and_awaits_its_end() {
    let Some(node) = start("kubescale").await else { return };
    over_each_door(&node, |client, name| async move {
        namespace(&client, name).await;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), name);
        let made = crate::replicas::deployment(1, "sleep 1000");
        deployments.create(&PostParams::default(), &from_value(made).unwrap()).await.unwrap();
        let done = async || await_condition(deployments.clone(), "web", conditions::is_deployment_completed()).await;
        let shown = done().await.unwrap().unwrap();
        assert_eq!(shown.status.unwrap().available_replicas, Some(1));
        let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
        let scaled = deployments.patch_scale("web", &PatchParams::default(), &scale).await.unwrap();
        assert_eq!(scaled.spec.unwrap().replicas, Some(2));
        let two = |deployment: Option<&Deployment>| {
            deployment.and_then(|own| own.status.as_ref()?.available_replicas).is_some_and(|count| count == 2)
        };
        await_condition(deployments.clone(), "web", two).await.unwrap();
        let mut scale = deployments.get_scale("web").await.unwrap();
        assert_eq!(scale.status.as_ref().unwrap().selector.as_deref(), Some("app=web"));
        scale.spec.as_mut().unwrap().replicas = Some(0);
        deployments.replace_scale("web", &PostParams::default(), &scale).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(client.clone(), name);
        let mut events = std::pin::pin!(watcher(pods.clone(), watcher::Config::default().labels("app=web")));
        while !pods.list(&ListParams::default()).await.unwrap().items.is_empty() {
            events.next().await.unwrap().unwrap();
        }
        deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
        end_namespace(&client, name).await;
    });
    assert_eq!(list(&node, "deployments"), Vec::<Value>::new());
    assert_nothing_left(node);
}
