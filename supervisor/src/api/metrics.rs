//! `metrics.k8s.io/v1beta1`: what pods and the node use right now, read when it is asked for. Nothing of it is stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use serde_json::{Value, json};

use super::accept;
use super::kinds::pod::items;
use super::kinds::{Column, Kind, NAME_COLUMN, node, pod, text};
use super::list::Filter;
use super::objects::now;
use super::quantity;
use super::query::Query;
use super::route::Metrics;
use super::server::Api;
use super::status::ApiError;
use crate::pod::stats::{ContainerStats, Detail};
use crate::pod::status::ContainerState;

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";
/// Over how long the processor time of containers is looked at, as the sampler does.
const WINDOW: &str = "10s";
/// A rate over less than this says more of the clock than of the work.
const SHORTEST_SPAN: Duration = Duration::from_secs(1);
/// A sample that is older says nothing about now.
const SAMPLE_AGE: Duration = Duration::from_secs(60);
const VERBS: [&str; 2] = ["get", "list"];
static KINDS: [Kind; 2] = [kind("NodeMetrics", "nodes", false), kind("PodMetrics", "pods", true)];

/// Nobody writes them: there is nothing to default or to refuse.
const fn kind(kind: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind {
        group: GROUP,
        version: VERSION,
        kind,
        plural,
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced,
        verbs: &VERBS,
        subresources: &[],
        set_defaults: |_| {},
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        columns: &[
            NAME_COLUMN,
            Column {
                name: "CPU",
                data_type: "string",
                priority: 0,
                cell: |metrics| format!("{}m", sum(metrics, "cpu", quantity::milli)).into(),
            },
            Column {
                name: "Memory",
                data_type: "string",
                priority: 0,
                cell: |metrics| format!("{}Ki", sum(metrics, "memory", quantity::whole) / 1024).into(),
            },
            Column {
                name: "Window",
                data_type: "string",
                priority: 0,
                cell: |metrics| text(metrics, "/window").into(),
            },
        ],
    }
}

/// What a node, or all containers of a pod, use of a resource.
pub fn sum(metrics: &Value, resource: &str, read: fn(&str) -> Option<i64>) -> i64 {
    let parts = match items(metrics, "containers") {
        [] => std::slice::from_ref(metrics),
        containers => containers,
    };
    parts.iter().filter_map(|part| read(text(part, &format!("/usage/{resource}")))).sum()
}

/// The answer to a request for figures.
pub(super) async fn answer(api: &Api, parts: &Parts, wanted: Metrics<'_>, query: &Query) -> Result<Response, ApiError> {
    let form = accept::form(parts, query)?;
    let filter = Filter::from_query(query, None)?;
    let version = api.objects.store().version();
    let [nodes, pods] = &KINDS;
    let list = |kind: &Kind, items: Vec<Value>| {
        let items: Vec<Arc<Value>> = items.into_iter().map(Arc::new).collect();
        axum::Json(form.list(kind, &items, version, None)).into_response()
    };
    let show = |kind: &Kind, item: Value| axum::Json(form.show(kind, &Arc::new(item), version)).into_response();
    Ok(match wanted {
        Metrics::Node(name) => {
            let metrics = node_metrics(api, &*api.objects.get(&node::KIND, "", name)?).await?;
            show(nodes, metrics)
        }
        Metrics::Nodes => {
            let mut items = Vec::new();
            for node in api.objects.list(&node::KIND, None).0.iter().filter(|node| filter.matches(node)) {
                items.push(node_metrics(api, node).await?);
            }
            list(nodes, items)
        }
        Metrics::Pod { namespace, name } => {
            let pod = api.objects.get(&pod::KIND, namespace, name)?;
            let missing = || ApiError::NotFound { resource: format!("pods.{GROUP}"), name: name.into() };
            let metrics = pod_metrics(api, vec![pod]).await?.pop().ok_or_else(missing)?;
            show(pods, metrics)
        }
        Metrics::Pods { namespace } => {
            let (mut wanted, _) = api.objects.list(&pod::KIND, namespace);
            wanted.retain(|pod| filter.matches(pod));
            list(pods, pod_metrics(api, wanted).await?)
        }
    })
}

/// Figures of those of `pods` that run.
async fn pod_metrics(api: &Api, pods: Vec<Arc<Value>>) -> Result<Vec<Value>, ApiError> {
    let sandboxes: HashMap<String, String> = api
        .node
        .pick_sandboxes(|sandbox| Some((sandbox.config.name.uid.clone(), sandbox.id.clone())))
        .into_iter()
        .collect();
    let mut found = Vec::new();
    for pod in pods {
        let Some(sandbox) = sandboxes.get(text(&pod, "/metadata/uid")) else { continue };
        let mut containers = api.node.containers_of(sandbox);
        containers.retain(|container| container.state == ContainerState::Running);
        let stats = api.node.container_stats(&containers, Detail::Summary).await;
        let stats = stats.map_err(|error| ApiError::Internal(error.to_string()))?;
        let figures: Option<Vec<Value>> =
            containers.iter().zip(&stats).map(|(container, stats)| usage(&container.config.name, stats)).collect();
        // Without all of its containers, a pod's figures would say less than it uses.
        if let Some(figures) = figures.filter(|figures| !figures.is_empty()) {
            found.push(object("PodMetrics", &pod, WINDOW, "containers", figures.into()));
        }
    }
    Ok(found)
}

