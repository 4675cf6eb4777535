//! Every namespace has a ServiceAccount `default`, and, where pods reach the API, the certificate that they trust.

use std::sync::Arc;

use serde_json::{Value, json};

use super::changes::Changes;
use crate::api::kinds::{config_map, namespace, service_account, text};
use crate::api::object_store::{Change, ChangeType};
use crate::api::objects::{Half, Objects};
use crate::api::status::ApiError;

/// Has the certificate of the node's authority as `ca.crt`.
pub const ROOT_CERTIFICATE: &str = "kube-root-ca.crt";

/// Makes those that are missing, at the start and whenever a namespace is new or one of them gone.
pub async fn run(objects: Objects, authority: Option<Arc<str>>) {
    let mut changes = Changes::new(objects.store());
    loop {
        for namespace in objects.list(&namespace::KIND, None).0.iter().filter(|namespace| is_active(namespace)) {
            let name = text(namespace, "/metadata/name");
            if let Err(error) = ensure(&objects, name).await {
                tracing::warn!(namespace = name, %error, "make the default service account");
            }
            let Some(authority) = &authority else { continue };
            if let Err(error) = ensure_certificate(&objects, name, authority).await {
                tracing::warn!(namespace = name, %error, "make the config map of the API's certificate");
            }
        }
        while changes.next().await.is_some_and(|changes| !changes.iter().any(matters)) {}
    }
}

fn is_active(namespace: &Value) -> bool {
    text(namespace, "/metadata/deletionTimestamp").is_empty()
}

fn matters(change: &Change) -> bool {
    if change.key.resource == config_map::KIND.plural {
        return change.key.name == ROOT_CERTIFICATE && change.change_type != ChangeType::Added;
    }
    match change.change_type {
        ChangeType::Added => change.key.resource == namespace::KIND.plural,
        ChangeType::Deleted => change.key.resource == service_account::KIND.plural,
        ChangeType::Modified => false,
    }
}

async fn ensure(objects: &Objects, namespace: &str) -> Result<(), ApiError> {
    if objects.get(&service_account::KIND, namespace, service_account::DEFAULT_NAME).is_ok() {
        return Ok(());
    }
    let account = json!({"metadata": {"name": service_account::DEFAULT_NAME}});
    match objects.create(&service_account::KIND, namespace, account).await {
        // Made by somebody else meanwhile, or the namespace is on its way out.
        Ok(_) | Err(ApiError::AlreadyExists { .. } | ApiError::Conflict { .. } | ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn ensure_certificate(objects: &Objects, namespace: &str, authority: &str) -> Result<(), ApiError> {
    let data = json!({"ca.crt": authority});
    let outcome = match objects.get(&config_map::KIND, namespace, ROOT_CERTIFICATE) {
        Ok(present) if present["data"] == data => return Ok(()),
        Ok(_) => {
            let change = move |mut map: Value| {
                map["data"] = data;
                Ok(map)
            };
            objects.update(&config_map::KIND, namespace, ROOT_CERTIFICATE, Half::Desired, change).await
        }
        Err(_) => {
            let map = json!({"metadata": {"name": ROOT_CERTIFICATE}, "data": data});
            objects.create(&config_map::KIND, namespace, map).await
        }
    };
    match outcome {
        Ok(_) | Err(ApiError::AlreadyExists { .. } | ApiError::Conflict { .. } | ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
