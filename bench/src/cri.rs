//! What a kubelet asks of a node, over gRPC: pods, lists, memory.

mod client;
pub(crate) mod image;
mod logs;
pub(crate) mod node;

use std::time::{Duration, Instant};

use crate::Context;
use crate::bound::{Bound, Limit};
use crate::comparison::{Comparison, Contestant, Metric, Sample};
pub(crate) use logs::logs;
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
/// Longer than a node has to be at rest to give memory back.
const SETTLED: Duration = Duration::from_secs(4);
const IDLE_PODS: usize = 200;
const IDLE_SPAN: Duration = Duration::from_secs(20);
/// Of one processor.
const IDLE_MAX_SHARE: f64 = 0.01;
const FEW_PODS: usize = 5;
const CROWD: usize = 500;
const DAEMON_MAX_BYTES: f64 = (12 << 20) as f64;
const CROWDED_DAEMON_MAX_BYTES: f64 = (25 << 20) as f64;

const POD: &str = "a pod with a bridge network, an IPC namespace and one container (a static `sleep`)";

/// Measures once.
type Job = fn(&mut Node) -> anyhow::Result<Sample>;

/// Both at `job`, each on a node of its own that `prepare` has seen first.
fn contestants(
    context: &Context,
    calls: &str,
    prepare: fn(&mut Node) -> anyhow::Result<()>,
    job: Job,
) -> anyhow::Result<Vec<Contestant>> {
    let prepared = |mut node: Node| prepare(&mut node).map(|()| node);
    let ours = prepared(Node::wharf(context)?)?;
    let mut found = vec![contestant(OURS, ours, calls, job)];
    found.push(match Node::containerd() {
        Err(reason) => Contestant::missing(CONTAINERD, reason),
        Ok(node) => contestant(CONTAINERD, prepared(node?)?, calls, job),
    });
    Ok(found)
}

/// As [`contestants`], each alone on the machine: the other daemon stands still meanwhile.
fn contestants_apart(
    context: &Context,
    calls: &str,
    prepare: fn(&mut Node) -> anyhow::Result<()>,
    job: Job,
) -> anyhow::Result<Vec<Contestant>> {
    let apart = |name, mut node: Node| {
        prepare(&mut node)?;
        node.stand_still();
        let (version, command) = (node.version.clone(), calls.into());
        let run = move || {
            node.go_on();
            let sample = job(&mut node);
            node.stand_still();
            sample
        };
        anyhow::Ok(Contestant { name, version, command, run: Ok(Box::new(run)) })
    };
    let mut found = vec![apart(OURS, Node::wharf(context)?)?];
    found.push(match Node::containerd() {
        Err(reason) => Contestant::missing(CONTAINERD, reason),
        Ok(node) => apart(CONTAINERD, node?)?,
    });
    Ok(found)
}

fn contestant(name: &'static str, mut node: Node, calls: &str, job: Job) -> Contestant {
    let version = node.version.clone();
    Contestant { name, version, command: calls.into(), run: Ok(Box::new(move || job(&mut node))) }
}

fn seconds(since: Instant) -> Sample {
    Sample::from([(Metric::Time, since.elapsed().as_secs_f64())])
}

/// The time of so many pods, at a time, until they run.
fn started(node: &mut Node, count: usize) -> anyhow::Result<Sample> {
    let begin = Instant::now();
    let pods = node.start_pods(count)?;
    let taken = seconds(begin);
    node.end_pods(pods)?;
    Ok(taken)
}

fn against_containerd(
    context: &Context,
    what: String,
    calls: &str,
    job: Job,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let bound = |at_most| Bound { ours: OURS, metric: Metric::Time, at_most };
    Ok(Comparison {
        what,
        contestants: contestants(context, calls, |_| Ok(()), job)?,
        bounds: vec![bound(Limit::Times(0.25, &[CONTAINERD])), bound(Limit::Spread(2.0))],
        rounds,
        warm_up: rounds / 10,
    })
}

const START: &str = "RunPodSandbox, CreateContainer, StartContainer";

/// One pod brought to run.
pub(crate) fn start(context: &Context) -> anyhow::Result<Comparison> {
    against_containerd(context, format!("Bring {POD} to run."), START, |node| started(node, 1), 40)
}

/// Several pods at a time.
pub(crate) fn many(context: &Context) -> anyhow::Result<Comparison> {
    let what = format!("Bring to run, {MANY} at a time, {POD}.");
    against_containerd(context, what, START, |node| started(node, MANY), 10)
}

/// One pod ended and removed.
pub(crate) fn end(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        let pods = node.start_pods(1)?;
        let begin = Instant::now();
        node.end_pods(pods)?;
        Ok(seconds(begin))
    };
    against_containerd(context, format!("End and remove {POD}."), "StopPodSandbox, RemovePodSandbox", job, 40)
}

/// What a pod costs in memory, the container's own process aside.
pub(crate) fn memory(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| {
        // What takes memory for a moment only has given it back by then.
        std::thread::sleep(SETTLED);
        let before = node.memory_bytes()?;
        let pods = node.start_pods(MANY)?;
        std::thread::sleep(SETTLED);
        let with_pods = node.memory_bytes()?;
        node.end_pods(pods)?;
        Ok(Sample::from([(Metric::Memory, with_pods.saturating_sub(before) as f64 / MANY as f64)]))
    };
    Ok(Comparison {
        what: format!(
            "Memory (PSS) of the node's programs that {MANY} pods add, by pod: shims, pause processes and what of the daemon is no \
             file's. Each is {POD}, \
             whose own process does not count; the pause process of others is that `sleep` too."
        ),
        contestants: contestants(context, "20 pods", |_| Ok(()), job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Memory, at_most: Limit::Absolute(POD_MAX_BYTES) }],
        rounds: 5,
        warm_up: 1,
    })
}