/// One container's; `None` before there are two samples of its processor time.
fn usage(name: &str, stats: &ContainerStats) -> Option<Value> {
    let figures = stats.figures.as_ref()?;
    let (cpu, memory) = (figures.cpu.usage_nano_cores?, figures.memory.working_set?);
    Some(json!({"name": name, "usage": quantities(cpu, memory)}))
}

fn quantities(nano_cores: u64, bytes: u64) -> Value {
    json!({"cpu": format!("{nano_cores}n"), "memory": format!("{}Ki", bytes / 1024)})
}

fn object(kind: &str, of: &Value, window: &str, field: &str, figures: Value) -> Value {
    let metadata = &of["metadata"];
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "timestamp": now(), "window": window, field: figures,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata["labels"],
            "creationTimestamp": now()},
    })
}

async fn node_metrics(api: &Api, node: &Value) -> Result<Value, ApiError> {
    let failed = |error: std::io::Error| ApiError::Internal(format!("figures of the node: {error}"));
    let (nano_cores, span) = api.usage.node.nano_cores().await.map_err(failed)?;
    let memory = memory_in_use(&std::fs::read_to_string("/proc/meminfo").map_err(failed)?);
    let usage = quantities(nano_cores, memory);
    Ok(object("NodeMetrics", node, &format!("{}ms", span.as_millis()), "usage", usage))
}

/// Bytes of memory that could not be given to somebody else at once.
fn memory_in_use(meminfo: &str) -> u64 {
    meminfo_bytes(meminfo, "MemTotal").saturating_sub(meminfo_bytes(meminfo, "MemAvailable"))
}

/// A field of `/proc/meminfo` in bytes; 0 where it has none.
pub fn meminfo_bytes(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The processor time of the whole machine, looked at whenever somebody asks for it.
#[derive(Default)]
pub struct NodeUsage {
    /// What the next request compares with.
    kept: Mutex<Option<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// Time that all processors together were busy.
    busy: Duration,
}

impl NodeUsage {
    /// How much of the processors was used, and over which time; waits where there is nothing to compare with.
    async fn nano_cores(&self) -> std::io::Result<(u64, Duration)> {
        let mut newest = Sample::take()?;
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = match kept.filter(|kept| (SHORTEST_SPAN..SAMPLE_AGE).contains(&(newest.at - kept.at))) {
            Some(kept) => kept,
            None => {
                let first = newest;
                tokio::time::sleep(SHORTEST_SPAN).await;
                newest = Sample::take()?;
                first
            }
        };
        let span = newest.at - earlier.at;
        let keep = if span >= SAMPLE_AGE / 2 { newest } else { earlier };
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(keep);
        let busy = newest.busy.saturating_sub(earlier.busy).as_nanos();
        let rate = busy * 1_000_000_000 / span.as_nanos().max(1);
        Ok((u64::try_from(rate).unwrap_or(u64::MAX), span))
    }
}

impl Sample {
    fn take() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let at = Instant::now();
        let busy = busy_ticks(&text).ok_or_else(|| std::io::Error::other("/proc/stat has no line cpu"))?;
        // The kernel counts in hundredths of a second towards programs, whatever its own clock is.
        Ok(Self { at, busy: Duration::from_millis(busy * 10) })
    }
}

/// user, nice, system, irq, softirq, steal: all but idle, waiting for disks, and guests, whose time is in user's.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    Some(ticks.iter().take(3).sum::<u64>() + ticks.iter().skip(5).take(3).sum::<u64>())
}

/// The group's resources, for `/apis/metrics.k8s.io/v1beta1`.
pub(super) fn resources() -> Value {
    let resource = |kind: &Kind| json!({"name": kind.plural, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": VERBS});
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": KINDS.each_ref().map(resource),
    })
}

/// The same in the form of aggregated discovery.
pub(super) fn aggregated() -> Value {
    let resource = |kind: &Kind| {
        json!({
            "resource": kind.plural, "singularResource": "", "verbs": VERBS,
            "responseKind": {"group": GROUP, "version": VERSION, "kind": kind.kind},
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        })
    };
    let version = json!({"version": VERSION, "freshness": "Current", "resources": KINDS.each_ref().map(resource)});
    json!({"metadata": {"name": GROUP}, "versions": [version]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_row_with_what_its_containers_use() {
        let usage = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        let pod = json!({"metadata": {"name": "web"}, "window": "10s", "containers": [usage("1500000n", "1Ki"), usage("2m", "3Ki")]});
        let row = |kind: &Kind, object: &Value| {
            json!(kind.columns.iter().map(|column| (column.cell)(object)).collect::<Vec<_>>())
        };
        assert_eq!(row(&KINDS[1], &pod), json!(["web", "4m", "4Ki", "10s"]));
        let node =
            json!({"metadata": {"name": "n"}, "window": "1000ms", "usage": {"cpu": "250000000n", "memory": "8Ki"}});
        assert_eq!(row(&KINDS[0], &node), json!(["n", "250m", "8Ki", "1000ms"]));
    }

    #[test]
    fn busy_time_is_all_but_idle() {
        assert_eq!(busy_ticks("cpu  1 2 3 1000 500 4 5 6 7 8\ncpu0 9 9 9 9\n"), Some(1 + 2 + 3 + 4 + 5 + 6));
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        assert_eq!(memory_in_use("MemTotal:     1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n"), 600 * 1024);
    }
}
