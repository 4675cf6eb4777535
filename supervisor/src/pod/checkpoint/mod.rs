//! Checkpoints of containers: the archive that podman, CRI-O and containerd write too, and containers made from one.
//!
//! ```text
//! config.dump       JSON: the container, its image (Metadata)
//! spec.dump         JSON: config.json of then
//! checkpoint/       criu's images, and descriptors.json
//! rootfs-diff.tar   what the container had added and changed of its image's files
//! deleted.files     JSON: a list of the paths that it had deleted
//! dump.log stats-dump   criu's, for people
//! ```
//!
//! Of an archive only the image's name, the images of processes, and changed files are taken: all else of the new container
//! comes from the request that makes it, and what
//! processes may do is held against that (`rights.rs`). [`write`](write()) makes an archive, [`Checkpoint`] reads one.

mod archive;
mod dump;
mod import;
mod patience;
mod rights;
mod source;

use serde::{Deserialize, Serialize};

pub(super) use dump::{STAGING, write};
pub(super) use import::images;
pub(super) use rights::Allowed;
pub(super) use source::Checkpoint;

const CONFIG_DUMP: &str = "config.dump";
const SPEC_DUMP: &str = "spec.dump";
const IMAGES: &str = "checkpoint";
const CHANGES: &str = "rootfs-diff.tar";
const DELETED: &str = "deleted.files";
/// criu's own account of what is in its images; without it they are none.
const INVENTORY: &str = "inventory.img";

/// `config.dump`, in the names that podman gave it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    id: String,
    name: String,
    rootfs_image: String,
    /// The image's id.
    rootfs_image_ref: String,
    rootfs_image_name: String,
    runtime: String,
    /// RFC 3339, as all times here.
    created_time: String,
    checkpointed_time: String,
    restored_time: String,
    restored: bool,
}
