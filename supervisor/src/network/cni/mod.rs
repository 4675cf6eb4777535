//! CNI 1.1: networks made by plugins, which are programs that are executed for each pod that comes or goes.
//!
//! | file | job |
//! |---|---|
//! | `folder`, `watch` | which configuration is used, and when it changes |
//! | `program` | where a plugin's program is, and which versions it speaks |
//! | `capability` | what a pod asks of the plugins that declare it can be asked of them |
//! | `request` | what one plugin is told |
//! | `execute` | running it, within bounds |
//! | `attachment` | what must be known of a connected pod for as long as it is, on disk |
//! | `pin` | network namespaces as paths |
//! | `orphan` | plugins that a daemon which died left running |
//!
//! ```text
//! attach:  pin ── record ── ADD a ── ADD b ── record with result
//! detach:  DEL b ── DEL a ── unpin ── record removed
//! ```
//!
//! The record comes first, so that whatever happens in between is taken back: by the pod's own tear-down, by a new
//! daemon, after a reboot.

mod attachment;
mod capability;
mod error;
mod execute;
mod folder;
mod orphan;
mod pin;
mod program;
mod request;
mod watch;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock};
use wharf_specs::cni::{AddResult, NetworkList, PluginConfig, Version};
use wharf_specs::config::{Network as NetworkConfig, NetworkMode};

use super::PodToConnect;
use attachment::{Attachment, AttachmentStore};
use pin::Pins;
use program::Programs;
use request::{Operation, Request};
use watch::Watcher;

pub(crate) use capability::{asked_of_plugins, check_annotations};
pub use error::CniError;
pub(super) use error::Result;
pub(super) use folder::Configuration;

/// Of the interface inside a pod, as Kubernetes' runtimes name it.
const POD_INTERFACE: &str = "eth0";

/// The longest that a question may take on which somebody waits who only wanted to know.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Cni {
    folder: PathBuf,
    watcher: Watcher,
    programs: Programs,
    attachments: AttachmentStore,
    pins: Pins,
    /// Of one plugin.
    limit: Duration,
    /// Held exclusively by GC and shared by ADD and DEL, section 3: plugins must not see a pod come or go meanwhile.
    operations: RwLock<()>,
    /// Held by the one sweep that works.
    sweeping: Mutex<()>,
    /// Whether another one waits for it; a third would do nothing that the second does not.
    sweep_waits: AtomicBool,
}

impl Cni {
    /// `root` survives a reboot, as plugins' own notes of addresses do; `state` does not, as namespaces do not.
    pub(super) async fn open(config: &NetworkConfig, root: &Path, state: &Path) -> Result<Self> {
        orphan::end_all(state);
        let watcher = match config.mode {
            NetworkMode::Embedded => Watcher::idle(),
            NetworkMode::Auto | NetworkMode::Cni => Watcher::start(&config.cni.folder),
        };
        Ok(Self {
            folder: config.cni.folder.clone(),
            watcher,
            programs: Programs::new(config.cni.plugins.clone(), state),
            attachments: AttachmentStore::open(&root.join("attachments"))?,
            pins: Pins::open(&state.join("netns"))?,
            limit: Duration::from_secs(config.cni.timeout_seconds.into()),
            operations: RwLock::default(),
            sweeping: Mutex::default(),
            sweep_waits: AtomicBool::default(),
        })
    }

    /// What the folder says now.
    pub(super) fn configuration(&self) -> Arc<Configuration> {
        self.watcher.configuration()
    }

    pub(super) fn nothing_configured(&self) -> CniError {
        CniError::NothingConfigured { folder: self.folder.clone() }
    }

    /// Whether the plugins of `list` are there, speak its version, and say that they can serve an ADD.
    pub(super) async fn status(&self, list: &NetworkList) -> Result<()> {
        let version = self.programs.select(list).await?;
        if !version.has_gc_and_status() {
            return Ok(());
        }
        for plugin in &list.plugins {
            let request = Request::of_network(Operation::Status, &list.name, version, plugin);
            self.programs.run(&request, self.limit.min(QUESTION_LIMIT)).await?;
        }
        Ok(())
    }

