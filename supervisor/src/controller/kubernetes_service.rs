//! The Service `kubernetes`, by which pods reach the API of their node.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::changes::Changes;
use super::service::subsets::NO_MIRROR_LABEL;
use crate::api::kinds::{Kind, endpoint_slice, endpoints, service, text};
use crate::api::objects::{Half, Objects, Propagation};
use crate::api::status::ApiError;

pub const NAMESPACE: &str = "default";
pub const NAME: &str = "kubernetes";
/// Of the Service.
const PORT: u16 = 443;
const OWN_KINDS: [&Kind; 3] = [&service::KIND, &endpoint_slice::KIND, &endpoints::KIND];
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
        let ours = OWN_KINDS.map(Kind::resource);
        let is_ours = |resource: &String| ours.contains(resource);
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
    let ports = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    let endpoints = json!([{"addresses": [address.ip().to_string()], "conditions": ready}]);
    let content = vec![("ports", ports.clone()), ("endpoints", endpoints)];
    let labels = (endpoint_slice::SERVICE_LABEL, NAME);
    keep(objects, &endpoint_slice::KIND, labels, content, &[("addressType", "IPv4")]).await?;
    let subsets = json!([{"addresses": [{"ip": address.ip().to_string()}], "ports": ports}]);
    keep(objects, &endpoints::KIND, (NO_MIRROR_LABEL, "true"), vec![("subsets", subsets)], &[]).await?;
    let own = service::cluster_ip(&service).map(str::to_owned);
    own.ok_or_else(|| ApiError::Internal(format!("service {NAMESPACE}/{NAME} has no address")))
}

/// Has an object of the node's own with this label say these fields; `fixed` are those that it has from the beginning.
async fn keep(
    objects: &Objects,
    kind: &'static Kind,
    label: (&'static str, &'static str),
    fields: Vec<(&'static str, Value)>,
    fixed: &[(&str, &str)],
) -> Result<(), ApiError> {
    let write = move |object: &mut Value| {
        object["metadata"]["labels"][label.0] = label.1.into();
        for (field, value) in fields {
            object[field] = value;
        }
    };
    match objects.get(kind, NAMESPACE, NAME) {
        Ok(present) => {
            let mut wanted = Value::clone(&present);
            write.clone()(&mut wanted);
            if wanted == *present {
                return Ok(());
            }
            let change = move |mut object: Value| {
                write(&mut object);
                Ok(object)
            };
            objects.update(kind, NAMESPACE, NAME, Half::Desired, change).await.map(drop)
        }
        Err(_) => {
            let mut object = json!({"metadata": {"name": NAME, "labels": {}}});
            for (field, value) in fixed {
                object[*field] = (*value).into();
            }
            write(&mut object);
            objects.create(kind, NAMESPACE, object).await.map(drop)
        }
    }
}

/// Removes what an earlier start has made that served pods.
pub async fn withdraw(objects: &Objects) -> Result<(), ApiError> {
    if !objects.get(&service::KIND, NAMESPACE, NAME).is_ok_and(|service| is_own(&service)) {
        return Ok(());
    }
    for kind in OWN_KINDS {
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
