//! `wharf logs`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use futures_util::AsyncReadExt;
use serde_json::Value;
use wharf_supervisor::api::kinds::{pod, pod::items, text};

use crate::client::{Client, encoded, path};
use crate::resource;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// POD, or KIND/NAME for one pod of a Deployment or ReplicaSet: a ready one, the oldest, if there is any
    pod: String,
    /// Container of the pod; needed where it has several
    #[arg(short, long)]
    container: Option<String>,
    #[command(flatten)]
    namespace: crate::Namespace,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// The log of the container that ran before
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what was written in the last seconds: 30s, 5m, 2h
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    since: Option<u64>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
}

/// Reads `90`, `30s`, `5m`, `2h`.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => return Err(format!("unit {unit:?} is not s, m or h")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a duration such as 30s, 5m, 2h"))?;
    Ok(number * factor)
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let pod = pod_name(client, &arguments.namespace.namespace, &arguments.pod).await?;
    let mut query = vec![format!("follow={}", arguments.follow), format!("previous={}", arguments.previous)];
    query.push(format!("timestamps={}", arguments.timestamps));
    query.extend(arguments.container.as_deref().map(|name| format!("container={}", encoded(name))));
    query.extend(arguments.tail.map(|lines| format!("tailLines={lines}")));
    query.extend(arguments.since.map(|seconds| format!("sinceSeconds={seconds}")));
    let path = path(&pod::KIND, Some(&arguments.namespace.namespace), Some(&pod))?;
    let mut log = Box::pin(client.lines(&format!("{path}/log?{}", query.join("&")), false).await?);
    let mut buffer = vec![0; 64 * 1024];
    let mut output = io::stdout();
    loop {
        match log.read(&mut buffer).await? {
            0 => return Ok(ExitCode::SUCCESS),
            length => {
                output.write_all(&buffer[..length])?;
                output.flush()?;
            }
        }
    }
}

/// A pod's own name, or the one of a Deployment's or ReplicaSet's pods that has most to say ([`most_telling`]).
pub(crate) async fn pod_name(client: &Client, namespace: &str, word: &str) -> anyhow::Result<String> {
    let Some((kind, name)) = word.split_once('/') else { return Ok(word.to_owned()) };
    let kind = resource::kind(kind)?;
    if std::ptr::eq(kind, &pod::KIND) {
        return Ok(name.to_owned());
    }
    let owner = client.get(&path(kind, Some(namespace), Some(name))?).await?;
    let labels = owner.pointer("/spec/selector/matchLabels").and_then(|labels| labels.as_object());
    let Some(labels) = labels else { bail!("a {} has no pods", kind.singular) };
    let selector: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let query = format!("?labelSelector={}", encoded(&selector.join(",")));
    let pods = client.get(&(path(&pod::KIND, Some(namespace), None)? + &query)).await?;
    match most_telling(items(&pods, "items")) {
        Some(pod) => Ok(text(pod, "/metadata/name").to_owned()),
        None => bail!("{word} has no pods"),
    }
}

/// As kubectl chooses: a pod that runs before one that does not yet, a ready one before others, then the oldest. One
/// that is being deleted comes last.
fn most_telling(pods: &[Value]) -> Option<&Value> {
    pods.iter().min_by_key(|pod| {
        let leaving = pod.pointer("/metadata/deletionTimestamp").is_some_and(|moment| !moment.is_null());
        let ready = items(&pod["status"], "conditions")
            .iter()
            .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True");
        let silent = matches!(text(pod, "/status/phase"), "" | "Pending");
        (leaving, silent, !ready, text(pod, "/metadata/creationTimestamp"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_many_pods_the_one_that_runs_longest_is_shown() {
        let pod = |name: &str, phase: &str, ready: &str, created: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let mut leaving = pod("leaving", "Running", "True", "2026-01-01T00:00:00Z");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-03T00:00:00Z");
        let mut pods = vec![leaving];
        let chosen = |pods: &[Value]| text(most_telling(pods).unwrap(), "/metadata/name").to_owned();
        for (name, phase, ready, created) in [
            ("new", "Pending", "False", "2026-01-01T00:00:00Z"),
            ("unready", "Running", "False", "2026-01-01T00:00:00Z"),
            ("young", "Running", "True", "2026-01-02T00:00:01Z"),
            ("old", "Running", "True", "2026-01-02T00:00:00Z"),
        ] {
            pods.push(pod(name, phase, ready, created));
            assert_eq!(chosen(&pods), name);
        }
        assert!(most_telling(&[]).is_none());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!((seconds("90"), seconds("5m"), seconds("2h")), (Ok(90), Ok(300), Ok(7200)));
        assert!(seconds("5x").is_err() && seconds("m").is_err());
    }
}
