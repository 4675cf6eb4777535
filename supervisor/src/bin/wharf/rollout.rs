//! `wharf rollout`: versions of a Deployment, and how the present one comes along.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use wharf_supervisor::api::kinds::{Kind, daemon_set, deployment, integer, pod::items, replica_set, text};
use wharf_supervisor::api::objects::now;

use crate::client::{Client, path};
use crate::get::write_columns;
use crate::resource::{selection, shown};
use crate::watch::object_until;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// As kubectl marks it: a new value is a new version.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Of a ReplicaSet's own, not of the template that it was made from.
const TEMPLATE_HASH: &str = "pod-template-hash";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Wait until the present version runs, telling how far it is
    Status(StatusArguments),
    /// List the versions that there are
    History(What),
    /// Go back to the version before, or to another one
    Undo(UndoArguments),
    /// Replace every pod by one like it
    Restart(What),
    /// Make no new version, whatever changes
    Pause(What),
    /// Make one new version of all changes since
    Resume(What),
}

#[derive(clap::Args)]
pub(crate) struct What {
    /// deployment NAME or deployment/NAME
    #[arg(required = true)]
    what: Vec<String>,
    #[command(flatten)]
    namespace: crate::Namespace,
}

#[derive(clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    what: What,
    /// Give up after so many seconds; 0 never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    timeout: u64,
}

#[derive(clap::Args)]
pub(crate) struct UndoArguments {
    #[command(flatten)]
    what: What,
    /// Its number in the history; 0 is the one before
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    to_revision: i64,
}

/// An object that is rolled out.
struct Rolled {
    kind: &'static Kind,
    name: String,
    path: String,
}

impl What {
    /// The one object that is meant, of one of `kinds`.
    fn one(&self, kinds: &[&'static Kind]) -> anyhow::Result<Rolled> {
        let selected = selection(&self.what)?;
        let [(kind, Some(name))] = selected.as_slice() else { bail!("name one object, such as deployment/web") };
        if !kinds.iter().any(|known| std::ptr::eq(*known, *kind)) {
            let known: Vec<&str> = kinds.iter().map(|kind| kind.singular).collect();
            bail!("a {} has no roll-outs to do that with; a {} has", kind.singular, known.join(" or a "));
        }
        let path = path(kind, Some(&self.namespace.namespace), Some(name))?;
        Ok(Rolled { kind, name: name.clone(), path })
    }
}

pub(crate) async fn run(client: &Client, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(arguments) => status(client, arguments).await,
        Command::History(what) => history(client, &what).await,
        Command::Undo(arguments) => undo(client, &arguments).await,
        Command::Restart(what) => {
            let rolled = what.one(&[&deployment::KIND, &daemon_set::KIND])?;
            let annotations = json!({RESTARTED_AT: now()});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
            change(client, &rolled, &patch, "restarted").await
        }
        Command::Pause(what) => set_paused(client, &what, true).await,
        Command::Resume(what) => set_paused(client, &what, false).await,
    }
}

async fn change(client: &Client, rolled: &Rolled, patch: &Value, done: &str) -> anyhow::Result<ExitCode> {
    client.merge(&rolled.path, patch).await?;
    println!("{} {done}", shown(rolled.kind, &rolled.name));
    Ok(ExitCode::SUCCESS)
}

async fn set_paused(client: &Client, what: &What, paused: bool) -> anyhow::Result<ExitCode> {
    let rolled = what.one(&[&deployment::KIND])?;
    let present = client.get(&rolled.path).await?;
    if (present["spec"]["paused"] == true) == paused {
        bail!("{} {}", shown(rolled.kind, &rolled.name), if paused { "is already paused" } else { "is not paused" });
    }
    let patch = json!({"spec": {"paused": paused.then_some(true)}});
    change(client, &rolled, &patch, if paused { "paused" } else { "resumed" }).await
}

/// The versions of a Deployment by their number, oldest first.
async fn versions(client: &Client, rolled: &Rolled, namespace: &str) -> anyhow::Result<Vec<(i64, Value)>> {
    let owner = client.get(&rolled.path).await?;
    let sets = client.get(&path(&replica_set::KIND, Some(namespace), None)?).await?;
    let is_owned = |set: &&Value| {
        let owners = items(&set["metadata"], "ownerReferences");
        owners.iter().any(|reference| reference["uid"] == owner["metadata"]["uid"])
    };
    let numbered = |set: &Value| {
        let revision = set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?;
        Some((revision, set.clone()))
    };
    let mut versions: Vec<(i64, Value)> = items(&sets, "items").iter().filter(is_owned).filter_map(numbered).collect();
    versions.sort_by_key(|(revision, _)| *revision);
    Ok(versions)
}

