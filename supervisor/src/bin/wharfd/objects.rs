//! The objects, and all that controllers work with.

use std::fs;

use anyhow::Context as _;
use wharf_specs::config::Config;
use wharf_supervisor::api::object_store::ObjectStore;
use wharf_supervisor::api::objects::Objects;
use wharf_supervisor::api::service_address::ServiceRanges;
use wharf_supervisor::api::tls::Bound;
use wharf_supervisor::controller::kubernetes_service;
use wharf_supervisor::dns::Dns;
use wharf_supervisor::pod::Node;
use wharf_supervisor::{controller, journal};

use crate::private_directory;

/// Opens the objects and says where the controllers keep what is theirs.
pub(crate) async fn controller_context(
    config: &Config,
    node: &Node,
) -> anyhow::Result<(controller::Context, journal::Keeper)> {
    let database = config.root.join("objects.redb");
    let store =
        tokio::task::spawn_blocking(move || ObjectStore::open(&database)).await.context("open the objects")??;
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    let node_name = host_name.trim().to_lowercase();
    let dns = Dns::new(&config.dns, store.clone());
    let ranges = ServiceRanges::of_config(&config.network)?;
    let objects = Objects::open(store, &node_name).await.context("open the objects")?.with_service_ranges(ranges);
    let folders =
        [config.root.join("logs"), config.root.join("pods"), config.root.join("volumes"), config.root.join("journal")];
    folders.iter().try_for_each(|folder| private_directory(folder))?;
    let [pod_logs, pod_volumes, volumes, journal] = folders;
    let (journal, keeper) = journal::open(journal, objects.clone());
    let context = controller::Context {
        objects,
        journal,
        node: node.clone(),
        dns,
        node_name: node_name.into(),
        max_pods: config.max_pods,
        eviction: config.eviction,
        host_ips: controller::node_addresses(config.network.has_ipv6()),
        pod_logs,
        pod_volumes,
        volumes,
        manifests: config.manifests.clone(),
        services: Default::default(),
        pod_api: None,
    };
    Ok((context, keeper))
}

/// Gives pods a way to the API where they can reach it; returns the names by which they do.
pub(crate) async fn open_to_pods(
    context: &mut controller::Context,
    bound: Option<&Bound>,
) -> anyhow::Result<Vec<String>> {
    context.pod_api = match bound {
        Some(bound) => bound.for_pods(context.node.network().gateway().await),
        None => None,
    };
    let Some(api) = &context.pod_api else {
        kubernetes_service::withdraw(&context.objects).await.context("withdraw the service of the API")?;
        return Ok(Vec::new());
    };
    context.objects = context.objects.clone().with_tokens_for_pods();
    let service = kubernetes_service::ensure(&context.objects, api.address, None).await;
    let address = service.context("make the service of the API")?;
    let domain = context.dns.domain().trim_end_matches('.').to_owned();
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let more = [format!("kubernetes.default.svc.{domain}"), address, api.address.ip().to_string()];
    Ok(names.into_iter().chain(more).collect())
}
