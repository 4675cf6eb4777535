//! `wharf-images`: images from a registry or an archive into a store, and out of it as root file systems.
//!
//! | module | subject |
//! |---|---|
//! | [`reference`], [`digest`] | names of images and of content |
//! | [`image`], [`details`] | an image, its configuration, documents and layers |
//! | [`diff`] (over `merged`) | what a container, or another image, has changed |
//! | [`changes`] | the same as an archive, into which it is written and out of which it comes back |
//! | `manifest`, [`platform`] | the documents, and choosing from an index |
//! | [`credentials`] | logins: given, in files, of helper programs |
//! | [`registries`] | where a registry is reached: mirrors, TLS, proxies |
//! | [`registry`] | the distribution protocol |
//! | [`transfers`] | bounds on transfers: repetitions, waits, how many at once |
//! | [`pull`], [`archive`] | the two ways in |
//! | [`push`], [`save`] | the ways out: to a registry, into an archive |
//! | [`copy`] | from anywhere to anywhere |
//! | `outgoing`, [`content`] | what is sent of an image, and where its content is |
//! | `tree` | all that belongs to an index |
//! | [`artifact`] | artifacts: files rather than layers |
//! | `layer` → `tar_stream` → [`unpack`], `whiteout`, `adopt` | one layer's way to a snapshot |
//! | `layout` → [`store`] | the disk: one OCI image layout, one lock, transactions |
//! | [`snapshot`] | root file systems for containers: overlay mounts, or copies |
//! | [`user`] (over `merged`) | an image's accounts, read without mounting it |
//! | [`verify`], [`repair`] | whether what is on disk is what its names say, and mending what is not |
//! | [`progress`] | who is told how far a transfer is |
//!
//! Everything begins at [`Store::open`].

mod adopt;
pub mod archive;
pub mod artifact;
pub mod changes;
pub mod content;
pub mod copy;
pub mod credentials;
pub mod details;
pub mod diff;
pub mod digest;
pub mod image;
mod layer;
mod layout;
mod manifest;
mod merged;
mod one_line;
mod outgoing;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
mod read_ahead;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod repair;
pub mod save;
pub mod snapshot;
pub mod store;
mod tar_stream;
pub mod transfers;
mod tree;
pub mod unpack;
#[doc(hidden)]
pub mod untrusted;
pub mod user;
pub mod verify;
mod whiteout;
mod xattrs;

pub use archive::LoadError;
pub use changes::ChangesError;
pub use copy::{Copied, CopyError, CopyOptions, Place};
pub use credentials::{CredentialError, Credentials, Keychain};
pub use diff::{Change, ChangeKind, DiffError};
pub use digest::Digest;
pub use image::{Image, ImageConfig};
pub use layer::LayerError;
pub use manifest::{DocumentError, Platform};
pub use outgoing::Platforms;
pub use progress::{LayerProgress, LayerState, ProgressFn};
pub use pull::{PullError, PullOptions};
pub use push::{PushError, PushOptions, Pushed};
pub use reference::{Reference, ReferenceError};
pub use registries::{Endpoint, Registries, RegistriesError};
pub use registry::RegistryError;
pub use repair::{RepairError, Repaired};
pub use save::{ArchiveForm, SaveError};
pub use snapshot::{ImageVolume, OverlayMount, Prepared, RootFs, SnapshotError};
pub use store::{Pruned, Removed, Store, StoreError, StoreOptions, Usage};
pub use tar_stream::TarError;
pub use transfers::Transfers;
pub use unpack::{Limits, UnpackError};
pub use user::User;