async fn history(client: &Client, what: &What) -> anyhow::Result<ExitCode> {
    let rolled = what.one(&[&deployment::KIND])?;
    let mut lines = vec![["REVISION", "IMAGES", "CHANGE-CAUSE"].map(str::to_owned).to_vec()];
    for (revision, set) in versions(client, &rolled, &what.namespace.namespace).await? {
        let containers = items(&set["spec"]["template"]["spec"], "containers");
        let images: Vec<&str> = containers.iter().map(|container| text(container, "/image")).collect();
        let cause = set["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or("<none>");
        lines.push(vec![revision.to_string(), images.join(","), cause.to_owned()]);
    }
    write_columns(&mut std::io::stdout().lock(), &lines)?;
    Ok(ExitCode::SUCCESS)
}

async fn undo(client: &Client, arguments: &UndoArguments) -> anyhow::Result<ExitCode> {
    let rolled = arguments.what.one(&[&deployment::KIND])?;
    let mut versions = versions(client, &rolled, &arguments.what.namespace.namespace).await?;
    let object = shown(rolled.kind, &rolled.name);
    let (revision, set) = match arguments.to_revision {
        0 => {
            // The newest is what runs now.
            versions.pop();
            versions.pop().with_context(|| format!("{object} has no version before this one"))?
        }
        wanted => {
            let found = versions.into_iter().find(|(revision, _)| *revision == wanted);
            found.with_context(|| format!("{object} has no revision {wanted}; `wharf rollout history` lists them"))?
        }
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(TEMPLATE_HASH);
    }
    // Whole: what the present version has beside it goes.
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    client.json_patch(&rolled.path, &patch).await?;
    println!("{object} goes back to revision {revision}");
    Ok(ExitCode::SUCCESS)
}

async fn status(client: &Client, arguments: StatusArguments) -> anyhow::Result<ExitCode> {
    let rolled = arguments.what.one(&[&deployment::KIND, &daemon_set::KIND])?;
    let object = shown(rolled.kind, &rolled.name);
    let mut said = String::new();
    let seen = |now: Option<&Value>| {
        let Some(now) = now else { bail!("there is no {object}") };
        let progress = progress(rolled.kind, now)?;
        match progress {
            None => Ok(Some(())),
            Some(line) => {
                if line != said {
                    println!("{line}");
                    said = line;
                }
                Ok(None)
            }
        }
    };
    let namespace = &arguments.what.namespace.namespace;
    let done = object_until(client, rolled.kind, namespace, &rolled.name, |_| true, seen);
    match arguments.timeout {
        0 => done.await?,
        seconds => match tokio::time::timeout(Duration::from_secs(seconds), done).await {
            Ok(done) => done?,
            Err(_) => bail!("{object} is not rolled out after {seconds} s"),
        },
    }
    println!("{object} is rolled out");
    Ok(ExitCode::SUCCESS)
}

/// How far a roll-out is; nothing where it is complete.
///
/// # Errors
/// It stands still for longer than its deadline.
fn progress(kind: &Kind, object: &Value) -> anyhow::Result<Option<String>> {
    let status = |field: &str| integer(object, &format!("/status/{field}"));
    if status("observedGeneration") < integer(object, "/metadata/generation") {
        return Ok(Some("waiting for the change to be seen".into()));
    }
    if kind.singular == daemon_set::KIND.singular {
        let (desired, updated) = (status("desiredNumberScheduled"), status("updatedNumberScheduled"));
        let available = status("numberAvailable");
        let done = updated >= desired && available >= desired;
        return Ok((!done).then(|| format!("{updated} of {desired} pods are new, {available} serve")));
    }
    let conditions = items(&object["status"], "conditions");
    if let Some(late) = conditions.iter().find(|condition| condition["reason"] == "ProgressDeadlineExceeded") {
        bail!("{}", text(late, "/message"));
    }
    let (desired, updated) = (integer(object, "/spec/replicas"), status("updatedReplicas"));
    let (all, available) = (status("replicas"), status("availableReplicas"));
    let line = if updated < desired {
        format!("{updated} of {desired} pods are new")
    } else if all > updated {
        format!("{} old pods are still there", all - updated)
    } else if available < updated {
        format!("{available} of {updated} new pods serve")
    } else {
        return Ok(None);
    };
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_complete_when_new_pods_alone_are_there_and_serve() {
        let with = |updated: i64, all: i64, available: i64| {
            let status = json!({"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available});
            let object = json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
            progress(&deployment::KIND, &object).unwrap()
        };
        assert_eq!(with(1, 3, 2).as_deref(), Some("1 of 2 pods are new"));
        assert_eq!(with(2, 3, 3).as_deref(), Some("1 old pods are still there"));
        assert_eq!(with(2, 2, 1).as_deref(), Some("1 of 2 new pods serve"));
        assert_eq!(with(2, 2, 2), None);
        let late = json!({"status": {"conditions": [{"reason": "ProgressDeadlineExceeded", "message": "too long"}]}});
        assert_eq!(progress(&deployment::KIND, &late).unwrap_err().to_string(), "too long");
    }
}
