//! Waiting for what becomes of one object.

use anyhow::bail;
use futures_util::{AsyncBufReadExt, StreamExt};
use serde_json::Value;
use wharf_supervisor::api::kinds::{Kind, pod, pod::items, text};

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
    let is_it = |object: &Value| text(object, "/metadata/uid") == uid;
    object_until(client, &pod::KIND, namespace, name, is_it, |now| Ok(seen(now))).await
}

/// Shows the object of that name of which `is_it` is true to `seen`, as it is now and after each change, until that
/// gives something back; `None` stands for its end.
pub(crate) async fn object_until<T>(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
    is_it: impl Fn(&Value) -> bool,
    mut seen: impl FnMut(Option<&Value>) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let collection = path(kind, Some(namespace), None)?;
    let field = encoded(&format!("metadata.name={name}"));
    let list = client.get(&format!("{collection}?fieldSelector={field}")).await?;
    if let Some(found) = seen(items(&list, "items").iter().find(|object| is_it(object)))? {
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
        if !is_it(object) {
            continue;
        }
        let now = (event["type"] != "DELETED").then_some(object);
        if let Some(found) = seen(now)? {
            return Ok(found);
        }
    }
    bail!("the node ended; {} {name} runs on without it", kind.singular)
}
