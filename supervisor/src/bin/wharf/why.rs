//! `wharf why`: one page that explains a pod.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use indicatif::BinaryBytes;
use serde_json::Value;
use wharf_supervisor::api::kinds::pod::items;
use wharf_supervisor::api::kinds::{integer, pod, text};

use crate::client::{Client, path};
use crate::logs::pod_name;
use crate::terminal::plain;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// POD, also one that has gone within the last hour, or KIND/NAME for one pod of a Deployment or ReplicaSet
    pod: String,
    #[command(flatten)]
    namespace: crate::Namespace,
    /// Everything, as the node says it
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Json,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let namespace = &arguments.namespace.namespace;
    let name = pod_name(client, namespace, &arguments.pod).await?;
    let explanation = client.get(&(path(&pod::KIND, Some(namespace), Some(&name))? + "/why")).await?;
    let shown = match arguments.output {
        Some(Output::Json) => serde_json::to_string_pretty(&explanation)? + "\n",
        None => page(&explanation),
    };
    io::stdout().lock().write_all(shown.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn page(explanation: &Value) -> String {
    let field = |pointer| text(explanation, pointer);
    let mut page = String::new();
    let mut line = |text: String| writeln!(page, "{text}").unwrap_or_default();
    line(format!("pod {}/{}: {}", field("/metadata/namespace"), field("/metadata/name"), field("/phase")));
    if !field("/reason").is_empty() {
        line(format!("  {}: {}", field("/reason"), plain(field("/message"))));
    }
    // What follows from another one says nothing.
    let own = items(explanation, "conditions").iter().filter(|condition| condition["type"] != "ContainersReady");
    for condition in own {
        let (kind, reason) = (text(condition, "/type"), text(condition, "/reason"));
        line(format!("  {kind} is {}: {reason}: {}", text(condition, "/status"), plain(text(condition, "/message"))));
    }
    for container in items(explanation, "containers") {
        let restarts = integer(container, "/restartCount");
        line(format!("\ncontainer {}: {}, {restarts} restarts", text(container, "/name"), state(container)));
        line(format!("  image {} ({})", text(container, "/image"), text(container, "/imageID")));
        usage(container, &mut line);
        indented(text(container, "/log"), "  log", &mut line);
    }
    if !explanation["figures"].is_null() && items(explanation, "containers").len() > 1 {
        line("\nall containers together".into());
        usage(explanation, &mut line);
    }
    line("\nwhat happened".into());
    let mut images = BTreeMap::new();
    for entry in items(explanation, "entries") {
        told(entry, &mut images, &mut line);
    }
    page
}

fn state(container: &Value) -> String {
    let at = |pointer| text(container, pointer);
    if !at("/state/waiting/reason").is_empty() {
        let message = plain(at("/state/waiting/message"));
        let reason = at("/state/waiting/reason");
        return if message.is_empty() { format!("waits: {reason}") } else { format!("waits: {reason}: {message}") };
    }
    if !at("/state/running/startedAt").is_empty() {
        let ready = if container["ready"] == true { "ready" } else { "not ready" };
        return format!("runs since {}, {ready}", at("/state/running/startedAt"));
    }
    let code = integer(container, "/state/terminated/exitCode");
    format!("ended: {}, {}", at("/state/terminated/reason"), exit(code))
}

/// `exit code 3`, or the signal that a code above 128 stands for.
fn exit(code: i64) -> String {
    let signal = match code - 128 {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        31 => "SIGSYS",
        other @ 1..=64 => return format!("exit code {code} (signal {other})"),
        _ => return format!("exit code {code}"),
    };
    format!("exit code {code} ({signal})")
}

fn usage(of: &Value, line: &mut impl FnMut(String)) {
    let figures = &of["figures"];
    if figures.is_null() {
        return;
    }
    let number = |pointer: &str| figures.pointer(pointer).and_then(Value::as_u64);
    line(format!("  group {}", text(of, "/group")));
    let periods = number("/cpu/periods").unwrap_or(0);
    if periods > 0 {
        let throttled = number("/cpu/throttledPeriods").unwrap_or(0);
        let seconds = number("/cpu/throttled").unwrap_or(0) as f64 / 1e9;
        line(format!("  cpu throttled in {throttled} of {periods} periods, {seconds:.1} s"));
    }
    if let Some(used) = number("/memory/workingSet") {
        let limit = number("/memory/limit").map_or("no limit".into(), |limit| format!("limit {}", BinaryBytes(limit)));
        let hits = number("/memory/limitHits").unwrap_or(0);
        let kills = number("/oomKills").unwrap_or(0);
        line(format!("  memory {}, {limit}, limit met {hits} times, {kills} killed", BinaryBytes(used)));
    }
    let stalls: Vec<String> = ["cpu", "memory", "io"]
        .into_iter()
        .filter_map(|resource| {
            let share = |kind: &str| figures.pointer(&format!("/{resource}/pressure/{kind}/avg60"))?.as_f64();
            Some(format!("{resource} some {:.1} % all {:.1} %", share("some")?, share("full")?))
        })
        .collect();
    if !stalls.is_empty() {
        line(format!("  waited in the last minute for {}", stalls.join(", ")));
    }
}

/// `images` are those that containers were started from last.
fn told<'a>(entry: &'a Value, images: &mut BTreeMap<&'a str, &'a str>, line: &mut impl FnMut(String)) {
    let field = |name: &str| text(entry, &format!("/{name}"));
    let at = field("at");
    let again = match integer(entry, "/count") {
        0 | 1 => String::new(),
        count => format!(" ({count} times until {})", field("until")),
    };
    let container = field("container");
    match field("what") {
        "started" => {
            let attempt = integer(entry, "/attempt");
            let image = text(entry, "/imageId");
            let changed = match images.insert(text(entry, "/container"), image) {
                Some(earlier) if earlier != image => format!(", from another image: {image}"),
                _ => String::new(),
            };
            line(format!("  {at}  {container} started, attempt {attempt}{changed}"));
        }
        "ended" => {
            let code = exit(integer(entry, "/exitCode"));
            let ran = integer(entry, "/ranSeconds");
            line(format!("  {at}  {container} ended: {}, {code}, after {ran} s", field("reason")));
            if !entry["oom"].is_null() {
                line(format!("    out of memory: {}", out_of_memory(&entry["oom"])));
            }
            indented(field("message"), "    last words", line);
            indented(field("log"), "    log", line);
        }
        "told" => {
            let of = if container.is_empty() { String::new() } else { format!("{container} ") };
            line(format!("  {at}  {of}{}: {}{again}", field("reason"), plain(field("message"))));
        }
        _ => line(format!("  {at}  changed: {}{again}", plain(field("message")))),
    }
}

