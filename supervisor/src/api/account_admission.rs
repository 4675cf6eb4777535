//! The service account of a pod, the volume by which its containers are known to the API, and the account's logins for
//! images, as Kubernetes adds them when a pod is made.

use serde_json::{Value, json};

use super::kinds::{pod, service_account, text};
use super::objects::{Objects, random_suffix};
use super::status::ApiError;

/// Where programs look for it.
pub const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubernetes' own number, which tells these from tokens of an hour that people ask for.
const TOKEN_SECONDS: i64 = 3607;

impl Objects {
    /// A pod that names no Secrets for the pulls of its images has those of its account.
    pub(super) fn admit_pull_secrets(&self, namespace: &str, pod: &mut Value) {
        if !pod["spec"].is_object() || !pod::items(&pod["spec"], "imagePullSecrets").is_empty() {
            return;
        }
        let account = self.get(&service_account::KIND, namespace, pod::service_account(pod)).ok();
        let secrets = account.and_then(|account| account.get("imagePullSecrets").cloned());
        if let Some(secrets) = secrets.filter(|secrets| secrets.as_array().is_some_and(|all| !all.is_empty())) {
            pod["spec"]["imagePullSecrets"] = secrets;
        }
    }

    /// Names the account that a pod runs under, and mounts its token unless pod or account do not want that.
    pub(super) fn admit_account(&self, name: &str, namespace: &str, pod: &mut Value) -> Result<(), ApiError> {
        if !self.gives_tokens_to_pods() || !pod["spec"].is_object() {
            return Ok(());
        }
        let alias = text(pod, "/spec/serviceAccount").to_owned();
        if text(pod, "/spec/serviceAccountName").is_empty() && !alias.is_empty() {
            pod["spec"]["serviceAccountName"] = alias.into();
        }
        let account_name = pod::service_account(pod).to_owned();
        let account = self.get(&service_account::KIND, namespace, &account_name).ok();
        // The default one is made with its namespace: the pod waits for it.
        if account.is_none() && account_name != service_account::DEFAULT_NAME {
            let message = format!(
                "error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found"
            );
            return Err(ApiError::Forbidden { resource: pod::KIND.resource(), name: name.into(), message });
        }
        pod["spec"]["serviceAccountName"] = account_name.as_str().into();
        pod["spec"]["serviceAccount"] = account_name.into();
        let wanted = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
        if wanted(&pod["spec"]).or_else(|| wanted(account.as_deref()?)).unwrap_or(true) {
            mount_token(pod);
        }
        Ok(())
    }
}

fn mount_token(pod: &mut Value) {
    let volume = format!("kube-api-access-{}", random_suffix());
    let mut used = false;
    for list in ["containers", "initContainers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let is_taken = pod::items(container, "volumeMounts")
                .iter()
                .any(|mount| text(mount, "/mountPath").trim_end_matches('/') == MOUNT_PATH);
            if is_taken || !container.is_object() {
                continue;
            }
            let mount = json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true});
            push(container, "volumeMounts", mount);
            used = true;
        }
    }
    if !used {
        return;
    }
    let sources = json!([
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]);
    push(&mut pod["spec"], "volumes", json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": sources}}));
}

fn push(object: &mut Value, list: &str, item: Value) {
    match object.get_mut(list).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[list] = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::object_store::ObjectStore;

    async fn admitted(tokens: bool, account: Value, pod: Value) -> Result<Value, ApiError> {
        let objects = Objects::open(ObjectStore::in_memory([]).unwrap(), "node").await.unwrap();
        objects.create(&service_account::KIND, "default", account).await.unwrap();
        let objects = if tokens { objects.with_tokens_for_pods() } else { objects };
        let mut pod = pod;
        objects.admit_account("web", "default", &mut pod).map(|()| pod)
    }

    #[tokio::test]
    async fn a_pod_has_its_account_s_logins_unless_it_names_its_own() {
        let objects = Objects::open(ObjectStore::in_memory([]).unwrap(), "node").await.unwrap();
        let robot = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "shared"}]});
        objects.create(&service_account::KIND, "default", robot).await.unwrap();
        let of = |spec: Value| {
            let mut pod = json!({"spec": spec});
            objects.admit_pull_secrets("default", &mut pod);
            pod["spec"]["imagePullSecrets"][0]["name"].as_str().map(str::to_owned)
        };
        assert_eq!(of(json!({"serviceAccountName": "robot"})).as_deref(), Some("shared"));
        let own = json!({"serviceAccountName": "robot", "imagePullSecrets": [{"name": "own"}]});
        assert_eq!(of(own).as_deref(), Some("own"));
        assert_eq!(of(json!({"serviceAccountName": "nobody"})), None);
        assert_eq!(of(json!({})), None);
    }

    #[tokio::test]
    async fn a_pod_is_given_its_account_and_a_token_unless_somebody_does_not_want_it() {
        let robot = || json!({"metadata": {"name": "robot"}});
        let pod = |spec: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
            spec.as_object().into_iter().flatten().for_each(|(field, value)| pod["spec"][field] = value.clone());
            pod
        };
        let mounts = |pod: &Value| {
            pod::items(&pod["spec"], "containers").iter().flat_map(|c| pod::items(c, "volumeMounts")).count()
        };
        let plain = admitted(true, robot(), pod(json!({}))).await.unwrap();
        assert_eq!((mounts(&plain), plain["spec"]["serviceAccountName"].as_str()), (2, Some("default")));
        assert_eq!((pod::KIND.validate)(&plain).iter().filter(|cause| cause.field.contains("olume")).count(), 0);
        let alias = admitted(true, robot(), pod(json!({"serviceAccount": "robot"}))).await.unwrap();
        assert_eq!(alias["spec"]["serviceAccountName"], "robot");
        let refused = pod(json!({"automountServiceAccountToken": false}));
        assert_eq!(mounts(&admitted(true, robot(), refused).await.unwrap()), 0);
        let shy = json!({"metadata": {"name": "robot"}, "automountServiceAccountToken": false});
        let of_shy = pod(json!({"serviceAccountName": "robot"}));
        assert_eq!(mounts(&admitted(true, shy.clone(), of_shy.clone()).await.unwrap()), 0);
        let mut insisting = of_shy;
        insisting["spec"]["automountServiceAccountToken"] = true.into();
        assert_eq!(mounts(&admitted(true, shy, insisting).await.unwrap()), 2);
        let own = pod(json!({"containers": [{"name": "a", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]}));
        assert_eq!(admitted(true, robot(), own.clone()).await.unwrap()["spec"]["volumes"], Value::Null);
        assert_eq!(admitted(false, robot(), own.clone()).await.unwrap(), own);
        let stranger = admitted(true, robot(), pod(json!({"serviceAccountName": "nobody"}))).await.unwrap_err();
        assert!(
            stranger.to_string().starts_with("pods \"web\" is forbidden: error looking up service account"),
            "{stranger}"
        );
    }
}
