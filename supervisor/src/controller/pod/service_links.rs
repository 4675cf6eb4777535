//! Variables that tell a container of the Services of its namespace, as the kubelet gives them (`enableServiceLinks`).

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::environment::Environment;
use super::source::Sources;
use crate::api::kinds::{integer, pod, service, text};
use crate::controller::kubernetes_service;

/// Names and values: those of the API, and of all others where the pod wants them.
pub(super) fn variables(pod: &Pod, sources: &Sources<'_>) -> Environment {
    let mut env = of_namespace(pod, sources);
    let api = sources.objects.get(&service::KIND, kubernetes_service::NAMESPACE, kubernetes_service::NAME).ok();
    if let Some(api) = api.filter(|service| kubernetes_service::is_own(service)) {
        let own = of_service(&api);
        env.retain(|(name, _)| !own.iter().any(|(other, _)| other == name));
        env.extend(own);
    }
    env
}

fn of_namespace(pod: &Pod, sources: &Sources<'_>) -> Environment {
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links) == Some(false) {
        return Environment::new();
    }
    let services = sources.objects.list(&service::KIND, Some(sources.namespace)).0;
    services.iter().flat_map(|service| of_service(service)).collect()
}

fn of_service(service: &Value) -> Environment {
    let Some(ip) = service::cluster_ip(service) else { return Environment::new() };
    let ports = pod::items(&service["spec"], "ports");
    let Some(first) = ports.first() else { return Environment::new() };
    let name = variable_name(text(service, "/metadata/name"));
    let url = |port: &Value| {
        let protocol = text(port, "/protocol").to_lowercase();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        format!("{protocol}://{host}:{}", integer(port, "/port"))
    };
    let mut env = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), integer(first, "/port").to_string()),
    ];
    for port in ports.iter().filter(|port| !text(port, "/name").is_empty()) {
        let port_name = variable_name(text(port, "/name"));
        env.push((format!("{name}_SERVICE_PORT_{port_name}"), integer(port, "/port").to_string()));
    }
    env.push((format!("{name}_PORT"), url(first)));
    for port in ports {
        let (number, protocol) = (integer(port, "/port"), text(port, "/protocol"));
        let prefix = format!("{name}_PORT_{number}_{protocol}");
        env.extend([
            (prefix.clone(), url(port)),
            (format!("{prefix}_PROTO"), protocol.to_lowercase()),
            (format!("{prefix}_PORT"), number.to_string()),
            (format!("{prefix}_ADDR"), ip.to_owned()),
        ]);
    }
    env
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_told_in_the_kubelet_s_variables() {
        let service = json!({"metadata": {"name": "redis-primary"}, "spec": {"clusterIP": "10.96.0.11",
            "ports": [{"port": 6379, "protocol": "TCP"}]}});
        let shown: Vec<String> = of_service(&service).iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            shown,
            [
                "REDIS_PRIMARY_SERVICE_HOST=10.96.0.11",
                "REDIS_PRIMARY_SERVICE_PORT=6379",
                "REDIS_PRIMARY_PORT=tcp://10.96.0.11:6379",
                "REDIS_PRIMARY_PORT_6379_TCP=tcp://10.96.0.11:6379",
                "REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp",
                "REDIS_PRIMARY_PORT_6379_TCP_PORT=6379",
                "REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.96.0.11",
            ]
        );
        assert_eq!(
            of_service(&json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}})),
            []
        );
        let named = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0.1",
            "ports": [{"name": "dns-udp", "port": 53, "protocol": "UDP"}]}});
        let six = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "fd96::1", "ports": [{"port": 53, "protocol": "UDP"}]}});
        assert!(of_service(&six).contains(&("A_PORT".into(), "udp://[fd96::1]:53".into())));
        assert!(of_service(&named).contains(&("A_SERVICE_PORT_DNS_UDP".into(), "53".into())));
    }
}
