//! `wharf images`, `tag` and `rmi`: what lies in the store.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::{Value, json};
use wharf_images::{Image, Reference};

use crate::get::write_columns;
use crate::template::ListFormat;
use crate::units::{ago, size_text};
use crate::{NodeArguments, image_store, progress};

const NONE: &str = "<none>";

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// `json` (one object a line), or a template: "{{.Repository}}:{{.Tag}}", "table {{.ID}}\\t{{.Size}}"
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
}

#[derive(clap::Args)]
pub(crate) struct TagArguments {
    /// Name or id of an image here
    source: String,
    /// Its further name
    name: String,
}

#[derive(clap::Args)]
pub(crate) struct RemoveArguments {
    /// Name of an image, or its id to remove all its names
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct PinArguments {
    /// Name of an image, or its id for all its names
    #[arg(required = true)]
    images: Vec<String>,
}

/// One line of the list: an image under one of its names.
struct Row {
    repository: String,
    tag: String,
    image: Image,
}

pub(crate) fn list(node: &NodeArguments, arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let images = image_store::open(node)?.images()?;
    let mut output = io::stdout().lock();
    let id = |image: &Image| if arguments.no_trunc { image.id.to_string() } else { progress::short(&image.id) };
    if arguments.quiet {
        for image in &images {
            writeln!(output, "{}", id(image))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let created = |image: &Image| image.created.clone().unwrap_or_default();
    let mut rows: Vec<Row> = images.into_iter().flat_map(rows).collect();
    // Newest first, as docker lists them.
    rows.sort_by(|a, b| (created(&b.image), &a.repository, &a.tag).cmp(&(created(&a.image), &b.repository, &b.tag)));
    let age = |image: &Image| image.created.as_deref().map(ago).unwrap_or_default();
    match arguments.format.as_deref() {
        None | Some("table") => {}
        Some("json") => {
            for row in &rows {
                writeln!(output, "{}", fields(row, id(&row.image), row.image.size.into()))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(template) => {
            let header = json!({
                "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "Digest": "DIGEST",
                "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "Size": "SIZE",
            });
            let size = |row: &Row| size_text(row.image.size).into();
            let rows: Vec<Value> = rows.iter().map(|row| fields(row, id(&row.image), size(row))).collect();
            ListFormat::parse(template)?.write(&mut output, &header, &rows)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut lines = vec![["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![row.repository.clone(), row.tag.clone(), id(&row.image), age(&row.image), size_text(row.image.size)]
    }));
    write_columns(&mut output, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// A line's values, as docker's templates name them.
fn fields(row: &Row, id: String, size: Value) -> Value {
    let created = row.image.created.as_deref();
    json!({
        "Repository": row.repository, "Tag": row.tag, "ID": id, "Digest": row.image.manifest_digest,
        "CreatedSince": created.map(ago), "CreatedAt": created, "Size": size,
    })
}

/// An image under each of its tags; under its repository without a tag where it has none.
fn rows(image: Image) -> Vec<Row> {
    let names: Vec<(String, String)> = if image.repo_tags.is_empty() {
        let repository = image.repo_digests.first().and_then(|name| name.split_once('@'));
        vec![(repository.map_or(NONE, |(name, _)| name).to_owned(), NONE.to_owned())]
    } else {
        let split = |name: &String| name.rsplit_once(':').map(|(name, tag)| (name.to_owned(), tag.to_owned()));
        image.repo_tags.iter().filter_map(split).collect()
    };
    names.into_iter().map(|(repository, tag)| Row { repository, tag, image: image.clone() }).collect()
}

pub(crate) fn tag(node: &NodeArguments, arguments: TagArguments) -> anyhow::Result<ExitCode> {
    let name: Reference = arguments.name.parse()?;
    image_store::open(node)?.tag(&arguments.source, &name)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn set_pinned(node: &NodeArguments, arguments: &PinArguments, is_pinned: bool) -> anyhow::Result<ExitCode> {
    let store = image_store::open(node)?;
    for name in &arguments.images {
        store.set_pinned(name, is_pinned)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn remove(node: &NodeArguments, arguments: RemoveArguments) -> anyhow::Result<ExitCode> {
    let store = image_store::open(node)?;
    let mut code = ExitCode::SUCCESS;
    for name in &arguments.images {
        match store.remove(name) {
            Ok(removed) => {
                removed.untagged.iter().for_each(|name| println!("Untagged: {name}"));
                removed.deleted.iter().for_each(|id| println!("Deleted: {id}"));
            }
            Err(error) => {
                eprintln!("wharf: {:#}", anyhow!(error));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
