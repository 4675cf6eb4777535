//! `wharf leaks`: what is left on the machine of pods and containers that the node does not know.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use wharf_specs::cri::StatusRequest;
use wharf_supervisor::api::kinds::{Kind, persistent_volume, pod, text};
use wharf_supervisor::leaks::{self, Known};

use crate::client::{Client, path};
use crate::get::write_columns;
use crate::{NodeArguments, cri};

/// Exit code 1 if anything is left.
pub(crate) async fn run(node: &NodeArguments, client: &Client) -> anyhow::Result<ExitCode> {
    let before = known(node, client).await?;
    let first = leaks::look(&before).await?;
    let left = if first.is_empty() {
        Vec::new()
    } else {
        let second = leaks::look(&known(node, client).await?).await?;
        leaks::confirmed(&first, &second, &known(node, client).await?)
    };
    if left.is_empty() {
        println!("nothing is left: {} pod sandboxes, {} containers", before.sandboxes.len(), before.containers.len());
        return Ok(ExitCode::SUCCESS);
    }
    let heading = ["KIND", "WHAT", "OWNER"].map(str::to_owned).to_vec();
    let lines = left.iter().map(|leak| vec![leak.kind.to_string(), leak.what.clone(), leak.owner.clone()]);
    write_columns(&mut io::stdout().lock(), &[heading].into_iter().chain(lines).collect::<Vec<_>>())?;
    Ok(ExitCode::FAILURE)
}

async fn known(node: &NodeArguments, client: &Client) -> anyhow::Result<Known> {
    let mut runtime = cri::connect(node).await?;
    let status = runtime.status(StatusRequest { verbose: true }).await;
    let status = status.map_err(|status| anyhow!("ask the node for its status: {}", status.message()))?.into_inner();
    let known = status.info.get("known").context("this wharfd is too old to say what it knows")?;
    let mut known: Known = serde_json::from_str(known).context("read what the node knows")?;
    known.pods = objects(client, &pod::KIND, "/metadata/uid").await?;
    known.volumes = objects(client, &persistent_volume::KIND, "/metadata/name").await?;
    Ok(known)
}

/// A field of every object of a kind.
async fn objects(client: &Client, kind: &Kind, field: &str) -> anyhow::Result<BTreeSet<String>> {
    let list = client.get(&path(kind, None, None)?).await?;
    Ok(pod::items(&list, "items").iter().map(|object| text(object, field).to_owned()).collect())
}
