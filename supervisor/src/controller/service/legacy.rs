//! Endpoints for clients that know no EndpointSlices: made of the pods of Services that select some, and made into slices
//! where people have written them for a Service without a selector.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::endpoints::{self, MANAGER_LABEL};
use super::slices::{self, Owner};
use super::subsets;
use crate::api::kinds::{endpoint_slice, endpoints as kind, pod, service, text};
use crate::api::object_store::Change;
use crate::api::objects::{Half, Objects, is_owned_by, owner_reference};
use crate::api::status::ApiError;
use crate::controller::changes::{Changes, Name, all};

/// The label's value of slices that were made of Endpoints.
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps both for every Service.
pub async fn run(objects: Objects) {
    let mut changes = Changes::new(objects.store());
    let mut names = all(&objects, &service::KIND);
    names.extend(all(&objects, &kind::KIND));
    loop {
        let mut failed = BTreeSet::new();
        for name in names {
            if let Err(error) = reconcile(&objects, &name.0, &name.1).await {
                tracing::warn!(namespace = name.0, service = name.1, %error, "endpoints");
                failed.insert(name);
            }
        }
        names = tokio::select! {
            batch = changes.next() => match batch {
                Some(batch) => batch.iter().flat_map(|change| concerned(&objects, change)).chain(failed).collect(),
                None => {
                    let mut names = all(&objects, &service::KIND);
                    names.extend(all(&objects, &kind::KIND));
                    names
                }
            },
            () = tokio::time::sleep(RETRY), if !failed.is_empty() => failed,
        };
    }
}

/// The names of Services that a change concerns.
fn concerned(objects: &Objects, change: &Change) -> Vec<Name> {
    let resource = &change.key.resource;
    if *resource == kind::KIND.resource() {
        return vec![(change.key.namespace.clone(), change.key.name.clone())];
    }
    if *resource == endpoint_slice::KIND.resource() {
        let label = |key: &str| change.object["metadata"]["labels"].get(key).and_then(Value::as_str);
        let named = label(endpoint_slice::SERVICE_LABEL).filter(|_| label(MANAGER_LABEL) == Some(MIRROR));
        return Vec::from_iter(named.map(|name| (change.key.namespace.clone(), name.to_owned())));
    }
    slices::concerned(objects, change)
}

async fn reconcile(objects: &Objects, namespace: &str, name: &str) -> Result<(), ApiError> {
    let found = |result: Result<_, ApiError>| match result {
        Ok(object) => Ok(Some(object)),
        Err(ApiError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let service = found(objects.get(&service::KIND, namespace, name))?;
    let service = service.filter(|service| text(service, "/metadata/deletionTimestamp").is_empty());
    let present = found(objects.get(&kind::KIND, namespace, name))?;
    let selects = service.as_ref().is_some_and(|service| endpoints::selector(service).is_some());
    if let Some(service) = service.as_ref().filter(|_| selects) {
        keep(objects, service, present.as_deref()).await?;
    }
    // Slices of Endpoints that are gone go as all that is owned by what is gone.
    let Some(present) = present else { return Ok(()) };
    let is_mirrored = service.is_some() && !selects && subsets::is_mirrored(&present);
    let owner = Owner { kind: &kind::KIND, object: &present, labels: mirror_labels(&present), manager: MIRROR };
    let wanted = if is_mirrored { subsets::mirror(&present) } else { Vec::new() };
    slices::keep(objects, &owner, wanted).await
}

/// Makes the Endpoints of a Service what its pods are, whoever made them.
async fn keep(objects: &Objects, service: &Value, present: Option<&Value>) -> Result<(), ApiError> {
    let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
    let subsets::Wanted { labels, truncated, subsets } =
        subsets::wanted(service, &objects.list(&pod::KIND, Some(namespace)).0);
    let (subsets, owner) = (Value::from(subsets), owner_reference(&service::KIND, service));
    let Some(present) = present else {
        let metadata = json!({"name": name, "labels": labels, "ownerReferences": [owner]});
        let mut endpoints = json!({"metadata": metadata, "subsets": subsets});
        subsets::set_truncated(&mut endpoints, truncated);
        return objects.create(&kind::KIND, namespace, endpoints).await.map(drop);
    };
    let is_same = present["metadata"]["labels"] == labels
        && pod::items(present, "subsets") == subsets.as_array().map_or(&[][..], Vec::as_slice)
        && subsets::is_truncated(present) == truncated
        && is_owned_by(present, text(service, "/metadata/uid"));
    if is_same || !text(present, "/metadata/deletionTimestamp").is_empty() {
        return Ok(());
    }
    let change = move |mut endpoints: Value| {
        endpoints["metadata"]["labels"] = labels;
        endpoints["metadata"]["ownerReferences"] = json!([owner]);
        subsets::set_truncated(&mut endpoints, truncated);
        endpoints["subsets"] = subsets;
        Ok::<Value, ApiError>(endpoints)
    };
    objects.update(&kind::KIND, namespace, name, Half::Desired, change).await.map(drop)
}

fn mirror_labels(present: &Value) -> Value {
    let own = present["metadata"].get("labels").filter(|labels| labels.is_object());
    let mut labels = own.cloned().unwrap_or_else(|| json!({}));
    labels[endpoint_slice::SERVICE_LABEL] = present["metadata"]["name"].clone();
    labels[MANAGER_LABEL] = MIRROR.into();
    labels
}