    /// Executes ADD of each plugin in turn; the addresses are those that the last one answers for the pod's interface.
    pub(super) async fn attach(
        &self,
        list: Arc<NetworkList>,
        pod: &PodToConnect<'_>,
        namespace: &OwnedFd,
    ) -> Result<Vec<IpAddr>> {
        let version = self.programs.select(&list).await?;
        let mut attachment = Attachment {
            id: pod.id.into(),
            interface: POD_INTERFACE.into(),
            network: list.name.clone(),
            version,
            disable_check: list.disable_check,
            plugins: list.plugins.clone(),
            namespace: self.pins.path(pod.id),
            arguments: request::arguments(pod)?,
            capabilities: capability::arguments(pod, &list)?,
            result: None,
        };
        let _shared = self.operations.read().await;
        self.pins.pin(pod.id, namespace)?;
        self.attachments.write(&attachment)?;
        let mut last = None;
        for plugin in &attachment.plugins {
            let previous = last.as_ref().map(|result: &AddResult| result.as_previous(version));
            let request = Request::of_attachment(Operation::Add, &attachment, plugin, previous);
            let answer = self.programs.run(&request, self.limit).await?;
            let result = AddResult::parse(&answer).map_err(|error| request.failed(error))?;
            last = Some(result);
        }
        let Some(last) = last else { return Err(CniError::NoPlugins { network: list.name.clone() }) };
        attachment.result = Some(last.as_previous(version));
        self.attachments.write(&attachment)?;
        let addresses = last.addresses(POD_INTERFACE);
        if addresses.is_empty() {
            return Err(CniError::NoAddress { network: list.name.clone(), interface: POD_INTERFACE });
        }
        Ok(addresses)
    }

    /// Executes DEL of each plugin in reverse order. False where pod `id` was not connected by CNI. The record stays
    /// until all succeeded, so that the next call tries again.
    pub(super) async fn detach(&self, id: &str) -> Result<bool> {
        let Some(attachment) = self.attachments.read(id)? else {
            self.pins.unpin(id)?;
            return Ok(false);
        };
        let _shared = self.operations.read().await;
        // Before 0.4.0 plugins were told nothing of what ADD had come to.
        let previous = attachment.result.as_ref().filter(|_| attachment.version.has_check());
        for plugin in attachment.plugins.iter().rev() {
            let request = Request::of_attachment(Operation::Del, &attachment, plugin, previous.cloned());
            self.programs.run(&request, self.limit).await?;
        }
        self.pins.unpin(id)?;
        self.attachments.remove(id)?;
        Ok(true)
    }

    /// Executes CHECK of each plugin, where the version has it and the configuration does not forbid it.
    pub(super) async fn check(&self, id: &str) -> Result<()> {
        let Some(attachment) = self.attachments.read(id)? else { return Ok(()) };
        let Some(result) = attachment.result.as_ref() else { return Ok(()) };
        if attachment.disable_check || !attachment.version.has_check() {
            return Ok(());
        }
        for plugin in &attachment.plugins {
            let request = Request::of_attachment(Operation::Check, &attachment, plugin, Some(result.clone()));
            self.programs.run(&request, self.limit.min(QUESTION_LIMIT)).await?;
        }
        Ok(())
    }

    /// A daemon in a new mount namespace does not see what the last one had mounted.
    pub(super) fn restore(&self, id: &str, namespace: &OwnedFd) -> Result<()> {
        if self.attachments.read(id)?.is_some() && !self.pins.is_pinned(id) {
            self.pins.pin(id, namespace)?;
        }
        Ok(())
    }

    /// DEL for what belongs to pods that are not `known`, then GC, so that plugins take back what no record tells of.
    pub(super) async fn sweep(
        &self,
        list: impl Fn() -> Option<Arc<NetworkList>> + Send + Sync,
        known: impl Fn(&str) -> bool + Send + Sync,
    ) {
        if self.sweep_waits.swap(true, Ordering::SeqCst) {
            return;
        }
        let _turn = self.sweeping.lock().await;
        self.sweep_waits.store(false, Ordering::SeqCst);
        // Listed before asking who is known: a pod is known from before its record is written.
        let (attached, pinned) = (self.attachments.ids(), self.pins.ids());
        for id in attached.into_iter().chain(pinned).filter(|id| !known(id)) {
            tracing::info!(pod = %id, "give back the network of a pod sandbox that is gone");
            if let Err(error) = self.detach(&id).await {
                tracing::warn!(pod = %id, %error, "give back the network of a pod sandbox that is gone");
            }
        }
        if let Some(list) = list().filter(|list| !list.disable_gc && list.newest().has_gc_and_status()) {
            self.collect_garbage(&list, known).await;
        }
    }

    /// GC of each plugin; the failure of one keeps no other from it, section 3.
    async fn collect_garbage(&self, list: &NetworkList, known: impl Fn(&str) -> bool) {
        let version = match self.programs.select(list).await {
            Ok(version) if version.has_gc_and_status() => version,
            Ok(_) => return,
            Err(error) => return tracing::warn!(network = %list.name, %error, "collect garbage"),
        };
        let _exclusive = self.operations.write().await;
        let valid = self.attachments.ids().into_iter().filter(|id| known(id));
        let valid = valid.filter_map(|id| self.attachments.read(&id).ok().flatten());
        let valid: Vec<Value> = valid
            .filter(|attachment| attachment.network == list.name)
            .map(|attachment| json!({"containerID": attachment.id, "ifname": attachment.interface}))
            .collect();
        for plugin in &list.plugins {
            let request = Request::of_garbage(&list.name, version, plugin, &valid);
            if let Err(error) = self.programs.run(&request, self.limit).await {
                tracing::warn!(network = %list.name, %error, "collect garbage");
            }
        }
    }
}
