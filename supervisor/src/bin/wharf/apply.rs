//! `wharf apply`: the objects of a manifest become what it says.
//!
//! What the manifest said last time is kept in an annotation, as kubectl does, so that a field that was taken out of the
//! manifest is taken out of the object too, while fields that others set stay.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use wharf_specs::manifest::{self, MAX_MANIFEST_BYTES, Manifest};
use wharf_supervisor::api::kinds::{Kind, text};

use crate::client::{Client, is_not_found, path};
use crate::resource;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Manifest: a file, a folder of files, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    // All files are read before anything is changed.
    let manifests = read_all(&arguments.filename)?;
    if manifests.is_empty() {
        bail!("no objects in {}", shown(&arguments.filename));
    }
    let mut failed = false;
    for manifest in manifests {
        let name = manifest.name.clone();
        match apply(client, &arguments.namespace, manifest).await {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("wharf: {name}: {error:#}");
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The manifests of files, folders and standard input, in the order given.
pub(crate) fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for file in files {
        if file.is_dir() {
            let entries = std::fs::read_dir(file).with_context(|| format!("read {}", file.display()))?;
            let mut inside: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            inside.retain(|path| {
                path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known))
            });
            inside.sort();
            for file in inside {
                manifests.extend(read(&file)?);
            }
        } else {
            manifests.extend(read(file)?);
        }
    }
    Ok(manifests)
}

fn read(file: &Path) -> anyhow::Result<Vec<Manifest>> {
    let limit = MAX_MANIFEST_BYTES as u64 + 1;
    let mut content = String::new();
    let (name, result) = match file.to_str() {
        Some("-") => ("standard input".to_owned(), std::io::stdin().take(limit).read_to_string(&mut content)),
        _ => {
            let opened = std::fs::File::open(file);
            (file.display().to_string(), opened.and_then(|file| file.take(limit).read_to_string(&mut content)))
        }
    };
    result.with_context(|| format!("read {name}"))?;
    manifest::parse(&content).with_context(|| name)
}

/// Applies one object and says what happened to it.
async fn apply(client: &Client, namespace: &str, manifest: Manifest) -> anyhow::Result<String> {
    let Some(kind) = Kind::of_manifest(&manifest.api_version, &manifest.kind) else {
        bail!("kind {} is not served by this node", manifest.kind);
    };
    let namespace = manifest.namespace.clone().unwrap_or_else(|| namespace.to_owned());
    let mut wanted = manifest.object;
    if kind.namespaced {
        wanted["metadata"]["namespace"] = namespace.as_str().into();
    }
    let applied = wanted.to_string();
    wanted["metadata"]["annotations"][LAST_APPLIED] = applied.into();
    let object_path = path(kind, Some(&namespace), Some(&manifest.name))?;
    let shown = resource::shown(kind, &manifest.name);
    let current = match client.get(&object_path).await {
        Ok(current) => current,
        Err(error) if is_not_found(&error) => {
            client.create(&path(kind, Some(&namespace), None)?, &wanted).await?;
            return Ok(format!("{shown} created"));
        }
        Err(error) => return Err(error),
    };
    let last = current["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or("{}");
    let last: Value = serde_json::from_str(last).unwrap_or_else(|_| json!({}));
    let updated = client.merge(&object_path, &three_way(&last, &wanted)).await?;
    let version = |object: &Value| text(object, "/metadata/resourceVersion").to_owned();
    let outcome = if version(&updated) == version(&current) { "unchanged" } else { "configured" };
    Ok(format!("{shown} {outcome}"))
}

/// The merge patch that sets what is wanted and removes what was wanted last time only.
fn three_way(last: &Value, wanted: &Value) -> Value {
    let (Value::Object(last), Value::Object(wanted)) = (last, wanted) else { return wanted.clone() };
    let removed = last.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let set = wanted.iter().map(|(key, value)| {
        let before = last.get(key).unwrap_or(&Value::Null);
        (key.clone(), three_way(before, value))
    });
    Value::Object(removed.chain(set).collect::<Map<String, Value>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_taken_out_of_the_manifest_is_removed() {
        let last = json!({"spec": {"replicas": 3, "paused": true}, "list": [1]});
        let wanted = json!({"spec": {"replicas": 2}, "list": [2]});
        assert_eq!(three_way(&last, &wanted), json!({"spec": {"replicas": 2, "paused": null}, "list": [2]}));
    }
}
