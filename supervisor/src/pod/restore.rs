//! Containers that are made from a checkpoint: their start is its restore.

use oci_spec::runtime::Spec;
use wharf_images::RootFs;
use wharf_specs::shim::{CHECKPOINT_VERSION, Operation, RestoreContainer};

use super::checkpoint::{Allowed, Checkpoint, images};
use super::create::Maker;
use super::error::{PodError, Result, chain};
use super::node::not_ready;
use super::record::ContainerRecord;
use super::sandbox::Owner;
use crate::removal::remove_tree;

impl Maker {
    /// The checkpoint that `image` means, if it means one and this pod can restore it.
    pub(super) async fn find_checkpoint(&self, image: &str) -> Result<Option<Checkpoint>> {
        let (options, store, name) =
            (self.inner.options.checkpoint, self.inner.options.store.clone(), image.to_string());
        if !Checkpoint::may_be(options, image) {
            return Ok(None);
        }
        let find = move || Checkpoint::find(options, &store, &name);
        let found = tokio::task::spawn_blocking(find).await;
        let found = found.map_err(|error| PodError::internal(format!("read checkpoint {image}"), error))??;
        if found.is_none() {
            return Ok(None);
        }
        let refuse =
            |reason: &str| Err(PodError::invalid("config.image.image", format!("checkpoint {image:?}: {reason}")));
        if self.config.user_namespace.is_some() {
            return refuse("the pod has a user namespace, whose mapped mounts cannot be restored");
        }
        if !self.config.runtime_handler.is_empty() {
            return refuse("the pod has a runtime handler; the built-in runtime alone restores checkpoints");
        }
        if self.shim.protocol() < CHECKPOINT_VERSION {
            return refuse("the pod's shim is older than this wharfd and cannot do it: make the pod anew");
        }
        Ok(found)
    }

    /// Refuses a checkpoint whose processes may do more than those of `spec`.
    pub(super) async fn unpack(&self, checkpoint: Checkpoint, id: &str, rootfs: RootFs, spec: &Spec) -> Result<()> {
        let (store, container, allowed) = (self.inner.options.store.clone(), id.to_string(), Allowed::of(spec));
        let unpack = move || checkpoint.unpack(&store, &container, &rootfs, &allowed);
        let unpacked = tokio::task::spawn_blocking(unpack).await;
        unpacked.map_err(|error| PodError::internal(format!("unpack the checkpoint of container {id}"), error))?
    }
}

impl Owner {
    /// What the shim is asked to do in place of a start.
    pub(super) fn restore_operation(&self, id: &str, record: &ContainerRecord) -> Result<Operation> {
        let maker = self.maker().ok_or_else(|| not_ready(&self.id))?;
        let pid_of = record.config.pid_of.as_deref().map(|target| self.pid_target(&maker.shim, target)).transpose()?;
        let rootfs = self.rootfs(id)?;
        let images = images(&rootfs);
        Ok(Operation::Restore(RestoreContainer { create: maker.shim_request(id, record, rootfs, pid_of), images }))
    }

    /// Removes what a restored container needs no more.
    pub(super) fn drop_images(&self, id: &str) {
        if !self.records.get(id).is_some_and(|record| record.restores) {
            return;
        }
        let images = self.rootfs(id).map(|rootfs| images(&rootfs));
        let container = id.to_string();
        tokio::task::spawn_blocking(move || {
            let removed = images.and_then(|path| {
                remove_tree(&path).map_err(|error| PodError::internal(format!("remove {}", path.display()), error))
            });
            if let Err(error) = removed {
                tracing::warn!(%container, %error, "a checkpoint's images stay until the container goes");
            }
        });
    }

    fn rootfs(&self, id: &str) -> Result<RootFs> {
        let failed = |reason: String| PodError::internal(format!("find writable layer of container {id}"), reason);
        let found = self.inner.options.store.snapshot(id).map_err(|error| failed(chain(&error)))?;
        found.ok_or_else(|| failed("there is none".into()))
    }
}
