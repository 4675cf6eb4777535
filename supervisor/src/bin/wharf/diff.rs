//! `wharf diff`: what a container has changed of its image, or one image has other than another.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use wharf_images::{Change, ChangeKind, Store};

use crate::client::Client;
use crate::{NodeArguments, image_store, target};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Container, or the image to compare with
    container: String,
    /// Image that is compared with the first
    image: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value = "lines")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// `A`, `C` or `D` and the path, for added, changed and deleted
    Lines,
    /// One object with three lists
    Json,
}

pub(crate) async fn run(node: &NodeArguments, client: &Client, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let store = image_store::open(node)?;
    let changes = match &arguments.image {
        Some(image) => {
            let (old, new) = (store.image_for(&arguments.container, None)?, store.image_for(image, None)?);
            store.image_changes(&old, &new)?
        }
        None => store.container_changes(&container(&store, client, &arguments.container).await?)?,
    };
    let mut output = io::stdout().lock();
    match arguments.format {
        Format::Lines => {
            for change in &changes {
                writeln!(output, "{} {}", letter(change.kind), path(change))?;
            }
        }
        Format::Json => {
            let of = |kind| -> Vec<String> { changes.iter().filter(|change| change.kind == kind).map(path).collect() };
            let object: Value = json!({
                "added": of(ChangeKind::Added), "changed": of(ChangeKind::Changed), "deleted": of(ChangeKind::Deleted),
            });
            writeln!(output, "{object}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The id of the container that is meant: as the daemon knows it, or by its id alone where there is none.
async fn container(store: &Store, client: &Client, word: &str) -> anyhow::Result<String> {
    let by_name = match target::all(client).await {
        Ok(targets) => target::find(&targets, word).map(|target| target.id().to_owned()),
        Err(error) => Err(error),
    };
    let error = match by_name {
        Ok(id) if !id.is_empty() => return Ok(id),
        Ok(_) => bail!("{word}: has not been created yet"),
        Err(error) => error,
    };
    if store.snapshots()?.iter().any(|prepared| prepared.container_id == word) {
        return Ok(word.to_owned());
    }
    if store.resolve(word)?.is_some() {
        bail!("{word}: is an image; name another one to compare it with");
    }
    Err(error).with_context(|| format!("diff {word}"))
}

fn letter(kind: ChangeKind) -> char {
    match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Changed => 'C',
        ChangeKind::Deleted => 'D',
    }
}

/// A name may be any bytes; on a terminal it must stay one line.
fn path(change: &Change) -> String {
    let text = std::ffi::OsStr::from_bytes(&change.path).to_string_lossy();
    let escaped = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escaped).collect()
}
