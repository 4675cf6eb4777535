//! A node that is told by its Kubernetes API what shall run. No peer does that: a kubelet needs a control plane beside it.

mod client;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::Context;
use crate::bound::{Bound, Limit};
use crate::comparison::{Comparison, Contestant, Metric, Sample};
use crate::cri::image::{IMAGE, PROCESS};
use crate::cri::node::Node;
use client::Api;

const OURS: &str = "wharf";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const IDLE_PODS: usize = 50;
const IDLE_MAX_BYTES: f64 = (30 << 20) as f64;
/// Of one processor.
const IDLE_MAX_SHARE: f64 = 0.005;
const IDLE_SPAN: Duration = Duration::from_secs(20);
const CROWD: usize = 300;
/// Between two lists: all of them are spread over the time that the crowd takes.
const LIST_PERIOD: Duration = Duration::from_millis(25);
const LIST_MAX_SECONDS: f64 = 0.050;
const RESTART_MAX_SECONDS: f64 = 0.100;
const RESTART_PATIENCE: Duration = Duration::from_secs(10);

/// A node with nothing declared; dropping it deletes what was, and ends it.
struct Declared {
    api: Api,
    node: Node,
}

impl Declared {
    fn start(context: &Context) -> anyhow::Result<Self> {
        let node = Node::wharf(context)?;
        let declared = Self { api: Api::at(node.api_socket()), node };
        // The API is served a moment after the CRI.
        let begin = Instant::now();
        while declared.api.request("GET", "/version", None).is_err() && begin.elapsed() < RESTART_PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(declared)
    }

    fn deploy(&self, replicas: usize) -> anyhow::Result<()> {
        self.api.request("POST", DEPLOYMENTS, Some(&deployment(replicas))).map(drop)
    }

    fn wait_ready(&self, replicas: usize) -> anyhow::Result<()> {
        self.api.wait_for(&format!("{DEPLOYMENTS}/web"), |web| is_ready(web, replicas))
    }

    /// Deletes every pod, and what would make them anew.
    fn clear(&self) -> anyhow::Result<()> {
        for collection in [DEPLOYMENTS, PODS] {
            let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"});
            self.api.request("DELETE", collection, Some(&options))?;
            self.api.wait_for(collection, is_empty)?;
        }
        Ok(())
    }
}

impl Drop for Declared {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("bench: delete the pods of a node: {error:#}");
        }
    }
}

fn is_empty(list: &Value) -> bool {
    list["items"].as_array().is_some_and(Vec::is_empty)
}

fn is_ready(deployment: &Value, replicas: usize) -> bool {
    deployment["status"]["readyReplicas"].as_u64() == Some(replicas as u64)
}

fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": [format!("/bin/{PROCESS}"), "infinity"],
        }],
    })
}

fn deployment(replicas: usize) -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec()},
        },
    })
}

fn alone(
    context: &Context,
    command: &str,
    mut job: impl FnMut(&Declared) -> anyhow::Result<Sample> + 'static,
) -> anyhow::Result<Vec<Contestant>> {
    let declared = Declared::start(context)?;
    let (version, command) = (declared.node.version.clone(), command.into());
    Ok(vec![Contestant { name: OURS, version, command, run: Ok(Box::new(move || job(&declared))) }])
}

fn bound(metric: Metric, at_most: Limit) -> Bound {
    Bound { ours: OURS, metric, at_most }
}

/// What the daemon takes while nothing happens.
pub(crate) fn idle(context: &Context) -> anyhow::Result<Comparison> {
    let mut is_deployed = false;
    let job = move |declared: &Declared| {
        if !is_deployed {
            declared.deploy(IDLE_PODS)?;
            declared.wait_ready(IDLE_PODS)?;
            is_deployed = true;
        }
        let (before, begin) = (declared.node.daemon_processor_time()?, Instant::now());
        std::thread::sleep(IDLE_SPAN);
        let used = declared.node.daemon_processor_time()?.saturating_sub(before);
        let share = used.as_secs_f64() / begin.elapsed().as_secs_f64();
        let memory = declared.node.daemon_memory_bytes()? as f64;
        Ok(Sample::from([(Metric::Processor, share), (Metric::Memory, memory)]))
    };
    Ok(Comparison {
        what: format!(
            "`wharfd` with {IDLE_PODS} pods of a Deployment while nothing happens: its processor time over {} s, its memory (RSS).",
            IDLE_SPAN.as_secs()
        ),
        contestants: alone(context, "Deployment", job)?,
        bounds: vec![
            bound(Metric::Memory, Limit::Absolute(IDLE_MAX_BYTES)),
            bound(Metric::Processor, Limit::Absolute(IDLE_MAX_SHARE)),
        ],
        rounds: 5,
        warm_up: 0,
    })
}

