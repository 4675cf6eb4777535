//! Waiting for what becomes of one pod.

use anyhow::bail;
use futures_util::{AsyncBufReadExt, StreamExt};
use serde_json::Value;
use wharf_supervisor::api::kinds::{pod, pod::items, text};

use crate::client::{Client, encoded, path};

/// Shows a pod as it is now and after each change to `seen`, until that gives something back. The pod is known by its
/// uid; `None` stands for its end.
pub(crate) async fn pod_until<T>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    mut seen: impl FnMut(Option<&Value>) -> Option<T>,
) -> anyhow::Result<T> {
    let collection = path(&pod::KIND, Some(namespace), None)?;
    let field = encoded(&format!("metadata.name={name}"));
    let list = client.get(&format!("{collection}?fieldSelector={field}")).await?;
    let now = items(&list, "items").iter().find(|pod| text(pod, "/metadata/uid") == uid);
    if let Some(found) = seen(now) {
        return Ok(found);
    }
    let version = text(&list, "/metadata/resourceVersion");
    let watch = format!("{collection}?watch=true&fieldSelector={field}&resourceVersion={version}");
    let mut lines = client.lines(&watch, false).await?.lines();
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let object = &event["object"];
        if event["type"] == "ERROR" {
            bail!("{}", text(object, "/message"));
        }
        if text(object, "/metadata/uid") != uid {
            continue;
        }
        let now = (event["type"] != "DELETED").then_some(object);
        if let Some(found) = seen(now) {
            return Ok(found);
        }
    }
    bail!("the node ended; pod {name} runs on without it")
}
