//! Pins: names whose images neither a person removes by mistake nor a kubelet to make room.

use super::names::{PINNED, entry_is_named};
use super::{Store, StoreError};
use crate::image::Image;
use crate::manifest::Descriptor;
use crate::reference::Reference;

impl Store {
    /// Pins the image called `name` (as in [`Store::resolve`]), or gives it free. A name that is pinned keeps its pin
    /// when it comes to lead to another image; by id, all names that the image has now are meant.
    pub fn set_pinned(&self, name: &str, is_pinned: bool) -> Result<Image, StoreError> {
        let not_found = || StoreError::NotFound(name.into());
        let _lock = self.inner.lock()?;
        let image = self.resolve(name)?.ok_or_else(not_found)?;
        let mut entries = self.inner.entries()?.to_vec();
        let reference = name.parse::<Reference>().ok();
        let named = |entry: &Descriptor| reference.as_ref().is_some_and(|reference| entry_is_named(entry, reference));
        let by_name = entries.iter().any(named);
        for entry in entries.iter_mut().filter(|entry| self.inner.is_of(entry, &image)) {
            if by_name && !named(entry) {
                continue;
            }
            let annotations = entry.annotations.get_or_insert_default();
            match is_pinned {
                true => annotations.insert(PINNED.into(), "true".into()),
                false => annotations.remove(PINNED),
            };
        }
        self.inner.write_index(&entries)?;
        self.resolve(&image.id.to_string())?.ok_or_else(not_found)
    }
}
