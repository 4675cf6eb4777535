//! Which image of an archive is meant.

use crate::manifest::{Descriptor, Platform};
use crate::reference::Reference;
use crate::store::{CONTAINERD_NAME, REF_NAME, annotation};

/// What is taken of an archive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// The image of this name; all without it.
    pub only: Option<String>,
    /// The name it gets here, whatever it has there.
    pub name: Option<Reference>,
    /// What to choose from an index; `None` for this machine's own.
    pub platform: Option<Platform>,
}

impl Selection {
    /// Whether an entry of an index is the one that is meant: as it is written there, or as a reference.
    pub(super) fn wants(&self, entry: &Descriptor) -> bool {
        let Some(only) = &self.only else { return true };
        let written = [annotation(entry, CONTAINERD_NAME), annotation(entry, REF_NAME)];
        written.into_iter().flatten().any(|name| name == only) || self.names(archive_name(entry).as_ref())
    }

    /// Whether an image of docker's list is the one that is meant.
    pub(super) fn wants_any(&self, names: &[Reference]) -> bool {
        self.only.is_none() || names.iter().any(|name| self.names(Some(name)))
    }

    fn names(&self, name: Option<&Reference>) -> bool {
        let wanted = self.only.as_ref().and_then(|only| only.parse::<Reference>().ok());
        wanted.is_some() && wanted.as_ref() == name
    }
}

/// The name an index entry was saved under. A bare tag (`latest`) names nothing without its repository.
pub(super) fn archive_name(entry: &Descriptor) -> Option<Reference> {
    let whole = annotation(entry, CONTAINERD_NAME);
    let short = annotation(entry, REF_NAME).filter(|name| name.contains([':', '/']));
    whole.or(short)?.parse().ok()
}
