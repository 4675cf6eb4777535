//! What leaves the store when an image is pushed, saved or copied: its index whole, or one image of it.

use crate::digest::Digest;
use crate::manifest::Platform;
use crate::store::{Store, StoreError, index_of};
use crate::tree::Tree;

/// What is sent of a multi-platform image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    /// Its index if all of it is here, else the image that is.
    #[default]
    Present,
    /// Its index; an error if some of it is not here.
    All,
    /// One image of it.
    One(Platform),
}

/// What is to be sent: a manifest or an index, and all that belongs to it.
pub(crate) struct Outgoing {
    pub root: Digest,
    pub tree: Tree,
    /// Whether that is an image out of an index that is not whole here.
    pub is_part: bool,
}

impl Store {
    /// Finds the image called `name` (as in [`Store::resolve`]) with all that is sent of it.
    pub(crate) fn outgoing(&self, name: &str, platforms: &Platforms) -> Result<Outgoing, StoreError> {
        let not_found = || StoreError::NotFound(name.into());
        let image = self.resolve(name)?.ok_or_else(not_found)?;
        let entries = self.inner.entries()?;
        let entry = self.inner.entry_of(&entries, name, &image).ok_or_else(not_found)?;
        let (index, own) = (index_of(entry), entry.digest);
        let incomplete = |missing| StoreError::Incomplete { name: name.into(), missing };
        let send = |root, is_part| {
            let tree = self.whole(root)?.map_err(incomplete)?;
            Ok(Outgoing { root, tree, is_part })
        };
        match (index, platforms) {
            (Some(index), Platforms::Present) => match self.whole(index)? {
                Ok(tree) => Ok(Outgoing { root: index, tree, is_part: false }),
                Err(_) => send(own, true),
            },
            (Some(index), Platforms::All) => send(index, false),
            (None, Platforms::Present | Platforms::All) => send(own, false),
            (index, Platforms::One(platform)) => {
                send(self.inner.manifest_for(name, index, platform, (own, &image.platform))?, false)
            }
        }
    }

    /// All that belongs to `root`, or something of it that is not here.
    fn whole(&self, root: Digest) -> Result<Result<Tree, Digest>, StoreError> {
        let tree = self.inner.tree(root)?;
        let gone = tree.blobs().iter().map(|blob| blob.digest).find(|digest| !self.inner.layout.blob(digest).exists());
        Ok(tree.missing().or(gone).map_or(Ok(tree), Err))
    }
}
