//! `wharf inspect`: images as JSON.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use wharf_images::{Image, Platform, Store};

use crate::template::{Template, write_documents};
use crate::{NodeArguments, image_store};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or id of an image here
    #[arg(required = true)]
    images: Vec<String>,
    /// `json`, or a template: "{{.Id}}", "{{json .Config.Cmd}}"
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Which image of a multi-platform one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

pub(crate) fn run(node: &NodeArguments, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let format = arguments.format.as_deref().map(Template::parse).transpose()?;
    let platform: Option<Platform> = arguments.platform.as_deref().map(str::parse).transpose()?;
    let store = image_store::open(node)?;
    let mut found = Vec::new();
    for name in &arguments.images {
        let image = store.image_for(name, platform.as_ref())?;
        found.push(document(&store, &image).with_context(|| format!("inspect {name}"))?);
    }
    write_documents(&found, format.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

/// An image as `docker inspect` shows it.
fn document(store: &Store, image: &Image) -> anyhow::Result<Value> {
    let config = &image.config;
    let whole: Value = serde_json::from_slice(&store.config_document(image)?).context("read its configuration")?;
    let layers = store.layers_of(image)?;
    let unpacked: Option<u64> = layers.iter().map(|layer| layer.unpacked.map(|usage| usage.bytes)).sum();
    let layers: Vec<Value> =
        layers.iter().map(|layer| json!({"Digest": layer.blob, "DiffId": layer.diff_id, "Size": layer.size})).collect();
    Ok(json!({
        "Id": image.id, "Digest": image.manifest_digest, "RepoTags": image.repo_tags, "RepoDigests": image.repo_digests,
        "Created": image.created, "Author": whole["author"], "Os": image.platform.os,
        "Architecture": image.platform.architecture, "Variant": image.platform.variant,
        "Size": image.size, "UnpackedSize": unpacked, "Pinned": image.is_pinned,
        "Config": {
            "User": config.user, "ExposedPorts": set(&config.exposed_ports), "Env": config.env,
            "Entrypoint": config.entrypoint, "Cmd": config.cmd, "Volumes": set(&config.volumes),
            "WorkingDir": config.working_dir, "Labels": config.labels, "StopSignal": config.stop_signal,
        },
        "RootFS": {"Type": "layers", "Layers": image.diff_ids}, "Layers": layers, "History": whole["history"],
    }))
}

/// Image configurations write sets as objects with empty values.
fn set(names: &[String]) -> Value {
    names.iter().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>().into()
}
