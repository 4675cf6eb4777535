//! `wharf delete`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use futures_util::{AsyncBufReadExt, StreamExt};
use serde_json::{Value, json};
use wharf_supervisor::api::kinds::{Kind, pod::items, text};

use crate::apply::read_all;
use crate::client::{Client, encoded, is_not_found, path};
use crate::resource::{selection, shown};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// KIND NAME… or KIND/NAME…
    what: Vec<String>,
    /// Delete the objects of a manifest
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    namespace: crate::Namespace,
    /// Delete the objects whose labels match
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Delete every object of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that containers have to end by themselves
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// What becomes of the objects that the deleted ones own
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Return once the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    wait: bool,
    /// Objects that do not exist are no error
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cascade {
    Background,
    Foreground,
    Orphan,
}

/// One object to delete.
struct Victim {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut victims = Vec::new();
    for manifest in read_all(&arguments.filename)? {
        let Some(kind) = Kind::of_manifest(&manifest.api_version, &manifest.kind) else {
            bail!("kind {} is not served by this node", manifest.kind);
        };
        let namespace = manifest.namespace.unwrap_or_else(|| arguments.namespace.namespace.clone());
        victims.push(Victim { kind, namespace, name: manifest.name });
    }
    if arguments.filename.is_empty() {
        victims = selected(client, &arguments).await?;
    }
    if victims.is_empty() {
        println!("No resources found");
    }
    let mut failed = false;
    let mut marked = Vec::new();
    for victim in victims {
        match delete(client, &arguments, &victim).await {
            Ok(uid) => {
                println!("{} deleted", shown(victim.kind, &victim.name));
                marked.push((victim, uid));
            }
            Err(error) if is_not_found(&error) && arguments.ignore_not_found => {}
            Err(error) => {
                eprintln!("wharf: {error:#}");
                failed = true;
            }
        }
    }
    if arguments.wait {
        for (victim, uid) in &marked {
            wait_until_gone(client, victim, uid).await?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn selected(client: &Client, arguments: &Arguments) -> anyhow::Result<Vec<Victim>> {
    let namespace = &arguments.namespace.namespace;
    let mut victims = Vec::new();
    for (kind, name) in selection(&arguments.what)? {
        match (name, &arguments.selector) {
            (Some(name), None) if !arguments.all => victims.push(Victim { kind, namespace: namespace.clone(), name }),
            (None, selector) if selector.is_some() || arguments.all => {
                let query = selector.as_deref().map(|s| format!("?labelSelector={}", encoded(s))).unwrap_or_default();
                let list = client.get(&(path(kind, Some(namespace), None)? + &query)).await?;
                victims.extend(items(&list, "items").iter().map(|object| Victim {
                    kind,
                    namespace: namespace.clone(),
                    name: text(object, "/metadata/name").into(),
                }));
            }
            (None, _) => bail!("name the objects, or give --selector or --all"),
            (Some(_), _) => bail!("names do not go together with --selector or --all"),
        }
    }
    Ok(victims)
}

/// Deletes one object and gives back its uid.
async fn delete(client: &Client, arguments: &Arguments, victim: &Victim) -> anyhow::Result<String> {
    let propagation = match arguments.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation});
    if let Some(seconds) = arguments.grace_period.filter(|seconds| *seconds >= 0) {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let deleted = client.delete(&path(victim.kind, Some(&victim.namespace), Some(&victim.name))?, &options).await?;
    Ok(text(&deleted, "/metadata/uid").to_owned())
}

async fn wait_until_gone(client: &Client, victim: &Victim, uid: &str) -> anyhow::Result<()> {
    let collection = path(victim.kind, Some(&victim.namespace), None)?;
    let field = encoded(&format!("metadata.name={}", victim.name));
    let list = client.get(&format!("{collection}?fieldSelector={field}")).await?;
    if !items(&list, "items").iter().any(|object| text(object, "/metadata/uid") == uid) {
        return Ok(());
    }
    let version = text(&list, "/metadata/resourceVersion");
    let watch = format!("{collection}?watch=true&fieldSelector={field}&resourceVersion={version}");
    let mut lines = client.lines(&watch, false).await?.lines();
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        if event["type"] == "DELETED" && text(&event["object"], "/metadata/uid") == uid {
            return Ok(());
        }
    }
    bail!("the node ended before {} was gone", shown(victim.kind, &victim.name))
}
