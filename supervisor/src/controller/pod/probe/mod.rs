//! Probes: whether a container has started, may be sent requests, or has to be restarted.
//!
//! ```text
//! container runs ──▶ startup probe, alone ──passed──▶ liveness and readiness side by side, until it ends
//!                        └─ failed: restart               └─ liveness failed: restart
//! ```
//!
//! A container that has probes has one task, which its pod's worker owns: dropped with it, woken by its own timers alone.
//! Only probes that run a program in the container fork.

pub(super) mod exec;
mod grpc;
pub(super) mod http;
mod tally;
mod tcp;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use reqwest::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::environment::expand;
use super::event::{Recorder, Subject};
use crate::pod::Node;
use crate::pod::status::{ContainerState, ContainerStatus};
use tally::Tally;

/// What servers are told of who asks.
const USER_AGENT: &str = "kube-probe/1.36";
/// Most bytes that are kept of what a program or a server answers.
const LONGEST_OUTPUT: usize = 10 << 10;
/// How often a probe that could not be carried out is tried again at once.
const TRIES: usize = 3;

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure(String),
    /// It could not be carried out, which says nothing about the container.
    Error(String),
}

/// What the probes of a container say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) failed: Option<Failed>,
}

/// Why a container has to be restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// `liveness` or `startup`.
    pub(super) probe: &'static str,
    /// What the container has to end, where the probe says so.
    pub(super) grace: Option<Duration>,
}

/// Where the probes and hooks of a container go.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) node: Node,
    pub(super) http: Client,
    pub(super) container: String,
    pub(super) address: Option<IpAddr>,
    pub(super) ports: Vec<ContainerPort>,
    /// What its declaration gives values.
    pub(super) env: Vec<(String, String)>,
}

/// The probes of one run of a container.
pub(super) struct Probes {
    pub(super) container: String,
    verdict: watch::Receiver<Verdict>,
    _task: Option<AbortOnDropHandle<()>>,
}

/// The probes that a container declares.
struct Declared {
    startup: Option<Probe>,
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    started_at: i64,
}

/// What a prober works with.
struct Prober {
    target: Target,
    verdict: watch::Sender<Verdict>,
    wake: Arc<Notify>,
    recorder: Recorder,
    subject: Subject,
}

impl Probes {
    /// Begins to probe a container that runs. `before` is what is known of this very run: a daemon that comes after
    /// another one does not take from service what serves.
    pub(super) fn begin(
        container: &Container,
        status: &ContainerStatus,
        target: Target,
        before: Option<Verdict>,
        (recorder, subject): (Recorder, Subject),
        wake: Arc<Notify>,
    ) -> Self {
        let declared = Declared {
            startup: container.startup_probe.clone(),
            liveness: container.liveness_probe.clone(),
            readiness: container.readiness_probe.clone(),
            started_at: status.started_at,
        };
        let first = before.unwrap_or_else(|| {
            let started = declared.startup.is_none();
            Verdict { started, ready: started && declared.readiness.is_none(), failed: None }
        });
        let (sender, verdict) = watch::channel(first);
        let has_probes = declared.startup.is_some() || declared.liveness.is_some() || declared.readiness.is_some();
        let prober = Prober { target, verdict: sender, wake, recorder, subject };
        let task = has_probes.then(|| AbortOnDropHandle::new(tokio::spawn(prober.run(declared))));
        Self { container: status.id.clone(), verdict, _task: task }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict.borrow().clone()
    }
}

