//! `kill -9` of the daemon at moments that chance chooses, while pods of all kinds come and go: afterwards every container
//! is as it should be, and nothing is left. `WHARF_KILLS` says how often, `WHARF_SEED` repeats a run's choices.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Status};
use wharf_specs::cri;
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;

use crate::leaks::leaks;
use crate::testnode::{self, TestNode, connect, container, pod};

const KILLS: usize = 15;

/// The longest that a daemon lives, in milliseconds: some die before they are ready, some at work.
const LONGEST_LIFE: u64 = 700;

/// Marsaglia's xorshift: chance that can be repeated.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Of a variable, if it is set.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Where chance begins.
pub fn seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    number("WHARF_SEED").unwrap_or(u64::from(now) | 1)
}

/// Calls a daemon that may die at any moment, and calls the next one with the same request.
#[derive(Clone)]
struct Persistent {
    socket: PathBuf,
}

impl Persistent {
    async fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFn(RuntimeServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        // A whole minute without an answer: the daemon did not come up.
        let answered = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Ok(channel) = connect(self.socket.clone()).await {
                    match call(RuntimeServiceClient::new(channel)).await {
                        Ok(answer) => return Ok(answer.into_inner()),
                        Err(status) if !is_of_connection(&status) => return Err(status),
                        Err(_) => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        answered.await.unwrap_or_else(|_| panic!("{what}: no daemon answers"))
    }

    async fn must<T>(
        &self,
        what: &str,
        call: impl AsyncFn(RuntimeServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> T {
        self.call(what, call).await.unwrap_or_else(|status| panic!("{what}: {status}"))
    }

    async fn run_pod(&self, config: &cri::PodSandboxConfig) -> String {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        self.must("run pod", async |mut client| client.run_pod_sandbox(request.clone()).await).await.pod_sandbox_id
    }

    async fn run(&self, pod: &str, config: cri::ContainerConfig) -> String {
        let create =
            cri::CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        let id =
            self.must("create", async |mut client| client.create_container(create.clone()).await).await.container_id;
        let start = cri::StartContainerRequest { container_id: id.clone() };
        match self.call("start", async |mut client| client.start_container(start.clone()).await).await {
            // The daemon died after it had started the container.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => panic!("start {id}: {status}"),
            Ok(_) => {}
        }
        id
    }

    async fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.must("status", async |mut client| client.container_status(request.clone()).await).await;
        answer.status.unwrap()
    }

    async fn end_of(&self, id: &str) -> cri::ContainerStatus {
        loop {
            let status = self.status(id).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn remove_pod(&self, id: &str) {
        let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.must("stop pod", async |mut client| client.stop_pod_sandbox(stop.clone()).await).await;
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.must("remove pod", async |mut client| client.remove_pod_sandbox(remove.clone()).await).await;
    }
}

/// What a broken connection makes of an answer; a daemon's own has no cause in this process.
fn is_of_connection(status: &Status) -> bool {
    status.source().is_some() || status.code() == Code::Unavailable
}

/// The kinds of pods that come and go: by worker, so that each kind is at work at every moment.
fn config(node: &TestNode, kind: usize, round: usize) -> (cri::PodSandboxConfig, cri::NamespaceOption) {
    let mut config = pod(node, &format!("pod-{kind}-{round}"));
    let mut options = testnode::own_namespaces();
    match kind {
        0 => options.pid = cri::NamespaceMode::Pod.into(),
        1 => options.network = cri::NamespaceMode::Node.into(),
        2 => {
            let (container_port, host_port) = (80, 8080);
            config.port_mappings = vec![cri::PortMapping { container_port, host_port, ..Default::default() }];
        }
        _ => options.ipc = cri::NamespaceMode::Node.into(),
    }
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(options.clone());
    (config, options)
}

const KINDS: usize = 4;

/// Pods of one kind, one after the other: each has a container that ends by itself and one that is ended.
async fn work(
    node: Persistent,
    configs: Vec<(cri::PodSandboxConfig, cri::NamespaceOption)>,
    done: Arc<AtomicBool>,
) -> usize {
    let mut count = 0;
    for (config, options) in configs {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let with = |name: &str, command: &[&str]| {
            let mut config = container(name, command);
            config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options.clone());
            config
        };
        let id = node.run_pod(&config).await;
        let code = 3 + (count % 100) as i32;
        let ends = node.run(&id, with("ends", &["sh", "-c", &format!("sleep 0.1; exit {code}")])).await;
        let stays = node.run(&id, with("stays", &["sleep", "1000"])).await;
        let ended = node.end_of(&ends).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (code, "Error"), "{ended:?}");
        if count % 2 == 0 {
            let stop = cri::StopContainerRequest { container_id: stays.clone(), timeout: 0 };
            node.must("stop", async |mut client| client.stop_container(stop.clone()).await).await;
            assert_eq!(node.end_of(&stays).await.exit_code, 137);
            let remove = cri::RemoveContainerRequest { container_id: stays.clone() };
            node.must("remove", async |mut client| client.remove_container(remove.clone()).await).await;
        }
        node.remove_pod(&id).await;
        count += 1;
    }
    count
}

/// The numbers that a container wrote to its log, one a line.
fn numbers(log: &str) -> Vec<u64> {
    log.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_moment_loses_nothing_and_leaves_nothing() {
    tokio::task::LocalSet::new().run_until(kill_at_random()).await;
}

async fn kill_at_random() {
    let Some(mut node) = testnode::start("kills").await else { return };
    let kills = number("WHARF_KILLS").map_or(KILLS, |kills| kills as usize);
    let seed = seed();
    println!("{kills} kills, WHARF_SEED={seed}");
    let mut chance = Chance(seed);
    let persistent = Persistent { socket: node.path("run/wharfd.sock") };

    let anchor = persistent.run_pod(&pod(&node, "anchor")).await;
    let count = "n=0; while true; do echo $n; n=$((n+1)); sleep 0.01; done";
    let counter = persistent.run(&anchor, container("counter", &["sh", "-c", count])).await;
    let before = persistent.status(&counter).await;
    let done = Arc::new(AtomicBool::new(false));
    let finished = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..KINDS)
        .map(|kind| {
            let configs = (0..kills * 20).map(|round| config(&node, kind, round)).collect();
            let finished = finished.clone();
            let work = work(persistent.clone(), configs, done.clone());
            tokio::task::spawn_local(async move {
                let _finish = Finish(finished);
                work.await
            })
        })
        .collect();

    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(chance.below(LONGEST_LIFE))).await;
        assert_eq!(finished.load(Ordering::Relaxed), 0, "a worker failed");
        node.kill_wharfd();
        node.spawn_wharfd();
    }
    done.store(true, Ordering::Relaxed);
    let mut pods = 0;
    for worker in workers {
        pods += worker.await.unwrap();
    }
    println!("{pods} pods came and went");
    assert!(pods >= KINDS);

    assert_eq!(persistent.status(&counter).await, before, "it ran on as if nothing had happened");
    let stop = cri::StopContainerRequest { container_id: counter.clone(), timeout: 0 };
    persistent.must("stop", async |mut client| client.stop_container(stop.clone()).await).await;
    let written = numbers(&std::fs::read_to_string(node.path("logs/anchor/counter.log")).unwrap());
    assert!(written.iter().copied().eq(0..written.len() as u64), "a line is missing");
    let list = cri::ListPodSandboxRequest::default();
    let left = persistent.must("list", async |mut client| client.list_pod_sandbox(list.clone()).await).await.items;
    assert_eq!(left.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&anchor]);
    let none = leaks(&node);
    assert!(none.status.success(), "{}", String::from_utf8_lossy(&none.stdout));
    persistent.remove_pod(&anchor).await;
    let none = leaks(&node);
    assert_eq!(String::from_utf8_lossy(&none.stdout), "nothing is left: 0 pod sandboxes, 0 containers\n");
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// Counts also the worker that panics.
struct Finish(Arc<AtomicUsize>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
