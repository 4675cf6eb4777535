//! `wharf system check`: is what the node keeps on disk sound.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use wharf_images::verify::Verified;
use wharf_supervisor::api::kinds::KINDS;
use wharf_supervisor::api::object_store::ObjectStore;

use crate::client::{Client, path};
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
    Check,
}

pub(crate) async fn run(node: &NodeArguments, client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Check => check(node, client).await,
    }
}

async fn check(node: &NodeArguments, client: &Client) -> anyhow::Result<ExitCode> {
    let verified = image_store::open(node)?.verify()?;
    println!("{}", summary(&verified));
    for damage in &verified.damages {
        println!("  {damage}");
    }
    let objects = objects(node, client).await;
    match &objects {
        Ok(count) => println!("objects: {count}, the database is sound"),
        Err(error) => println!("objects: the database is damaged\n  {error:#}"),
    }
    Ok(ExitCode::from(u8::from(!verified.damages.is_empty() || objects.is_err())))
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