impl Prober {
    async fn run(self, declared: Declared) {
        if let Some(probe) = declared.startup.as_ref().filter(|_| !self.verdict.borrow().started) {
            let mut started = false;
            let verdict = |passed| {
                started = passed;
                ControlFlow::Break(())
            };
            self.watch("startup", probe, declared.started_at, verdict).await;
            if !started {
                return self.fail("startup", probe);
            }
            let ready = declared.readiness.is_none();
            self.change(|verdict| (verdict.started, verdict.ready) = (true, ready));
        }
        let liveness = async {
            if let Some(probe) = &declared.liveness {
                let verdict = |passed| if passed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
                self.watch("liveness", probe, declared.started_at, verdict).await;
                self.fail("liveness", probe);
            }
        };
        let readiness = async {
            if let Some(probe) = &declared.readiness {
                let verdict = |passed| {
                    self.change(|verdict| verdict.ready = passed);
                    ControlFlow::Continue(())
                };
                self.watch("readiness", probe, declared.started_at, verdict).await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    /// Probes, and passes on what enough outcomes in a row say, until that was enough.
    async fn watch(
        &self,
        name: &'static str,
        probe: &Probe,
        started_at: i64,
        mut verdict: impl FnMut(bool) -> ControlFlow<()>,
    ) {
        let mut tally = Tally::new(probe.success_threshold, probe.failure_threshold);
        let mut ticks = ticks(probe, started_at);
        loop {
            ticks.tick().await;
            let passed = self.once(name, probe).await;
            if passed.and_then(|passed| tally.take(passed)).is_some_and(|passed| verdict(passed).is_break()) {
                return;
            }
        }
    }

    /// One probe; `None` where it could not be carried out.
    async fn once(&self, name: &'static str, probe: &Probe) -> Option<bool> {
        let mut outcome = Outcome::Error(String::new());
        for _ in 0..TRIES {
            outcome = self.target.probe(probe).await;
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        let (passed, message) = match outcome {
            Outcome::Success => return Some(true),
            Outcome::Failure(output) => (Some(false), format!("{} probe failed: {output}", capital(name))),
            // A container that has ended cannot be probed, which is not worth a word.
            Outcome::Error(_) if !self.target.is_running() => return None,
            Outcome::Error(reason) => (None, format!("{} probe errored: {reason}", capital(name))),
        };
        self.recorder.warning(&self.subject, "Unhealthy", message);
        passed
    }

    fn fail(&self, name: &'static str, probe: &Probe) {
        let grace = probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let failed = Failed { probe: name, grace: grace.map(Duration::from_secs) };
        self.change(|verdict| verdict.failed = Some(failed));
    }

    fn change(&self, change: impl FnOnce(&mut Verdict)) {
        let changed = self.verdict.send_if_modified(|verdict| {
            let before = verdict.clone();
            change(verdict);
            *verdict != before
        });
        if changed {
            self.wake.notify_one();
        }
    }
}

impl Target {
    fn is_running(&self) -> bool {
        self.node.container(&self.container).is_ok_and(|status| status.state == ContainerState::Running)
    }

    async fn probe(&self, probe: &Probe) -> Outcome {
        let timeout = seconds(probe.timeout_seconds).max(Duration::from_secs(1));
        match self.act(probe, timeout).await {
            Ok(outcome) => outcome,
            Err(reason) => Outcome::Error(reason),
        }
    }

    async fn act(&self, probe: &Probe, timeout: Duration) -> Result<Outcome, String> {
        if let Some(action) = &probe.exec {
            let argv = self.argv(action.command.as_deref().unwrap_or_default());
            return Ok(exec::probe(&self.node, &self.container, &argv, timeout).await);
        }
        if let Some(action) = &probe.http_get {
            let get = http::Get::new(action, &self.host(None)?, self.port(&action.port)?)?;
            return Ok(http::probe(&self.http, &get, timeout).await);
        }
        if let Some(action) = &probe.tcp_socket {
            let host = self.host(action.host.as_deref())?;
            return Ok(tcp::probe(&host, self.port(&action.port)?, timeout).await);
        }
        if let Some(action) = &probe.grpc {
            let port = self.port(&IntOrString::Int(action.port))?;
            let service = action.service.as_deref().unwrap_or_default();
            return Ok(grpc::probe(&self.host(None)?, port, service, timeout).await);
        }
        Err("it has no handler".into())
    }

    /// A command with the variables that the container's declaration gives values.
    pub(super) fn argv(&self, command: &[String]) -> Vec<String> {
        command.iter().map(|word| expand(word, &self.env)).collect()
    }

    /// The pod's own address, unless another host is named.
    pub(super) fn host(&self, named: Option<&str>) -> Result<String, String> {
        match named.filter(|host| !host.is_empty()) {
            Some(host) => Ok(host.to_owned()),
            None => self.address.map(|ip| ip.to_string()).ok_or_else(|| "the pod has no address".into()),
        }
    }

    /// A port by its number, or by its name in the container.
    pub(super) fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let named = self.ports.iter().find(|port| port.name.as_deref() == Some(name));
                named.map(|port| port.container_port).or_else(|| name.parse().ok())
            }
        };
        let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
        number.ok_or_else(|| format!("the container has no port {port:?}"))
    }
}

/// From the container's start and the initial delay on; a probe that takes longer than the period is followed at once.
fn ticks(probe: &Probe, started_at: i64) -> tokio::time::Interval {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_nanos(u64::try_from(started_at).unwrap_or(0)));
    let first = Instant::now() + seconds(probe.initial_delay_seconds).saturating_sub(age);
    let mut ticks = tokio::time::interval_at(first, seconds(probe.period_seconds).max(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn seconds(seconds: Option<i32>) -> Duration {
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

fn capital(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

/// `host:port`, with the brackets that an IPv6 address needs.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
