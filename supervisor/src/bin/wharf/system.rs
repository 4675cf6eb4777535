//! `wharf system`: is what the node keeps on disk sound, mending it, and making room.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use wharf_images::verify::{Depth, Verified};
use wharf_supervisor::api::kinds::KINDS;
use wharf_supervisor::api::object_store::ObjectStore;

use crate::client::{Client, path};
use crate::pull::{RegistryArguments, uninterrupted};
use crate::units::size_text;
use crate::{NodeArguments, image_store};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Read all that the node keeps, and say what is damaged; exit code 1 if anything is
    Check(CheckArguments),
    /// Fetch what is damaged of images again; exit code 1 if anything stays damaged
    Repair(RepairArguments),
    /// Remove images without a tag, and what interrupted pulls left
    Prune(PruneArguments),
}

#[derive(clap::Args)]
struct CheckArguments {
    /// Unpack every layer once more and compare each file
    #[arg(long)]
    deep: bool,
}

impl CheckArguments {
    fn depth(&self) -> Depth {
        if self.deep { Depth::Files } else { Depth::Blobs }
    }
}

#[derive(clap::Args)]
struct RepairArguments {
    #[command(flatten)]
    check: CheckArguments,
    #[command(flatten)]
    registry: RegistryArguments,
}

#[derive(clap::Args)]
struct PruneArguments {
    /// All images that no container uses, but those that are pinned
    #[arg(short, long)]
    all: bool,
    /// Without asking
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(node: &NodeArguments, client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Check(arguments) => check(node, client, &arguments).await,
        Action::Repair(arguments) => repair(node, &arguments).await,
        Action::Prune(arguments) => prune(node, &arguments),
    }
}

async fn check(node: &NodeArguments, client: &Client, arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    let verified = image_store::open(node)?.verify(arguments.depth())?;
    println!("{}", summary(&verified));
    for damage in &verified.damages {
        println!("  {damage}");
    }
    if !verified.damages.is_empty() {
        let deep = if arguments.deep { " --deep" } else { "" };
        println!("  `wharf system repair{deep}` fetches and unpacks it again");
    }
    let objects = objects(node, client).await;
    match &objects {
        Ok(count) => println!("objects: {count}, the database is sound"),
        Err(error) => println!("objects: the database is damaged\n  {error:#}"),
    }
    Ok(ExitCode::from(u8::from(!verified.damages.is_empty() || objects.is_err())))
}

async fn repair(node: &NodeArguments, arguments: &RepairArguments) -> anyhow::Result<ExitCode> {
    let options = arguments.registry.options()?;
    if options.credentials.is_some() {
        bail!("system repair: --creds is for one registry, images may be from many; name logins with --authfile");
    }
    let store = image_store::open_with(node, arguments.registry.store_options()?)?;
    let Some(repaired) = uninterrupted(store.repair(arguments.check.depth(), options.plain_http)).await? else {
        store.idle().await;
        bail!("system repair: interrupted");
    };
    let repaired = repaired?;
    repaired.fetched.iter().for_each(|blob| println!("blob {blob}: fetched again"));
    repaired.unpacked.iter().for_each(|layer| println!("layer {layer}: unpacked again"));
    repaired.left.iter().for_each(|damage| println!("{damage}"));
    for (digest, error) in repaired.failures {
        eprintln!("wharf: repair {digest}: {:#}", anyhow!(error));
    }
    println!("images: {}", if repaired.left.is_empty() { "all sound" } else { "still damaged" });
    Ok(ExitCode::from(u8::from(!repaired.left.is_empty())))
}

fn prune(node: &NodeArguments, arguments: &PruneArguments) -> anyhow::Result<ExitCode> {
    let what = if arguments.all { "all images that no container uses" } else { "all images without a tag" };
    if !arguments.force && !confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let pruned = image_store::open(node)?.prune(arguments.all)?;
    for removed in &pruned.images {
        removed.untagged.iter().for_each(|name| println!("Untagged: {name}"));
        removed.deleted.iter().for_each(|id| println!("Deleted: {id}"));
    }
    println!("Freed: {}", size_text(pruned.bytes));
    Ok(ExitCode::SUCCESS)
}

fn confirm(what: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("system prune: nobody to ask here; --force removes {what} without asking");
    }
    eprint!("Remove {what}? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn summary(verified: &Verified) -> String {
    let Verified { images, blobs, bytes, layers, damages } = verified;
    let state = match damages.len() {
        0 => "all sound".into(),
        count => format!("{count} damaged"),
    };
    format!("images: {images} of {blobs} blobs ({}) and {layers} layers, {state}", size_text(*bytes))
}

/// Counts the objects: those of the daemon that has the database open, else those in the database itself.
async fn objects(node: &NodeArguments, client: &Client) -> anyhow::Result<usize> {
    if client.get("/version").await.is_err() {
        let database = image_store::data_root(node)?.join("objects.redb");
        return Ok(if database.exists() { ObjectStore::check(&database)? } else { 0 });
    }
    let mut count = 0;
    for kind in KINDS {
        let list = client.get(&path(kind, None, None)?).await.with_context(|| format!("list {}", kind.plural))?;
        count += list["items"].as_array().map_or(0, Vec::len);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_is_damaged() {
        let mut verified = Verified { images: 1, blobs: 3, bytes: 2048, layers: 1, damages: Vec::new() };
        assert!(summary(&verified).ends_with("all sound"), "{}", summary(&verified));
        let digest = wharf_images::Digest::of(b"");
        verified.damages.push(wharf_images::verify::Damage::Content { blob: digest, found: digest });
        assert!(summary(&verified).ends_with("1 damaged"));
    }
}
