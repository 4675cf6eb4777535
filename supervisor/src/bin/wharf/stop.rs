//! `wharf stop`, `kill` and `rm`: what ends containers, one after the other as they are named.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;
use wharf_supervisor::api::kinds::{pod::items, text};

use crate::client::Client;
use crate::container_state::ContainerState;
use crate::run::remove_pod;
use crate::target::{self, Target};
use crate::{NodeArguments, cri, watch};

#[derive(clap::Args)]
pub(crate) struct StopArguments {
    /// Container: its name, or the start of its id
    #[arg(required = true)]
    names: Vec<String>,
    /// How long it may take to end by itself before it is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(i64).range(0..))]
    time: i64,
}

#[derive(clap::Args)]
pub(crate) struct KillArguments {
    /// Container: its name, or the start of its id
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct RemoveArguments {
    /// Container: its name, or the start of its id
    #[arg(required = true)]
    names: Vec<String>,
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn stop(node: &NodeArguments, client: &Client, arguments: StopArguments) -> anyhow::Result<ExitCode> {
    each(client, &arguments.names, async |target| end(node, client, target, arguments.time).await).await
}

pub(crate) async fn kill(node: &NodeArguments, client: &Client, arguments: KillArguments) -> anyhow::Result<ExitCode> {
    each(client, &arguments.names, async |target| {
        if !matches!(target.state(), ContainerState::Running { .. }) {
            bail!("{}: is not running", target.name());
        }
        end(node, client, target, 0).await
    })
    .await
}

pub(crate) async fn remove(client: &Client, arguments: RemoveArguments) -> anyhow::Result<ExitCode> {
    each(client, &arguments.names, async |target| {
        let name = target.name();
        if let Some(controller) = target.controller() {
            bail!("{name}: {controller} would make another one: delete or scale its Deployment with `wharf delete`, `wharf scale`");
        }
        let containers = items(&target.pod["spec"], "containers").len();
        if containers > 1 {
            bail!("{name}: its pod has {containers} containers: `wharf delete pod {}` removes them together", target.pod_name());
        }
        if !arguments.force && matches!(target.state(), ContainerState::Running { .. }) {
            bail!("{name}: is running: stop it first (`wharf stop {name}`), or use --force");
        }
        let grace = arguments.force.then_some(0);
        remove_pod(client, target.namespace(), target.pod_name(), target.uid(), grace).await
    })
    .await
}

/// Does something to each, printing the names it was done to.
async fn each(
    client: &Client,
    names: &[String],
    act: impl AsyncFn(&Target) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        // Looked at anew for each: the same one may be named twice.
        let targets = target::all(client).await?;
        let outcome = match target::find(&targets, name) {
            Ok(target) => act(target).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("wharf: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Ends a container and returns when the node's status says so too.
async fn end(node: &NodeArguments, client: &Client, target: &Target, grace_seconds: i64) -> anyhow::Result<()> {
    let name = target.name();
    match target.state() {
        ContainerState::Exited { .. } => return Ok(()),
        ContainerState::Waiting { reason, .. } => {
            bail!("{name}: is not running ({reason}); `wharf rm {name}` removes it")
        }
        ContainerState::Running { .. } => {}
    }
    cri::stop_container(node, target.id(), grace_seconds).await?;
    let container = text(&target.container, "/name");
    watch::pod_until(client, target.namespace(), target.pod_name(), target.uid(), |pod| {
        let ended = pod.is_none_or(|pod| !still_runs(pod, container, target.id()));
        ended.then_some(())
    })
    .await?;
    if let Some(controller) = target.controller() {
        eprintln!("wharf: {name}: {controller} starts it again: delete or scale its Deployment to end it for good");
    } else if text(&target.pod, "/spec/restartPolicy") == "Always" {
        eprintln!("wharf: {name}: its restart policy starts it again: `wharf rm --force {name}` ends it for good");
    }
    Ok(())
}

fn still_runs(pod: &Value, container: &str, id: &str) -> bool {
    let statuses = items(&pod["status"], "containerStatuses");
    let same = statuses.iter().find(|s| s["name"] == container && text(s, "/containerID").ends_with(id));
    same.is_some_and(|status| matches!(ContainerState::of(status), ContainerState::Running { .. }))
}
