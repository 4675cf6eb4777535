//! The Node object: made at the start, and its status kept true.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_specs::config::Eviction;

use super::node_pressure::{Level, RESOURCES, Resource};
use super::{Context, node_lease, node_pressure};
use crate::api::kinds::{node, set_default, text};
use crate::api::metrics::meminfo_bytes;
use crate::api::objects::{Half, now};
use crate::api::status::ApiError;

/// How often it is looked at, and its lease renewed.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long the node says that it is short of something after it was so last, and keeps pods off: what was ended would be back
/// at once. The kubelet's own time.
const RELIEF: Duration = Duration::from_secs(300);
/// A status that stays the same is written again after so long: its heartbeat. As the kubelet's.
const HEARTBEAT: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// Makes the object and keeps its status until the end.
pub async fn run(context: Context) {
    if let Err(error) = context.objects.take_over().await {
        tracing::warn!(%error, "take over the pods of the name before");
    }
    match restore_labels(&context).await {
        // Its object is made with them.
        Ok(()) | Err(ApiError::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%error, "write the node's labels"),
    }
    let mut pressed = [None; RESOURCES.len()];
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut readings = Readings::take(&context.node.options().root);
        let levels = readings.levels(&context.eviction);
        for (pressed, level) in pressed.iter_mut().zip(&levels) {
            if level.is_short() {
                *pressed = Some(Instant::now());
            }
        }
        readings.pressures = pressed.map(|at: Option<Instant>| at.is_some_and(|at| at.elapsed() < RELIEF));
        if let Some(level) = levels.iter().find(|level| level.is_short())
            && let Err(error) = node_pressure::relieve(&context, level).await
        {
            tracing::warn!(%error, ?level, "end a pod");
        }
        match update(&context, &readings).await {
            Ok(node) => {
                if let Err(error) = node_lease::renew(&context.objects, &node).await {
                    tracing::warn!(%error, "renew the node's lease");
                }
            }
            Err(error) => tracing::warn!(%error, "write the node's status"),
        }
    }
}

/// Labels that every node has and that somebody has taken away come back with the next start, as a kubelet has it.
async fn restore_labels(context: &Context) -> Result<(), ApiError> {
    let name = context.node_name.clone();
    let change = move |mut node: Value| {
        if node["metadata"]["labels"].is_null() {
            node["metadata"]["labels"] = json!({});
        }
        for (label, value) in node::labels(&name).as_object().into_iter().flatten() {
            set_default(&mut node["metadata"]["labels"], label, value.clone());
        }
        Ok(node)
    };
    context.objects.update(&node::KIND, "", &context.node_name, Half::Desired, change).await.map(drop)
}

async fn update(context: &Context, readings: &Readings) -> Result<Arc<Value>, ApiError> {
    let name = &*context.node_name;
    let node = match context.objects.get(&node::KIND, "", name) {
        Ok(node) => node,
        Err(_) => context.objects.create(&node::KIND, "", node::new(name)).await?,
    };
    let fresh = status(context, readings, &node["status"]);
    if is_told(&node["status"], &fresh) {
        return Ok(node);
    }
    context.objects.set_status(&node::KIND, "", name, text(&node, "/metadata/uid"), fresh).await?;
    Ok(node)
}

/// Whether what is written says the same, and said it not long ago.
fn is_told(written: &Value, fresh: &Value) -> bool {
    let without_heartbeats = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition.as_object_mut().map(|condition| condition.remove("lastHeartbeatTime"));
        }
        status
    };
    let heartbeat = text(written, "/conditions/0/lastHeartbeatTime").parse::<jiff::Timestamp>();
    let is_recent = heartbeat.is_ok_and(|heartbeat| jiff::Timestamp::now().duration_since(heartbeat) < HEARTBEAT);
    is_recent && without_heartbeats(written) == without_heartbeats(fresh)
}

/// What the machine says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
struct Readings {
    processors: usize,
    /// Bytes.
    memory: u64,
    available_memory: u64,
    /// Of which of [`RESOURCES`] it is short, or was so not long ago.
    pressures: [bool; RESOURCES.len()],
    disk: u64,
    available_disk: u64,
    threads: u64,
    most_threads: u64,
}

impl Readings {
    fn take(root: &Path) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let disk = rustix::fs::statvfs(root);
        let (disk, available_disk) =
            disk.map_or((0, 0), |disk| (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize));
        let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: meminfo_bytes(&meminfo, "MemTotal"),
            available_memory: meminfo_bytes(&meminfo, "MemAvailable"),
            pressures: [false; RESOURCES.len()],
            disk,
            available_disk,
            threads: threads(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
            most_threads: pid_max.trim().parse().unwrap_or(u64::MAX),
        }
    }

    /// As [`RESOURCES`].
    fn levels(&self, wanted: &Eviction) -> [Level; RESOURCES.len()] {
        // Divided first: of process ids there may be more than can be multiplied.
        let share = |all: u64, percent: u8| all / 100 * u64::from(percent);
        RESOURCES.map(|resource| {
            let (available, threshold) = match resource {
                Resource::Memory => (self.available_memory, u64::from(wanted.memory_mib) << 20),
                Resource::Disk => (self.available_disk, share(self.disk, wanted.disk_percent)),
                Resource::ProcessIds => {
                    let free = self.most_threads.saturating_sub(self.threads);
                    (free, share(self.most_threads, wanted.pids_percent))
                }
            };
            Level { resource, available, threshold }
        })
    }
}

