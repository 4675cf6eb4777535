//! What goes when its owner or its namespace has gone.

use std::collections::BTreeSet;

use serde_json::Value;

use super::changes::Changes;
use crate::api::kinds::{KINDS, Kind, namespace, pod, text};
use crate::api::object_store::{Change, ChangeType};
use crate::api::objects::{FOREGROUND_FINALIZER, Half, Objects, Propagation, is_owned_by};
use crate::api::status::ApiError;

/// Collects whenever something was deleted or is to be.
pub async fn run(objects: Objects) {
    let mut changes = Changes::new(objects.store());
    loop {
        if let Err(error) = collect(&objects).await {
            tracing::warn!(%error, "collect garbage");
        }
        while changes.next().await.is_some_and(|changes| !changes.iter().any(matters)) {}
    }
}

/// Deletions matter, and the marks that announce them.
fn matters(change: &Change) -> bool {
    change.change_type == ChangeType::Deleted
        || (change.key.resource != pod::KIND.resource()
            && !text(&change.object, "/metadata/deletionTimestamp").is_empty())
}

async fn collect(objects: &Objects) -> Result<(), ApiError> {
    let everything: Vec<(&'static Kind, Vec<_>)> =
        KINDS.iter().map(|kind| (*kind, objects.list(kind, None).0)).collect();
    let alive: BTreeSet<&str> =
        everything.iter().flat_map(|(_, all)| all).map(|object| text(object, "/metadata/uid")).collect();
    let leaving: BTreeSet<&str> = everything
        .iter()
        .flat_map(|(_, all)| all)
        .filter(|object| deletes_dependents_first(object))
        .map(|object| text(object, "/metadata/uid"))
        .collect();
    for (kind, all) in &everything {
        for object in all {
            let owners = pod::items(&object["metadata"], "ownerReferences");
            let mut uids = owners.iter().map(|owner| text(owner, "/uid"));
            let orphaned = !owners.is_empty() && uids.clone().all(|uid| !alive.contains(uid));
            let owner_leaves = uids.any(|uid| leaving.contains(uid));
            if (orphaned || owner_leaves) && !is_marked(object) {
                // What goes before its owner lets what it owns go before itself.
                let propagation = if owner_leaves { Propagation::Foreground } else { Propagation::Background };
                delete(objects, kind, object, propagation).await?;
            }
        }
    }
    for (kind, all) in &everything {
        for object in all.iter().filter(|object| deletes_dependents_first(object)) {
            let uid = text(object, "/metadata/uid");
            let waits = KINDS.iter().any(|kind| objects.list(kind, None).0.iter().any(|other| is_owned_by(other, uid)));
            if !waits {
                release(objects, kind, object).await?;
            }
        }
    }
    empty_namespaces(objects).await
}

fn is_marked(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

fn deletes_dependents_first(object: &Value) -> bool {
    is_marked(object) && pod::items(&object["metadata"], "finalizers").iter().any(|f| f == FOREGROUND_FINALIZER)
}

async fn delete(
    objects: &Objects,
    kind: &'static Kind,
    object: &Value,
    propagation: Propagation,
) -> Result<(), ApiError> {
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    tracing::debug!(kind = kind.kind, namespace, name, "collected: what owned it has gone, or goes");
    match objects.delete(kind, namespace, name, propagation, None).await {
        Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn release(objects: &Objects, kind: &'static Kind, object: &Value) -> Result<(), ApiError> {
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let change = |mut object: Value| {
        if let Some(finalizers) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|finalizer| finalizer != FOREGROUND_FINALIZER);
        }
        Ok(object)
    };
    match objects.update(kind, namespace, name, Half::Desired, change).await {
        Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A namespace that is to go takes everything in it along and goes last.
async fn empty_namespaces(objects: &Objects) -> Result<(), ApiError> {
    for namespace in objects.list(&namespace::KIND, None).0.iter().filter(|namespace| is_marked(namespace)) {
        let name = text(namespace, "/metadata/name");
        let mut empty = true;
        for kind in KINDS.iter().filter(|kind| kind.namespaced) {
            for object in objects.list(kind, Some(name)).0 {
                empty = false;
                if !is_marked(&object) {
                    delete(objects, kind, &object, Propagation::Background).await?;
                }
            }
        }
        if empty {
            objects.remove(&namespace::KIND, "", name, text(namespace, "/metadata/uid")).await?;
        }
    }
    Ok(())
}
