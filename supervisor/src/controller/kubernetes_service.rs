//! The Service `kubernetes`, by which pods reach the API of their node.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::changes::Changes;
use crate::api::kinds::{endpoint_slice, service, text};
use crate::api::objects::{Half, Objects, Propagation};
use crate::api::status::ApiError;

pub const NAMESPACE: &str = "default";
pub const NAME: &str = "kubernetes";
/// Of the Service.
const PORT: u16 = 443;
/// Say that it is the node's own.
const OWN_LABEL: (&str, &str) = ("component", "apiserver");

/// Makes Service and endpoints anew whenever somebody has removed or changed them.
pub async fn run(objects: Objects, address: SocketAddr) {
    let mut changes = Changes::new(objects.store());
    let mut cluster_ip = None;
    loop {
        match ensure(&objects, address, cluster_ip.as_deref()).await {
            // Pods that run know it, and so does the server's certificate.
            Ok(present) => cluster_ip = cluster_ip.or(Some(present)),
            Err(error) => tracing::warn!(%error, "make the service of the API"),
        }
        let is_ours =
            |resource: &str| resource == service::KIND.resource() || resource == endpoint_slice::KIND.resource();
        let matters = |change: &crate::api::object_store::Change| {
            is_ours(&change.key.resource) && change.key.namespace == NAMESPACE && change.key.name == NAME
        };
        while changes.next().await.is_some_and(|changes| !changes.iter().any(matters)) {}
    }
}

/// Has the Service lead to `address`; returns its own address, which is `cluster_ip` where that is free.
pub async fn ensure(objects: &Objects, address: SocketAddr, cluster_ip: Option<&str>) -> Result<String, ApiError> {
    let labels = json!({OWN_LABEL.0: OWN_LABEL.1, "provider": "kubernetes"});
    let ports = json!([{"name": "https", "port": PORT, "protocol": "TCP", "targetPort": address.port()}]);
    let service = match objects.get(&service::KIND, NAMESPACE, NAME) {
        Ok(present) if is_own(&present) && present["spec"]["ports"] == ports => present,
        Ok(_) => {
            let labels = labels.clone();
            let change = move |mut service: Value| {
                service["metadata"]["labels"] = labels;
                service["spec"]["ports"] = ports;
                service["spec"]["type"] = "ClusterIP".into();
                drop(service["spec"].as_object_mut().map(|spec| spec.remove("selector")));
                Ok(service)
            };
            objects.update(&service::KIND, NAMESPACE, NAME, Half::Desired, change).await?
        }
        Err(_) => {
            let make = |cluster_ip: Option<&str>| {
                let mut service = json!({"metadata": {"name": NAME, "labels": labels}, "spec": {"type": "ClusterIP", "ports": ports}});
                if let Some(ip) = cluster_ip {
                    service["spec"]["clusterIP"] = ip.into();
                }
                service
            };
            match cluster_ip {
                Some(_) => objects.create(&service::KIND, NAMESPACE, make(cluster_ip)).await?,
                None => {
                    // The first of the range, as Kubernetes has it, unless that is somebody's.
                    let first = objects.first_service_address();
                    match objects.create(&service::KIND, NAMESPACE, make(Some(&first))).await {
                        Err(ApiError::Invalid { .. }) => objects.create(&service::KIND, NAMESPACE, make(None)).await?,
                        other => other?,
                    }
                }
            }
        }
    };
    let wanted = json!({
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    match objects.get(&endpoint_slice::KIND, NAMESPACE, NAME) {
        Ok(present) if present["ports"] == wanted["ports"] && present["endpoints"] == wanted["endpoints"] => {}
        Ok(_) => {
            let change = move |mut slice: Value| {
                slice["metadata"]["labels"][endpoint_slice::SERVICE_LABEL] = NAME.into();
                slice["ports"] = wanted["ports"].clone();
                slice["endpoints"] = wanted["endpoints"].clone();
                Ok(slice)
            };
            objects.update(&endpoint_slice::KIND, NAMESPACE, NAME, Half::Desired, change).await?;
        }
        Err(_) => {
            let mut slice = wanted;
            slice["metadata"] = json!({"name": NAME, "labels": {endpoint_slice::SERVICE_LABEL: NAME}});
            slice["addressType"] = "IPv4".into();
            objects.create(&endpoint_slice::KIND, NAMESPACE, slice).await?;
        }
    }
    let own = service::cluster_ip(&service).map(str::to_owned);
    own.ok_or_else(|| ApiError::Internal(format!("service {NAMESPACE}/{NAME} has no address")))
}

/// Removes what an earlier start has made that served pods.
pub async fn withdraw(objects: &Objects) -> Result<(), ApiError> {
    if !objects.get(&service::KIND, NAMESPACE, NAME).is_ok_and(|service| is_own(&service)) {
        return Ok(());
    }
    for kind in [&service::KIND, &endpoint_slice::KIND] {
        match objects.delete(kind, NAMESPACE, NAME, Propagation::Background, None).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the Service is that of the API.
pub fn is_own(service: &Value) -> bool {
    text(service, "/metadata/namespace") == NAMESPACE
        && text(service, "/metadata/name") == NAME
        && service["metadata"]["labels"][OWN_LABEL.0] == OWN_LABEL.1
}