fn out_of_memory(oom: &Value) -> String {
    let limit = BinaryBytes(oom["limitBytes"].as_u64().unwrap_or(0));
    match text(oom, "/level") {
        "node" => "of no group that is known; the node's own memory, or a shim that cannot say".into(),
        level => format!("the limit of the {level}'s group {}, {limit}, was hit", text(oom, "/group")),
    }
}

fn indented(text: &str, heading: &str, line: &mut impl FnMut(String)) {
    if text.trim().is_empty() {
        return;
    }
    let indent = " ".repeat(heading.len() - heading.trim_start().len());
    line(format!("{heading}:"));
    text.lines().for_each(|written| line(format!("{indent}  | {}", plain(written))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_names_ends_limits_and_probes() {
        let shown = page(&json!({
            "metadata": {"namespace": "default", "name": "web"}, "phase": "Running",
            "containers": [{"name": "c", "image": "i:1", "imageID": "sha256:0", "restartCount": 1, "ready": false,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "log": "bad\u{1b}[2J\n"}],
            "entries": [
                {"at": "t1", "what": "ended", "container": "c", "exitCode": 137, "reason": "OOMKilled", "ranSeconds": 3,
                    "oom": {"group": "/wharf/p/c", "level": "container", "limitBytes": 16 << 20}},
                {"at": "t2", "what": "told", "container": "c", "reason": "Unhealthy", "message": "no", "count": 4, "until": "t5"},
            ],
        }));
        for expected in [
            "pod default/web: Running",
            "container c: waits: CrashLoopBackOff, 1 restarts",
            "    | bad [2J",
            "t1  c ended: OOMKilled, exit code 137 (SIGKILL), after 3 s",
            "the limit of the container's group /wharf/p/c, 16.00 MiB, was hit",
            "t2  c Unhealthy: no (4 times until t5)",
        ] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
    }
}
