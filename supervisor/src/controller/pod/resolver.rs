//! How a pod's processes find names: its `dnsPolicy` and `dnsConfig`, and the name that it has itself.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use serde_json::Value;

use super::desired::Identity;
use super::event::{Recorder, Subject};
use crate::api::kinds::text;
use crate::dns::Dns as NameServer;
use crate::dns::resolv_conf::ResolvConf;
use crate::network::Network;
use crate::pod::spec::Dns;

/// Resolvers read as many (resolv.conf(5), MAXNS).
const SERVERS: usize = 3;
/// And clusters promise as many search domains (Kubernetes, MaxDNSSearchPaths).
const SEARCHES: usize = 32;

/// The resolver configuration of a pod to be made. Where the names of services cannot be served, the pod has those of
/// the node, and an event says why.
pub(super) async fn of_pod(pod: &Pod, server: &NameServer, network: &Network, recorder: &Recorder) -> Dns {
    let spec = pod.spec.clone().unwrap_or_default();
    let on_host = spec.host_network.unwrap_or(false);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let node = if on_host { ResolvConf::of_node() } else { ResolvConf::for_pods() };
    let of_node = |node: ResolvConf| Dns { servers: node.nameservers, searches: node.searches, options: node.options };
    let base = match policy {
        "None" => Dns::default(),
        _ if !asks_the_cluster(policy, on_host) => of_node(node),
        _ => match server.serve(network.gateway().await).await {
            Ok(address) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                of_cluster(&address.to_string(), namespace, server.domain(), node.searches)
            }
            Err(error) => {
                let message = format!("dnsPolicy {policy} is carried out as Default: {error}");
                recorder.warning(&Subject::pod(Identity::of(pod)), "MissingClusterDNS", message);
                of_node(node)
            }
        },
    };
    with_own(base, spec.dns_config.as_ref())
}

/// Serves names from the start on where pods of an earlier daemon ask for them.
pub(super) async fn resume(pods: &[Arc<Value>], server: &NameServer, network: &Network) {
    let asks = |pod: &Arc<Value>| {
        let spec = &pod["spec"];
        !text(spec, "/nodeName").is_empty()
            && asks_the_cluster(text(spec, "/dnsPolicy"), spec["hostNetwork"] == Value::Bool(true))
    };
    if pods.iter().any(asks)
        && let Err(error) = server.serve(network.gateway().await).await
    {
        tracing::warn!(%error, "names of services");
    }
}

/// A pod in the node's network asks as the node does, unless it says that it wants the services too.
fn asks_the_cluster(policy: &str, on_host: bool) -> bool {
    policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !on_host
}

fn of_cluster(server: &str, namespace: &str, domain: &str, node: Vec<String>) -> Dns {
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    searches.extend(node);
    Dns { servers: vec![server.into()], searches, options: vec!["ndots:5".into()] }
}

/// What the pod asks for beside its policy: more servers and searches, and options before those of the same name.
fn with_own(mut base: Dns, own: Option<&PodDNSConfig>) -> Dns {
    if let Some(own) = own {
        base.servers.extend(own.nameservers.iter().flatten().cloned());
        base.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            base.options.retain(|present| present.split(':').next() != Some(name));
            base.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    for list in [&mut base.servers, &mut base.searches] {
        let mut seen = Vec::new();
        list.retain(|entry| {
            !seen.contains(entry) && {
                seen.push(entry.clone());
                true
            }
        });
    }
    base.servers.truncate(SERVERS);
    base.searches.truncate(SEARCHES);
    base
}

/// The name by which other pods know one that has a `subdomain`: its host name below the service of that name.
pub(super) fn full_name(spec: &PodSpec, hostname: &str, namespace: &str, domain: &str) -> Option<String> {
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodDNSConfigOption;

    #[test]
    fn the_pod_s_own_wishes_come_after_its_policy() {
        let base = of_cluster("10.88.0.1", "shop", "cluster.local", vec!["corp.example".into()]);
        let option = |name: &str, value: Option<&str>| PodDNSConfigOption {
            name: Some(name.into()),
            value: value.map(str::to_owned),
        };
        let own = PodDNSConfig {
            nameservers: Some(["192.0.2.1", "10.88.0.1", "192.0.2.2", "192.0.2.3"].map(str::to_owned).to_vec()),
            searches: Some(vec!["corp.example".into(), "x.example".into()]),
            options: Some(vec![option("ndots", Some("2")), option("rotate", None)]),
        };
        let dns = with_own(base, Some(&own));
        assert_eq!(dns.servers, ["10.88.0.1", "192.0.2.1", "192.0.2.2"]);
        let cluster = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
        assert_eq!(dns.searches, [&cluster[..], &["corp.example", "x.example"]].concat());
        assert_eq!(dns.options, ["ndots:2", "rotate"]);
    }
}