/// A list of all pods, while as many as the crowd has are brought to run.
pub(crate) fn list(context: &Context) -> anyhow::Result<Comparison> {
    let job = |declared: &Declared| {
        let web = format!("{DEPLOYMENTS}/web");
        let is_idle = declared.api.request("GET", &web, None).map_or(true, |web| is_ready(&web, CROWD));
        if is_idle {
            declared.clear()?;
            declared.deploy(CROWD)?;
            // All are in the list from the first one that counts.
            declared.api.wait_for(PODS, |list| list["items"].as_array().is_some_and(|pods| pods.len() == CROWD))?;
        }
        std::thread::sleep(LIST_PERIOD);
        Ok(Sample::from([(Metric::Time, declared.api.time_of(PODS)?.as_secs_f64())]))
    };
    Ok(Comparison {
        what: format!("List all pods while {CROWD} that were declared at once are brought to run."),
        contestants: alone(context, "GET pods", job)?,
        bounds: vec![bound(Metric::Time, Limit::Tail(LIST_MAX_SECONDS))],
        rounds: 200,
        warm_up: 10,
    })
}

/// So many pods, declared at once, until all run.
pub(crate) fn crowd(context: &Context) -> anyhow::Result<Comparison> {
    let job = |declared: &Declared| {
        let begin = Instant::now();
        declared.deploy(CROWD)?;
        declared.wait_ready(CROWD)?;
        let taken = begin.elapsed().as_secs_f64();
        declared.clear()?;
        Ok(Sample::from([(Metric::Time, taken / CROWD as f64)]))
    };
    Ok(Comparison {
        what: format!("Bring {CROWD} pods of a Deployment to run, declared at once; time of each."),
        contestants: alone(context, "Deployment", job)?,
        bounds: Vec::new(),
        rounds: 3,
        warm_up: 0,
    })
}

/// A container that was killed, for the first time, until its process runs again.
pub(crate) fn restart(context: &Context) -> anyhow::Result<Comparison> {
    let mut made = 0;
    let job = move |declared: &Declared| {
        made += 1;
        let name = format!("victim-{made}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec()});
        declared.api.request("POST", PODS, Some(&pod))?;
        let path = format!("{PODS}/{name}");
        declared.api.wait_for(&path, |pod| pod["status"]["containerStatuses"][0]["ready"] == true)?;
        let before = sleepers()?;
        let victim = before.iter().next().and_then(|pid| Pid::from_raw(*pid)).context("the pod's process")?;
        let begin = Instant::now();
        rustix::process::kill_process(victim, Signal::KILL)?;
        while sleepers()?.is_subset(&before) {
            if begin.elapsed() > RESTART_PATIENCE {
                bail!("{name} does not run again after {} s", RESTART_PATIENCE.as_secs());
            }
        }
        let taken = begin.elapsed().as_secs_f64();
        declared.api.request("DELETE", &path, None)?;
        declared.api.wait_for(PODS, is_empty)?;
        Ok(Sample::from([(Metric::Time, taken)]))
    };
    Ok(Comparison {
        what: "A container that was killed, from the kill until its new process runs (no back-off: its first restart)."
            .into(),
        contestants: alone(context, "Pod", job)?,
        bounds: vec![bound(Metric::Time, Limit::Absolute(RESTART_MAX_SECONDS))],
        rounds: 20,
        warm_up: 2,
    })
}

/// Processes of containers: nobody else here has that name. The bench has a PID namespace of its own.
fn sleepers() -> anyhow::Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        // It may be gone by now.
        if std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == PROCESS) {
            found.insert(pid);
        }
    }
    Ok(found)
}