/// Threads of the machine: the fourth field of `/proc/loadavg` is `RUNNING/ALL`.
fn threads(loadavg: &str) -> u64 {
    let field = loadavg.split_whitespace().nth(3).and_then(|field| field.split_once('/'));
    field.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn status(context: &Context, readings: &Readings, old: &Value) -> Value {
    let resources = json!({
        "cpu": readings.processors.to_string(), "memory": format!("{}Ki", readings.memory / 1024),
        "ephemeral-storage": format!("{}Ki", readings.disk / 1024), "pods": context.max_pods.to_string(),
    });
    json!({
        "capacity": resources, "allocatable": resources, "conditions": conditions(readings, old),
        "addresses": addresses(context),
        "nodeInfo": node_info(),
    })
}

fn addresses(context: &Context) -> Vec<Value> {
    let internal = context.host_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    internal.chain([json!({"type": "Hostname", "address": &*context.node_name})]).collect()
}

fn conditions(readings: &Readings, old: &Value) -> Vec<Value> {
    let pressures = RESOURCES.into_iter().zip(readings.pressures).map(|(resource, is_so)| {
        let (what, well, ill) = match resource {
            Resource::Memory => ("memory", "SufficientMemory", "InsufficientMemory"),
            Resource::Disk => ("disk space", "NoDiskPressure", "DiskPressure"),
            Resource::ProcessIds => ("process ids", "SufficientPID", "InsufficientPID"),
        };
        let reason = format!("WharfdHas{}", if is_so { ill } else { well });
        let message = if is_so { format!("the node is short of {what}") } else { format!("the node has {what} left") };
        condition(old, resource.condition(), is_so, &reason, &message)
    });
    pressures.chain([condition(old, "Ready", true, "WharfdReady", "wharfd runs pods")]).collect()
}

/// With a heartbeat, and the time since when it has been so.
fn condition(old: &Value, kind: &str, is_so: bool, reason: &str, message: &str) -> Value {
    let mut condition = super::replica_set::condition(old, kind, is_so, reason, message);
    condition["lastHeartbeatTime"] = now().into();
    condition
}

fn node_info() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os_release = read("/etc/os-release");
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    json!({
        "machineID": read("/etc/machine-id"), "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "bootID": read("/proc/sys/kernel/random/boot_id"), "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "osImage": name.trim_matches('"'), "operatingSystem": "linux", "architecture": node::architecture(),
        "containerRuntimeVersion": concat!("wharf://", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": crate::api::discovery::version()["gitVersion"], "kubeProxyVersion": "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: Readings = Readings {
        processors: 2,
        memory: 4 << 30,
        available_memory: 1 << 30,
        pressures: [false; RESOURCES.len()],
        disk: 100 << 30,
        available_disk: 50 << 30,
        threads: 500,
        most_threads: 32768,
    };

    #[test]
    fn a_node_says_what_it_is_short_of() {
        let said = |pressures| {
            let conditions = conditions(&Readings { pressures, ..ENOUGH }, &Value::Null);
            let is_so = conditions.iter().filter(|condition| condition["status"] == "True");
            is_so.map(|condition| text(condition, "/type").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(said([false; 3]), ["Ready"]);
        assert_eq!(said([true, false, true]), ["MemoryPressure", "PIDPressure", "Ready"]);
        assert_eq!(said([false, true, false]), ["DiskPressure", "Ready"]);
        assert_eq!(threads("0.00 0.01 0.05 1/387 12345\n"), 387);
    }

    #[test]
    fn a_node_is_short_of_what_it_has_less_of_than_it_should() {
        let short = |readings: Readings, wanted: &Eviction| {
            let levels = readings.levels(wanted).into_iter().filter(Level::is_short);
            levels.map(|level| level.resource).collect::<Vec<_>>()
        };
        assert_eq!(short(ENOUGH, &Eviction::default()), []);
        let full = Readings { available_disk: 4 << 30, threads: 32000, available_memory: 99 << 20, ..ENOUGH };
        assert_eq!(short(full.clone(), &Eviction::default()), RESOURCES);
        let off = Eviction { memory_mib: 0, disk_percent: 0, pids_percent: 0 };
        assert_eq!(short(full, &off), []);
        let greedy = Eviction { memory_mib: 2048, disk_percent: 60, pids_percent: 99 };
        assert_eq!(short(ENOUGH, &greedy), RESOURCES);
        // A file system that says nothing of itself.
        assert_eq!(short(Readings { disk: 0, available_disk: 0, ..ENOUGH }, &greedy).len(), 2);
    }

    #[test]
    fn a_status_that_stays_is_written_for_its_heartbeat_alone() {
        let fresh = json!({"conditions": conditions(&ENOUGH, &Value::Null)});
        assert!(is_told(&fresh, &fresh));
        let short = json!({"conditions": conditions(&Readings { pressures: [true, false, false], ..ENOUGH }, &fresh)});
        assert!(!is_told(&fresh, &short));
        let mut old = fresh.clone();
        old["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:00Z".into();
        assert!(!is_told(&old, &fresh));
        let since = |status: &Value| text(status, "/conditions/1/lastTransitionTime").to_owned();
        assert_eq!(since(&short), since(&fresh));
    }
}
