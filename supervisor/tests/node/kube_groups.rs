//! What operators keep in the API beside their own objects: events, in both groups that have them, and leases, by which one
//! of several leads.

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::events::{Event as Told, EventType, Recorder, Reporter};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, from_value, json};

use crate::api_requests::request;
use crate::kube_client::refusal;
use crate::kube_doors::of_socket;
use crate::replicas::assert_nothing_left;
use crate::testnode::{self, TestNode};

fn clients(node: &TestNode) -> (Client, Api<Event>, Api<CoreEvent>) {
    let client = of_socket(node.path("run/api.sock"));
    (client.clone(), Api::default_namespaced(client.clone()), Api::default_namespaced(client))
}

fn regarding() -> ObjectReference {
    from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": "default", "name": "a", "uid": "u"}))
        .unwrap()
}

#[tokio::test]
async fn an_operators_events_are_the_same_objects_in_both_groups() {
    let Some(node) = testnode::start("eventgroups").await else { return };
    let (client, events, core_events) = clients(&node);
    let list = ListParams::default();
    let version = events.list(&list).await.unwrap().metadata.resource_version.unwrap();
    let reporter = Reporter { controller: "example.com/robot".into(), instance: Some("robot-1".into()) };
    let recorder = Recorder::new(client, reporter);
    let told = Told {
        type_: EventType::Warning,
        reason: "Rusty".into(),
        note: Some("it squeaks".into()),
        action: "Oiling".into(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder.publish(&told, &regarding()).await.unwrap();
    }
    let about = ListParams::default().fields("regarding.name=a,regarding.kind=ConfigMap");
    let event = events.list(&about).await.unwrap().items.remove(0);
    let name = event.name_any();
    assert_eq!((event.note.as_deref(), event.series.as_ref().unwrap().count), (Some("it squeaks"), 2));
    let about = ListParams::default().fields("involvedObject.name=a,type=Warning");
    let core = core_events.list(&about).await.unwrap().items.remove(0);
    assert_eq!(
        (core.name_any(), core.uid(), core.resource_version()),
        (name.clone(), event.uid(), event.resource_version())
    );
    assert_eq!(
        (core.message.as_deref(), core.reporting_component.as_deref()),
        (Some("it squeaks"), Some("example.com/robot"))
    );
    assert_eq!((core.involved_object, core.event_time), (regarding(), event.event_time.clone()));

    // A change through one is seen through the other.
    let patch = Patch::Merge(json!({"metadata": {"labels": {"seen": "yes"}}, "message": "it squeaked"}));
    core_events.patch(&name, &PatchParams::default(), &patch).await.unwrap();
    let seen = events.list(&ListParams::default().labels("seen=yes")).await.unwrap().items.remove(0);
    assert_eq!(seen.note.as_deref(), Some("it squeaked"));
    core_events.create(&PostParams::default(), &old_form("b")).await.unwrap();
    assert_eq!(events.get("b").await.unwrap().deprecated_count, Some(3));
    core_events.delete("b", &DeleteParams::default()).await.unwrap();
    let watched = events.watch(&WatchParams::default().fields("regarding.name=a"), &version).await.unwrap();
    let changes: Vec<WatchEvent<Event>> = watched.take(5).try_collect().await.unwrap();
    let note = |change: WatchEvent<Event>| match change {
        WatchEvent::Added(event) | WatchEvent::Modified(event) | WatchEvent::Deleted(event) => event.note.unwrap(),
        other => panic!("{other:?}"),
    };
    let notes: Vec<String> = changes.into_iter().map(note).collect();
    assert_eq!(notes, ["it squeaks", "it squeaks", "it squeaked", "old", "old"]);
    events.delete(&name, &DeleteParams::default()).await.unwrap();
    assert_eq!(refusal(core_events.get(&name).await), (404, "NotFound".into()));
    assert_nothing_left(node);
}

fn old_form(name: &str) -> CoreEvent {
    from_value(json!({
        "metadata": {"name": name}, "involvedObject": {"namespace": "default", "name": "a"}, "message": "old",
        "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "robot"},
    }))
    .unwrap()
}

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

#[tokio::test]
async fn events_of_the_newer_group_keep_its_rules() {
    let Some(node) = testnode::start("eventrules").await else { return };
    let send = |method: &str, path: &str, media_type: &str, body: &Value| {
        let answer = request(
            &node,
            method,
            path,
            &[&format!("Content-Type: application/{media_type}")],
            body.to_string().as_bytes(),
        );
        (answer.code, answer.body)
    };
    let whole = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "R", "action": "A", "note": "n",
        "reportingController": "example.com/robot", "reportingInstance": "robot-1",
        "regarding": {"kind": "ConfigMap", "namespace": "default", "name": "m"},
    });
    for (change, field) in [
        (json!({"eventTime": null}), "eventTime"),
        (json!({"type": "Loud"}), "type"),
        (json!({"action": ""}), "action"),
        (json!({"deprecatedCount": 1}), "count"),
        (json!({"reportingController": "no name"}), "reportingController"),
        (json!({"series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}), "series.count"),
    ] {
        let mut wrong = whole.clone();
        json_patch::merge(&mut wrong, &change);
        let (code, status) = send("POST", EVENTS, "json", &wrong);
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
        assert!(
            status["details"]["causes"].as_array().unwrap().iter().any(|cause| cause["field"] == field),
            "{status}"
        );
    }
    let mut core = whole.clone();
    core["apiVersion"] = "v1".into();
    assert_eq!(send("POST", EVENTS, "json", &core).0, 400);
    let mut strange = whole.clone();
    strange["message"] = "a field of the other group".into();
    let (code, status) = send("POST", &format!("{EVENTS}?fieldValidation=Strict"), "json", &strange);
    assert!(code == 400 && status["message"].as_str().unwrap().contains("unknown field \"message\""), "{status}");
    let (code, made) = send("POST", EVENTS, "json", &whole);
    assert_eq!((code, &made["apiVersion"], &made["note"]), (201, &json!("events.k8s.io/v1"), &json!("n")), "{made}");

    // What happened stays; how often it did not.
    let path = format!("{EVENTS}/a");
    let (code, status) = send("PATCH", &path, "merge-patch+json", &json!({"note": "other"}));
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("message")), "{status}");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let (code, changed) = send("PATCH", &path, "strategic-merge-patch+json", &series);
    assert_eq!((code, &changed["series"]["count"]), (200, &json!(2)), "{changed}");
    let applied = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"labels": {"x": "y"}}});
    let (code, changed) = send("PATCH", &format!("{path}?fieldManager=m"), "apply-patch+yaml", &applied);
    assert_eq!(
        (code, &changed["metadata"]["labels"]["x"], &changed["note"]),
        (200, &json!("y"), &json!("n")),
        "{changed}"
    );
    let (code, changed) = send("PUT", &path, "json", &whole);
    assert_eq!((code, changed.get("series")), (200, None), "{changed}");
    let table = request(&node, "GET", EVENTS, &["Accept: application/json;as=Table;v=v1;g=meta.k8s.io"], b"").body;
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert!(cells.contains(&json!("configmap/m")) && cells.contains(&json!("example.com/robot, robot-1")), "{table}");
    assert_eq!(send("DELETE", EVENTS, "json", &Value::Null).0, 200);
    assert_nothing_left(node);
}

