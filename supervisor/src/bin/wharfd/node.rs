//! The node of the configuration: its images, shim, control groups and network.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use wharf_images::credentials::NODE_AUTH_FILE;
use wharf_images::{Keychain, Registries, Store, StoreOptions};
use wharf_runtime::cgroup::unit;
use wharf_specs::config::{CgroupDriver, Config};
use wharf_supervisor::pod::{CgroupOptions, Node, NodeOptions};

pub(crate) async fn open(config: &Config) -> anyhow::Result<Node> {
    let shim = shim_program(config)?;
    let store = open_store(config)?;
    Node::open(NodeOptions {
        root: config.root.clone(),
        state: config.state.clone(),
        shim,
        network: config.network.clone(),
        store,
        cgroups: cgroup_options(config)?,
        cdi_folders: config.cdi_folders.clone(),
        checkpoint: config.checkpoint,
        runtimes: config.runtimes.iter().map(|(name, runtime)| (name.clone(), runtime.path.clone())).collect(),
    })
    .await
    .context("open the node")
}

fn shim_program(config: &Config) -> anyhow::Result<PathBuf> {
    let path = match &config.shim {
        Some(path) => path.clone(),
        None => {
            let own = std::env::current_exe().context("find this program")?;
            own.with_file_name("wharf-shim")
        }
    };
    if !path.is_file() {
        bail!("{}: no such program; the key `shim` says where wharf-shim is", path.display());
    }
    Ok(path)
}

fn cgroup_options(config: &Config) -> anyhow::Result<CgroupOptions> {
    if config.cgroup_driver == CgroupDriver::Systemd && !unit::is_available() {
        bail!("cgroup_driver: \"systemd\" wants systemd as process 1, which this machine has not");
    }
    Ok(CgroupOptions { driver: config.cgroup_driver, parent: config.cgroup_parent.clone() })
}

/// Opens the image store with the node's logins and registries; a broken file is better known now than at the first pull.
fn open_store(config: &Config) -> anyhow::Result<Store> {
    let node_file = Keychain::default().and_file(NODE_AUTH_FILE);
    let keychain = config.auth_files.iter().fold(node_file, Keychain::and_required_file);
    keychain.check()?;
    let node = Registries::of_node(|name| std::env::var(name).ok());
    let registries = match &config.registries {
        Some(file) => node.with_file(file),
        None => node,
    };
    registries.check()?;
    let snapshots = config.snapshots;
    let options = StoreOptions { keychain, registries, snapshots, ..StoreOptions::default() };
    Store::open_with(&config.root, options).context("open the image store")
}
