//! `wharf leaks`: what is left on the machine of pods and containers that the node does not know.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use wharf_specs::cri::StatusRequest;
use wharf_supervisor::leaks::{self, Known};

use crate::get::write_columns;
use crate::{NodeArguments, cri};

/// Exit code 1 if anything is left.
pub(crate) async fn run(node: &NodeArguments) -> anyhow::Result<ExitCode> {
    let before = known(node).await?;
    let first = leaks::look(&before).await?;
    let left = if first.is_empty() {
        Vec::new()
    } else {
        let second = leaks::look(&known(node).await?).await?;
        leaks::confirmed(&first, &second, &known(node).await?)
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

async fn known(node: &NodeArguments) -> anyhow::Result<Known> {
    let mut runtime = cri::connect(node).await?;
    let status = runtime.status(StatusRequest { verbose: true }).await;
    let status = status.map_err(|status| anyhow!("ask the node for its status: {}", status.message()))?.into_inner();
    let known = status.info.get("known").context("this wharfd is too old to say what it knows")?;
    serde_json::from_str(known).context("read what the node knows")
}
