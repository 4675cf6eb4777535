//! `start`.

use super::create::not_started;
use crate::Fault;
use crate::store::Store;

pub(crate) fn run(id: &str, store: &Store) -> Result<u8, Fault> {
    store.load(id)?.start().map_err(not_started)?;
    Ok(0)
}
