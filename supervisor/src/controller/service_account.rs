//! Every namespace has a ServiceAccount `default`.

use serde_json::{Value, json};

use super::changes::Changes;
use crate::api::kinds::{namespace, service_account, text};
use crate::api::object_store::{Change, ChangeType};
use crate::api::objects::Objects;
use crate::api::status::ApiError;

/// Makes those that are missing, at the start and whenever a namespace is new or an account gone.
pub async fn run(objects: Objects) {
    let mut changes = Changes::new(objects.store());
    loop {
        for namespace in objects.list(&namespace::KIND, None).0.iter().filter(|namespace| is_active(namespace)) {
            let name = text(namespace, "/metadata/name");
            if let Err(error) = ensure(&objects, name).await {
                tracing::warn!(namespace = name, %error, "make the default service account");
            }
        }
        while changes.next().await.is_some_and(|changes| !changes.iter().any(matters)) {}
    }
}

fn is_active(namespace: &Value) -> bool {
    text(namespace, "/metadata/deletionTimestamp").is_empty()
}

fn matters(change: &Change) -> bool {
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
