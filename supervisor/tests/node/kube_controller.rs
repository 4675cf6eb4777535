//! A controller written with kube-runtime, as its users write them: it keeps a ConfigMap for each Deployment that asks for
//! one, owns it, is tried again where it fails, and cleans up before the Deployment goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{from_value, json};

use crate::kube_doors::{over_each_door, start};
use crate::replicas::{assert_nothing_left, deployment, wait_ready};

const MANAGER: &str = "summaries";
const FINALIZER: &str = "wharf.test/summary";

struct Context {
    client: Client,
    /// The first pass finds no database, or whatever a controller needs.
    fails: AtomicBool,
    passes: AtomicU32,
    cleaned: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not this time")]
    Made,
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<Failure>>),
}

async fn reconcile(deployment: Arc<Deployment>, context: Arc<Context>) -> Result<Action, Failure> {
    context.passes.fetch_add(1, Ordering::SeqCst);
    if context.fails.swap(false, Ordering::SeqCst) {
        return Err(Failure::Made);
    }
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &deployment.namespace().unwrap());
    let applied = finalizer(&deployments, FINALIZER, deployment, async |event| match event {
        Event::Apply(deployment) => apply(&deployment, &context).await,
        Event::Cleanup(_) => {
            context.cleaned.store(true, Ordering::SeqCst);
            Ok(Action::await_change())
        }
    });
    applied.await.map_err(|error| Box::new(error).into())
}

async fn apply(deployment: &Deployment, context: &Context) -> Result<Action, Failure> {
    let name = format!("{}-summary", deployment.name_any());
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"replicas": replicas.to_string()},
        "metadata": {"name": name, "ownerReferences": [deployment.controller_owner_ref(&()).unwrap()]},
    });
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &deployment.namespace().unwrap());
    maps.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(wanted)).await?;
    Ok(Action::requeue(Duration::from_secs(3600)))
}

#[tokio::test]
async fn a_controller_of_kube_runtime_works_over_each_door() {
    let Some(node) = start("kubecontroller").await else { return };
    over_each_door(&node, |client, name| async move {
        let (fails, cleaned, passes) = (AtomicBool::new(true), AtomicBool::new(false), AtomicU32::new(0));
        let context = Arc::new(Context { client: client.clone(), fails, passes, cleaned });
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let labelled = watcher::Config::default().labels("summary=yes");
        let controller = Controller::new(deployments.clone(), labelled)
            .owns(maps.clone(), watcher::Config::default())
            .graceful_shutdown_on(async { stopped.await.unwrap() })
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(10)), context.clone())
            .for_each(|_| std::future::ready(()));
        let controller = tokio::spawn(controller);
        keeps_what_it_owns(&deployments, &maps, name, &context).await;
        stop.send(()).unwrap();
        controller.await.unwrap();
    });
    wait_ready(&node, 0);
    assert_nothing_left(node);
}

async fn keeps_what_it_owns(deployments: &Api<Deployment>, maps: &Api<ConfigMap>, name: &str, context: &Context) {
    let mut wanted = deployment(0, "sleep 1000");
    wanted["metadata"] = json!({"name": name, "labels": {"summary": "yes"}});
    deployments.create(&PostParams::default(), &from_value(wanted).unwrap()).await.unwrap();
    let summary = format!("{name}-summary");
    let says = |replicas: &'static str| {
        move |map: Option<&ConfigMap>| {
            map.and_then(|map| map.data.as_ref()?.get("replicas")).is_some_and(|it| it == replicas)
        }
    };
    let map = await_condition(maps.clone(), &summary, says("0")).await.unwrap().unwrap();
    let owner = &map.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("Deployment", name, Some(true)));
    assert!(context.passes.load(Ordering::SeqCst) >= 2, "the first one failed");
    assert_eq!(deployments.get(name).await.unwrap().finalizers(), [FINALIZER]);

    // It follows the Deployment, and undoes what others do to the map.
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    deployments.patch_scale(name, &PatchParams::default(), &scale).await.unwrap();
    await_condition(maps.clone(), &summary, says("2")).await.unwrap();
    let slip = Patch::Merge(json!({"data": {"replicas": "many"}}));
    maps.patch(&summary, &PatchParams::default(), &slip).await.unwrap();
    await_condition(maps.clone(), &summary, says("2")).await.unwrap();
    maps.delete(&summary, &DeleteParams::default()).await.unwrap();
    let again = await_condition(maps.clone(), &summary, says("2")).await.unwrap().unwrap();
    assert_ne!(again.uid(), map.uid());

    // The Deployment stays until it has cleaned up; then it goes, and the map with it.
    let uid = deployments.get(name).await.unwrap().uid().unwrap();
    deployments.delete(name, &DeleteParams::default()).await.unwrap();
    await_condition(deployments.clone(), name, conditions::is_deleted(&uid)).await.unwrap();
    assert!(context.cleaned.load(Ordering::SeqCst));
    await_condition(maps.clone(), &summary, conditions::is_deleted(&again.uid().unwrap())).await.unwrap();
}
