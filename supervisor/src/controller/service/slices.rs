//! The EndpointSlices of Services that select pods, kept as the pods are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Progress;
use super::endpoints::{self, MANAGER, MANAGER_LABEL};
use crate::api::kinds::{Kind, endpoint_slice, pod, service, text};
use crate::api::object_store::Change;
use crate::api::objects::{Half, Objects, Propagation, owner_reference};
use crate::api::status::ApiError;
use crate::controller::changes::{Changes, Name, all};

/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the slices of every Service.
pub async fn run(objects: Objects, progress: Progress) {
    let mut changes = Changes::new(objects.store());
    let mut seen = objects.store().version();
    let mut names = all(&objects, &service::KIND);
    loop {
        let mut failed = BTreeSet::new();
        for name in names {
            if let Err(error) = reconcile(&objects, &name.0, &name.1).await {
                tracing::warn!(namespace = name.0, service = name.1, %error, "endpoint slices");
                failed.insert(name);
            }
        }
        progress.slices.send_replace(seen);
        names = tokio::select! {
            batch = changes.next() => match batch {
                Some(batch) => {
                    seen = batch.last().map_or(seen, |change| change.version);
                    let concerned = batch.iter().flat_map(|change| concerned(&objects, change));
                    concerned.chain(failed).collect()
                }
                None => {
                    seen = objects.store().version();
                    all(&objects, &service::KIND)
                }
            },
            () = tokio::time::sleep(RETRY), if !failed.is_empty() => failed,
        };
    }
}

/// The Services that a change concerns.
pub(super) fn concerned(objects: &Objects, change: &Change) -> Vec<Name> {
    let namespace = &change.key.namespace;
    let of = |name: &str| (namespace.clone(), name.to_owned());
    if change.key.resource == service::KIND.resource() {
        return vec![of(&change.key.name)];
    }
    if change.key.resource == endpoint_slice::KIND.resource() {
        let label =
            |key: &str| change.object["metadata"]["labels"].get(key).and_then(Value::as_str).unwrap_or_default();
        let ours = label(MANAGER_LABEL) == MANAGER;
        return Vec::from_iter(ours.then(|| of(label(endpoint_slice::SERVICE_LABEL))));
    }
    if change.key.resource != pod::KIND.resource() {
        return Vec::new();
    }
    let states = [Some(&change.object), change.previous.as_ref()];
    let selects = |service: &Arc<Value>| {
        let selector = endpoints::selector(service)?;
        let matches = states.iter().flatten().any(|pod| selector.matches(&pod["metadata"]["labels"]));
        matches.then(|| of(text(service, "/metadata/name")))
    };
    objects.list(&service::KIND, Some(namespace)).0.iter().filter_map(selects).collect()
}

async fn reconcile(objects: &Objects, namespace: &str, name: &str) -> Result<(), ApiError> {
    let service = match objects.get(&service::KIND, namespace, name) {
        Ok(service) => service,
        // Its slices go as all that is owned by what is gone.
        Err(ApiError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    if endpoints::selector(&service).is_none() || !text(&service, "/metadata/deletionTimestamp").is_empty() {
        return Ok(());
    }
    let wanted = endpoints::slices(&service, &objects.list(&pod::KIND, Some(namespace)).0);
    let labels = endpoints::labels(&service);
    keep(objects, &Owner { kind: &service::KIND, object: &service, labels, manager: MANAGER }, wanted).await
}

/// What slices are made for, and by whom.
pub(super) struct Owner<'a> {
    pub(super) kind: &'static Kind,
    pub(super) object: &'a Value,
    /// Of the slices.
    pub(super) labels: Value,
    /// The value of [`MANAGER_LABEL`] among them.
    pub(super) manager: &'static str,
}

/// Makes the slices of an owner those that are wanted.
pub(super) async fn keep(objects: &Objects, owner: &Owner<'_>, wanted: Vec<endpoints::Slice>) -> Result<(), ApiError> {
    let (namespace, name) = (text(owner.object, "/metadata/namespace"), text(owner.object, "/metadata/name"));
    let labels = &owner.labels;
    let mut present = own_slices(objects, owner);
    for endpoints::Slice { family, ports, endpoints } in wanted {
        // The one that fits best is changed least; what its addresses are stays.
        let of_family = |slice: &&Arc<Value>| slice["addressType"] == family;
        let is_same = |slice: &Arc<Value>| of_family(&slice) && ports_of(slice) == ports;
        let found = present.iter().position(is_same).or_else(|| present.iter().position(|slice| of_family(&slice)));
        let content = json!({"ports": ports, "endpoints": endpoints});
        match found.map(|index| present.remove(index)) {
            Some(slice) => update(objects, &slice, labels, content).await?,
            None => {
                let metadata = json!({"generateName": format!("{name}-"), "labels": labels,
                    "ownerReferences": [owner_reference(owner.kind, owner.object)]});
                let slice = json!({"metadata": metadata, "addressType": family, "ports": content["ports"],
                    "endpoints": content["endpoints"]});
                objects.create(&endpoint_slice::KIND, namespace, slice).await?;
            }
        }
    }
    for surplus in present {
        let name = text(&surplus, "/metadata/name");
        match objects.delete(&endpoint_slice::KIND, namespace, name, Propagation::Background, None).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The slices that were made for an owner.
fn own_slices(objects: &Objects, owner: &Owner<'_>) -> Vec<Arc<Value>> {
    let mut slices = objects.list(&endpoint_slice::KIND, Some(text(owner.object, "/metadata/namespace"))).0;
    slices.retain(|slice| {
        let labels = &slice["metadata"]["labels"];
        let owned = crate::api::objects::is_owned_by(slice, text(owner.object, "/metadata/uid"));
        owned && labels[MANAGER_LABEL] == owner.manager && text(slice, "/metadata/deletionTimestamp").is_empty()
    });
    slices
}

fn ports_of(slice: &Value) -> Value {
    slice.get("ports").cloned().unwrap_or_default()
}

async fn update(objects: &Objects, slice: &Value, labels: &Value, content: Value) -> Result<(), ApiError> {
    let is_same = slice["metadata"]["labels"] == *labels
        && ports_of(slice) == content["ports"]
        && slice["endpoints"] == content["endpoints"];
    if is_same {
        return Ok(());
    }
    let (namespace, name) = (text(slice, "/metadata/namespace"), text(slice, "/metadata/name"));
    let labels = labels.clone();
    let change = move |mut slice: Value| {
        slice["metadata"]["labels"] = labels;
        slice["ports"] = content["ports"].clone();
        slice["endpoints"] = content["endpoints"].clone();
        Ok::<Value, ApiError>(slice)
    };
    objects.update(&endpoint_slice::KIND, namespace, name, Half::Desired, change).await.map(drop)
}