#[tokio::test]
async fn of_those_that_want_a_lease_one_has_it() {
    let Some(node) = testnode::start("leases").await else { return };
    let leases: Api<Lease> = Api::default_namespaced(of_socket(node.path("run/api.sock")));
    let post = PostParams::default();
    let held_by = |lease: &Lease, holder: &str| {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(holder.into());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
        lease
    };
    let free: Lease = from_value(json!({"metadata": {"name": "robot"},
        "spec": {"leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000001Z"}}))
    .unwrap();
    // Whoever makes it first has it, and of those who saw the same lease whoever takes it first.
    leases.create(&post, &held_by(&free, "one")).await.unwrap();
    assert_eq!(refusal(leases.create(&post, &held_by(&free, "two")).await), (409, "AlreadyExists".into()));
    let seen = leases.get("robot").await.unwrap();
    assert_eq!(seen.spec.as_ref().unwrap().renew_time, free.spec.unwrap().renew_time, "to the microsecond");
    let names = ["one", "two", "three"];
    let tries = names.map(|name| (name, held_by(&seen, name)));
    let taken =
        futures_util::future::join_all(tries.iter().map(|(_, lease)| leases.replace("robot", &post, lease))).await;
    let winners: Vec<&str> =
        names.into_iter().zip(&taken).filter(|(_, taken)| taken.is_ok()).map(|(name, _)| name).collect();
    let lost: Vec<_> = taken.into_iter().filter(Result::is_err).map(refusal).collect();
    assert_eq!(lost, vec![(409, "Conflict".to_owned()); 2]);
    let spec = leases.get("robot").await.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (winners.first().copied(), Some(1)));

    for (wrong, field) in [
        (json!({"leaseDurationSeconds": 0}), "spec.leaseDurationSeconds"),
        (json!({"leaseTransitions": -1}), "spec.leaseTransitions"),
        (json!({"strategy": "OldestEmulationVersion"}), "spec.strategy"),
    ] {
        let patched = leases.patch("robot", &PatchParams::default(), &Patch::Merge(json!({"spec": wrong}))).await;
        let Err(kube::Error::Api(status)) = patched else { panic!("{field}: {patched:?}") };
        assert!(status.code == 422 && status.message.contains(field), "{status:?}");
    }
    leases.delete("robot", &DeleteParams::default()).await.unwrap();
    assert_nothing_left(node);
}
