//! What a kubelet asks of a node, over gRPC: pods, lists, memory.

mod client;
mod image;
mod node;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::Context;
use crate::bound::{Bound, Limit};
use crate::comparison::{Comparison, Contestant, Metric, Sample};
use node::Node;

const OURS: &str = "wharf";
const CONTAINERD: &str = "containerd";
/// Pods of the benches that make many at once, or look at what one costs.
const MANY: usize = 20;
const LISTED_PODS: usize = 20;
const LISTED_CONTAINERS: usize = 50;
const LIST_MAX_SECONDS: f64 = 0.005;
const STATS_MAX_SECONDS: f64 = 0.050;
const POD_MAX_BYTES: f64 = 0.35 * (1 << 20) as f64;
const SETTLED: Duration = Duration::from_secs(1);
const FEW_PODS: usize = 5;
const CROWD: usize = 500;
const DAEMON_MAX_BYTES: f64 = (12 << 20) as f64;
const CROWDED_DAEMON_MAX_BYTES: f64 = (25 << 20) as f64;

const POD: &str = "a pod with a bridge network, an IPC namespace and one container (a static `sleep`)";

type Job = fn(Rc<RefCell<Node>>) -> Run;
type Run = Box<dyn FnMut() -> anyhow::Result<Sample>>;

/// Both at `job`, each on a node of its own that `prepare` has seen first.
fn contestants(
    context: &Context,
    calls: &str,
    prepare: fn(&mut Node) -> anyhow::Result<()>,
    job: Job,
) -> anyhow::Result<Vec<Contestant>> {
    let ours = ready(Node::wharf(context)?, prepare)?;
    let mut found = vec![contestant(OURS, ours, calls, job)];
    found.push(match Node::containerd() {
        Err(reason) => Contestant::missing(CONTAINERD, reason),
        Ok(node) => contestant(CONTAINERD, ready(node?, prepare)?, calls, job),
    });
    Ok(found)
}

fn ready(mut node: Node, prepare: fn(&mut Node) -> anyhow::Result<()>) -> anyhow::Result<Node> {
    prepare(&mut node)?;
    Ok(node)
}

fn contestant(name: &'static str, node: Node, calls: &str, job: Job) -> Contestant {
    let version = node.version.clone();
    Contestant { name, version, command: calls.into(), run: Ok(job(Rc::new(RefCell::new(node)))) }
}

fn time(seconds: f64) -> Sample {
    Sample::from([(Metric::Time, seconds)])
}

fn faster_than_containerd() -> Vec<Bound> {
    vec![
        Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Times(0.25, &[CONTAINERD]) },
        Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Spread(2.0) },
    ]
}

/// One pod brought to run.
pub(crate) fn start(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let mut node = node.borrow_mut();
            let begin = Instant::now();
            let pods = node.start_pods(1)?;
            let taken = begin.elapsed();
            node.end_pods(pods)?;
            Ok(time(taken.as_secs_f64()))
        })
    };
    Ok(Comparison {
        what: format!("Bring {POD} to run."),
        contestants: contestants(context, "RunPodSandbox, CreateContainer, StartContainer", |_| Ok(()), job)?,
        bounds: faster_than_containerd(),
        rounds: 40,
        warm_up: 4,
    })
}

/// One pod ended and removed.
pub(crate) fn end(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let mut node = node.borrow_mut();
            let pods = node.start_pods(1)?;
            let begin = Instant::now();
            node.end_pods(pods)?;
            Ok(time(begin.elapsed().as_secs_f64()))
        })
    };
    Ok(Comparison {
        what: format!("End and remove {POD}."),
        contestants: contestants(context, "StopPodSandbox, RemovePodSandbox", |_| Ok(()), job)?,
        bounds: faster_than_containerd(),
        rounds: 40,
        warm_up: 4,
    })
}

/// Several pods at a time.
pub(crate) fn many(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let mut node = node.borrow_mut();
            let begin = Instant::now();
            let pods = node.start_pods(MANY)?;
            let taken = begin.elapsed();
            node.end_pods(pods)?;
            Ok(time(taken.as_secs_f64()))
        })
    };
    Ok(Comparison {
        what: format!("Bring to run, {MANY} at a time, {POD}."),
        contestants: contestants(context, "RunPodSandbox, CreateContainer, StartContainer", |_| Ok(()), job)?,
        bounds: faster_than_containerd(),
        rounds: 10,
        warm_up: 1,
    })
}