fn crowd_of_containers(node: &mut Node) -> anyhow::Result<()> {
    (0..LISTED_PODS).try_for_each(|_| node.start_pod_of(LISTED_CONTAINERS))
}

/// The time of a call that counts every container.
fn counted(count: impl FnOnce() -> anyhow::Result<usize>) -> anyhow::Result<Sample> {
    let begin = Instant::now();
    let found = count()?;
    let taken = seconds(begin);
    anyhow::ensure!(found == LISTED_PODS * LISTED_CONTAINERS, "there are {found} containers");
    Ok(taken)
}

/// A list of a thousand containers.
pub(crate) fn list(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| counted(|| node.client.list_containers());
    Ok(Comparison {
        what: format!("List {} containers; the other daemon stands still meanwhile.", LISTED_PODS * LISTED_CONTAINERS),
        contestants: contestants_apart(context, "ListContainers", crowd_of_containers, job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Tail(LIST_MAX_SECONDS) }],
        rounds: 200,
        warm_up: 10,
    })
}

/// What a thousand containers use.
pub(crate) fn stats(context: &Context) -> anyhow::Result<Comparison> {
    let job: Job = |node| counted(|| node.client.container_stats());
    Ok(Comparison {
        what: format!(
            "Figures of {} containers; the other daemon stands still meanwhile.",
            LISTED_PODS * LISTED_CONTAINERS
        ),
        contestants: contestants_apart(context, "ListContainerStats", crowd_of_containers, job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Absolute(STATS_MAX_SECONDS) }],
        rounds: 40,
        warm_up: 4,
    })
}

/// What the node's programs take while its pods do nothing.
pub(crate) fn idle(context: &Context) -> anyhow::Result<Comparison> {
    let prepare = |node: &mut Node| (0..IDLE_PODS / MANY).try_for_each(|_| node.start_pods(MANY).map(drop));
    let job: Job = |node| {
        let (before, begin) = (node.processor_time()?, Instant::now());
        std::thread::sleep(IDLE_SPAN);
        let used = node.processor_time()?.saturating_sub(before);
        Ok(Sample::from([(Metric::Processor, used.as_secs_f64() / begin.elapsed().as_secs_f64())]))
    };
    Ok(Comparison {
        what: format!(
            "A node with {IDLE_PODS} pods that nobody asks anything: processor time of daemon and shims over {} s.",
            IDLE_SPAN.as_secs()
        ),
        contestants: contestants(context, "nothing", prepare, job)?,
        bounds: vec![Bound { ours: OURS, metric: Metric::Processor, at_most: Limit::Absolute(IDLE_MAX_SHARE) }],
        rounds: 5,
        warm_up: 1,
    })
}

/// One more pod where there are few and where there are many.
pub(crate) fn growth(context: &Context) -> anyhow::Result<Comparison> {
    const FEW: &str = "5 pods";
    const CROWDED: &str = "500 pods";
    let job: Job = |node| started(node, 1);
    Ok(Comparison {
        what: format!("One more pod on a node that has {FEW_PODS} of them, and {CROWD}."),
        contestants: vec![
            contestant(CROWDED, crowded(context, CROWD)?, START, job),
            contestant(FEW, crowded(context, FEW_PODS)?, START, job),
        ],
        bounds: vec![Bound { ours: CROWDED, metric: Metric::Time, at_most: Limit::Times(1.3, &[FEW]) }],
        rounds: 40,
        warm_up: 4,
    })
}

/// A node that has so many pods.
fn crowded(context: &Context, pods: usize) -> anyhow::Result<Node> {
    let mut node = Node::wharf(context)?;
    (0..pods / FEW_PODS).try_for_each(|_| node.start_pods(FEW_PODS).map(drop))?;
    Ok(node)
}

/// What the daemon itself takes in memory.
pub(crate) fn daemon(context: &Context) -> anyhow::Result<Comparison> {
    const EMPTY: &str = "no pods";
    const CROWDED: &str = "500 pods";
    let job: Job = |node| {
        std::thread::sleep(SETTLED);
        Ok(Sample::from([(Metric::Memory, node.daemon_memory_bytes()? as f64)]))
    };
    let bound = |ours, at_most| Bound { ours, metric: Metric::Memory, at_most: Limit::Absolute(at_most) };
    Ok(Comparison {
        what: format!(
            "Memory (RSS) of `wharfd` on a node without pods, and on one with {CROWD}, {} s after the last of them was started.",
            SETTLED.as_secs()
        ),
        contestants: vec![
            contestant(EMPTY, crowded(context, 0)?, "nothing", job),
            contestant(CROWDED, crowded(context, CROWD)?, "nothing", job),
        ],
        bounds: vec![bound(EMPTY, DAEMON_MAX_BYTES), bound(CROWDED, CROWDED_DAEMON_MAX_BYTES)],
        rounds: 5,
        warm_up: 0,
    })
}
