//! `start`.

use crate::Fault;
use crate::store::Store;

pub(crate) fn run(id: &str, store: &Store) -> Result<u8, Fault> {
    store.load(id)?.start()?;
    Ok(0)
}