/// What a pod costs in memory, the container's own process aside.
pub(crate) fn memory(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let mut node = node.borrow_mut();
            let before = node.memory_bytes()?;
            let pods = node.start_pods(MANY)?;
            // What takes memory for a moment only has given it back by then.
            std::thread::sleep(SETTLED);
            let with_pods = node.memory_bytes()?;
            node.end_pods(pods)?;
            Ok(Sample::from([(Metric::Memory, with_pods.saturating_sub(before) as f64 / MANY as f64)]))
        })
    };
    Ok(Comparison {
        what: format!(
            "Memory (PSS) of the node's programs that {MANY} pods add, by pod: daemon, shims and pause processes. Each is {POD}, \
             whose own process does not count; the pause process of others is that `sleep` too."
        ),
        contestants: contestants(context, "20 pods", |_| Ok(()), job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Memory, at_most: Limit::Absolute(POD_MAX_BYTES) }],
        rounds: 5,
        warm_up: 1,
    })
}

fn crowd_of_containers(node: &mut Node) -> anyhow::Result<()> {
    for _ in 0..LISTED_PODS {
        node.start_pod_of(LISTED_CONTAINERS)?;
    }
    Ok(())
}

/// A list of a thousand containers.
pub(crate) fn list(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let node = node.borrow();
            let begin = Instant::now();
            let count = node.client.list_containers()?;
            let taken = begin.elapsed();
            anyhow::ensure!(count == LISTED_PODS * LISTED_CONTAINERS, "{count} containers are listed");
            Ok(time(taken.as_secs_f64()))
        })
    };
    Ok(Comparison {
        what: format!("List {} containers.", LISTED_PODS * LISTED_CONTAINERS),
        contestants: contestants(context, "ListContainers", crowd_of_containers, job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Tail(LIST_MAX_SECONDS) }],
        rounds: 200,
        warm_up: 10,
    })
}

/// What a thousand containers use.
pub(crate) fn stats(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let node = node.borrow();
            let begin = Instant::now();
            let count = node.client.container_stats()?;
            let taken = begin.elapsed();
            anyhow::ensure!(count == LISTED_PODS * LISTED_CONTAINERS, "{count} containers have figures");
            Ok(time(taken.as_secs_f64()))
        })
    };
    Ok(Comparison {
        what: format!("Figures of {} containers.", LISTED_PODS * LISTED_CONTAINERS),
        contestants: contestants(context, "ListContainerStats", crowd_of_containers, job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Absolute(STATS_MAX_SECONDS) }],
        rounds: 40,
        warm_up: 4,
    })
}

/// One more pod where there are few and where there are many.
pub(crate) fn growth(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        Box::new(move || {
            let mut node = node.borrow_mut();
            let begin = Instant::now();
            let pods = node.start_pods(1)?;
            let taken = begin.elapsed();
            node.end_pods(pods)?;
            let daemon = node.daemon_memory_bytes()?;
            Ok(Sample::from([(Metric::Time, taken.as_secs_f64()), (Metric::Memory, daemon as f64)]))
        })
    };
    let with = |pods: usize| -> anyhow::Result<Node> {
        let mut node = Node::wharf(context)?;
        for _ in 0..pods / FEW_PODS {
            node.start_pods(FEW_PODS)?;
        }
        Ok(node)
    };
    let calls = "RunPodSandbox, CreateContainer, StartContainer";
    Ok(Comparison {
        what: format!("One more pod on a node that has {FEW_PODS} of them, and {CROWD}; memory (PSS) of the daemon."),
        contestants: vec![
            contestant("500 pods", with(CROWD)?, calls, job),
            contestant("5 pods", with(FEW_PODS)?, calls, job),
        ],
        bounds: vec![
            Bound { ours: "500 pods", metric: Metric::Time, at_most: Limit::Times(1.3, &["5 pods"]) },
            Bound { ours: "500 pods", metric: Metric::Memory, at_most: Limit::Absolute(CROWDED_DAEMON_MAX_BYTES) },
            Bound { ours: "5 pods", metric: Metric::Memory, at_most: Limit::Absolute(DAEMON_MAX_BYTES) },
        ],
        rounds: 40,
        warm_up: 4,
    })
}
