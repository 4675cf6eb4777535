//! The node's image store, opened in this process: a library over files, shared with the daemon under a lock.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use wharf_images::{Store, StoreOptions};

use crate::NodeArguments;

const DEFAULT_ROOT: &str = "/var/lib/wharf";

/// Opens the store of the node that is meant.
pub(crate) fn open(node: &NodeArguments) -> anyhow::Result<Store> {
    open_with(node, StoreOptions::default())
}

/// Opens it to talk to registries.
pub(crate) fn open_with(node: &NodeArguments, options: StoreOptions) -> anyhow::Result<Store> {
    Ok(Store::open_with(&data_root(node)?, options)?)
}

/// Where the node keeps its data: as told, else as the running daemon says, else the default.
pub(crate) fn data_root(node: &NodeArguments) -> anyhow::Result<PathBuf> {
    if let Some(root) = &node.root {
        return std::path::absolute(root).with_context(|| format!("--root {}", root.display()));
    }
    let file = node.state.join("node.json");
    match std::fs::read_to_string(&file) {
        Ok(content) => root_of(&content).with_context(|| format!("read {}", file.display())),
        // Another node's images are not to be touched because this one is down.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && node.state == Path::new(crate::DEFAULT_STATE) => {
            Ok(DEFAULT_ROOT.into())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => anyhow::bail!(
            "no node runs at {}: start `wharfd`, or name the directory of its images with --root",
            node.state.display()
        ),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn root_of(node_file: &str) -> anyhow::Result<PathBuf> {
    let node: Value = serde_json::from_str(node_file)?;
    let root = node["root"].as_str().context("it has no root")?;
    Ok(root.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_file_tells_the_root() {
        assert_eq!(root_of(r#"{"root":"/data","pid":1}"#).unwrap(), Path::new("/data"));
        assert!(root_of("{}").is_err() && root_of("").is_err());
    }

    #[test]
    fn a_node_that_is_down_is_not_taken_for_the_default_one() {
        let folder = tempfile::tempdir().unwrap();
        let node = |root| NodeArguments { state: folder.path().into(), root };
        assert!(data_root(&node(None)).unwrap_err().to_string().contains("--root"));
        assert_eq!(data_root(&node(Some("/data".into()))).unwrap(), Path::new("/data"));
    }
}
