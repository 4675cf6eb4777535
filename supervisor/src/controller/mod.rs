//! Controllers: each compares what is desired with what is observed and does what is missing.
//!
//! | file | from | to |
//! |---|---|---|
//! | `manifest_folder.rs` | files | objects |
//! | `deployment.rs` | Deployments | ReplicaSets |
//! | `replica_set.rs` | ReplicaSets | Pods |
//! | `daemon_set/` | DaemonSets | one Pod each |
//! | `job/` | Jobs | Pods, until enough have succeeded |
//! | `pod/` | Pods | sandboxes and containers of the engine |
//! | `service/` | Services and Pods | EndpointSlices, and the node's rules |
//! | `volume/` | PersistentVolumeClaims | PersistentVolumes and their directories |
//! | `scheduler.rs` | pods that wait for the node | pods of the node, and the end of some that matter less |
//! | `node_status.rs` | the machine | the Node object |
//! | `node_pressure.rs` | the node's free memory, disk and process ids | the end of pods, while it is short |
//! | `node_lease.rs` | time | the node's Lease |
//! | `service_account.rs` | namespaces | their ServiceAccount `default`, and the ConfigMap by which pods trust the API |
//! | `kubernetes_service.rs` | where the API listens | the Service `kubernetes` |
//! | `event/` | what controllers tell, and changes of pods | Events |
//! | `garbage.rs` | deleted owners and namespaces | deletion of what they own |
//!
//! None of them keeps what it could not read back: all start from the objects and the engine.

mod changes;
pub mod daemon_set;
pub mod deployment;
pub mod event;
pub mod garbage;
pub mod job;
pub mod kubernetes_service;
pub mod manifest_folder;
mod node_lease;
mod node_pressure;
pub mod node_status;
pub mod pod;
pub mod replica_set;
pub mod scheduler;
pub mod service;
pub mod service_account;
pub mod volume;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;
use wharf_specs::config::Eviction;

use crate::api::objects::Objects;
use crate::api::tls::PodApi;
use crate::dns::Dns;
use crate::journal::Journal;
use crate::pod::Node;

/// What the controllers work on.
#[derive(Clone)]
pub struct Context {
    pub objects: Objects,
    pub node: Node,
    /// Where pods look services up.
    pub dns: Dns,
    /// As pods see it in `spec.nodeName`.
    pub node_name: Arc<str>,
    /// How many pods the node has at most.
    pub max_pods: u32,
    /// Where pods are ended because the node runs out of something.
    pub eviction: Eviction,
    /// As pods see them in `status.hostIPs`; the first one is `status.hostIP`.
    pub host_ips: Arc<[IpAddr]>,
    /// Where the logs of pods lie; the API reads them there.
    pub pod_logs: PathBuf,
    /// Where emptyDir volumes lie: `UID/volumes/NAME`.
    pub pod_volumes: PathBuf,
    /// Where the volumes lie that are made for claims: `NAME`.
    pub volumes: PathBuf,
    pub manifests: PathBuf,
    /// How far the rules of Services are.
    pub services: service::Progress,
    pub journal: Journal,
    /// Where they can reach it.
    pub pod_api: Option<PodApi>,
}

/// The address this node uses towards others; loopback where it has no route.
pub fn node_address() -> IpAddr {
    address_towards(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// That one, and where it is asked for the one of IPv6, should there be any.
pub fn node_addresses(with_ipv6: bool) -> Arc<[IpAddr]> {
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let six = with_ipv6.then(|| address_towards(Ipv6Addr::UNSPECIFIED.into(), far.into())).flatten();
    [node_address()].into_iter().chain(six.filter(|ip| !ip.is_loopback())).collect()
}

/// `far` is of a network for documents. Connecting a UDP socket sends nothing: the kernel only chooses the source address.
fn address_towards(any: IpAddr, far: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Runs every controller until the set is dropped.
pub fn start(context: &Context) -> JoinSet<()> {
    let mut controllers = JoinSet::new();
    let (events, recorder) = event::writer(context.objects.clone());
    controllers.spawn(events.run());
    controllers.spawn(deployment::run(context.objects.clone(), recorder.of("deployment-controller")));
    controllers.spawn(replica_set::run(context.objects.clone(), recorder.of("replicaset-controller")));
    controllers.spawn(daemon_set::run(context.objects.clone(), recorder.of("daemonset-controller")));
    controllers.spawn(job::run(context.objects.clone(), recorder.of("job-controller")));
    controllers.spawn(volume::run(context.clone(), recorder.of("persistentvolume-controller")));
    controllers.spawn(scheduler::run(context.objects.clone(), recorder.of("default-scheduler")));
    controllers.spawn(node_status::run(context.clone()));
    let authority = context.pod_api.as_ref().map(|api| api.authority.clone());
    controllers.spawn(service_account::run(context.objects.clone(), authority));
    if let Some(api) = &context.pod_api {
        controllers.spawn(kubernetes_service::run(context.objects.clone(), api.address));
    }
    controllers.spawn(service::legacy::run(context.objects.clone()));
    controllers.spawn(service::slices::run(context.objects.clone(), context.services.clone()));
    controllers.spawn(service::proxy::run(context.objects.clone(), context.node.clone(), context.services.clone()));
    controllers.spawn(garbage::run(context.objects.clone()));
    controllers.spawn(pod::run(context.clone(), recorder.of("wharfd")));
    controllers.spawn(manifest_folder::run(context.objects.clone(), context.manifests.clone()));
    controllers
}
