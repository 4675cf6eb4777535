//! `wharf images`, `tag`, `rmi` and `inspect`: what lies in the store.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use serde_json::{Value, json};
use wharf_images::{Image, Reference};

use crate::get::write_columns;
use crate::units::{ago, size_text};
use crate::{NodeArguments, image_store, progress};

const NONE: &str = "<none>";

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    /// One object a line
    Json,
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
pub(crate) struct InspectArguments {
    /// Name or id of an image here
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
    if arguments.format == Format::Json {
        for row in &rows {
            let line = json!({
                "Repository": row.repository, "Tag": row.tag, "ID": id(&row.image),
                "CreatedAt": row.image.created, "Size": row.image.size, "Digest": row.image.manifest_digest,
            });
            writeln!(output, "{line}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let age = row.image.created.as_deref().map(ago).unwrap_or_default();
        vec![row.repository.clone(), row.tag.clone(), id(&row.image), age, size_text(row.image.size)]
    }));
    write_columns(&mut output, &lines)?;
    Ok(ExitCode::SUCCESS)
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

pub(crate) fn inspect(node: &NodeArguments, arguments: InspectArguments) -> anyhow::Result<ExitCode> {
    let store = image_store::open(node)?;
    let mut found = Vec::new();
    for name in &arguments.images {
        let image = store.resolve(name)?.with_context(|| format!("image `{name}`: not in the store"))?;
        found.push(document(&image));
    }
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&found)?)?;
    Ok(ExitCode::SUCCESS)
}

/// An image as `docker inspect` shows it.
fn document(image: &Image) -> Value {
    let config = &image.config;
    json!({
        "Id": image.id, "RepoTags": image.repo_tags, "RepoDigests": image.repo_digests, "Created": image.created,
        "Os": image.platform.os, "Architecture": image.platform.architecture, "Variant": image.platform.variant,
        "Size": image.size,
        "Config": {
            "User": config.user, "ExposedPorts": set(&config.exposed_ports), "Env": config.env,
            "Entrypoint": config.entrypoint, "Cmd": config.cmd, "Volumes": set(&config.volumes),
            "WorkingDir": config.working_dir, "Labels": config.labels, "StopSignal": config.stop_signal,
        },
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
    })
}

/// Image configurations write sets as objects with empty values.
fn set(names: &[String]) -> Value {
    names.iter().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>().into()
}
