//! The database file: a row for each object, and a version that none given out is above.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::memory::Memory;
use super::{Key, StoreError};

/// Object JSON by `resource\0namespace\0name`.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Numbers of the store itself.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const RESOURCE_VERSION: &str = "resource-version";
const FORMAT: &str = "format";
/// Raised when older programs could not read what newer ones write.
pub(super) const FORMAT_VERSION: u64 = 1;

/// How long the lock of a daemon that is gone may outlive it, and how often it is tried: nothing tells of its end.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// A program that a killed daemon was about to start has its descriptors, and so its lock, until it is executed.
pub(super) fn create(path: &Path) -> Result<Database, redb::DatabaseError> {
    let begin = Instant::now();
    loop {
        match Database::create(path) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if begin.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

pub(super) fn write_rows<'a>(
    database: &Database,
    rows: impl Iterator<Item = (String, Option<&'a Value>)>,
    version: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for (row, object) in rows {
            match object {
                Some(object) => objects.insert(row.as_str(), object.to_string().as_bytes())?,
                None => objects.remove(row.as_str())?,
            };
        }
        transaction.open_table(COUNTERS)?.insert(RESOURCE_VERSION, version)?;
    }
    transaction.commit()?;
    Ok(())
}

pub(super) fn read_version(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    Ok(transaction.open_table(COUNTERS)?.get(RESOURCE_VERSION)?.map(|version| version.value()))
}

pub(super) fn load(database: &Database, shown: &str) -> Result<Memory, StoreError> {
    prepare_tables(database, shown)?;
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let counters = transaction.open_table(COUNTERS).map_err(redb::Error::from)?;
    let version = counters.get(RESOURCE_VERSION).map_err(redb::Error::from)?.map_or(1, |v| v.value());
    let mut memory = Memory::at(version);
    let objects = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    for row in objects.iter().map_err(redb::Error::from)? {
        let (row, json) = row.map_err(redb::Error::from)?;
        let object = serde_json::from_slice(json.value())
            .map_err(|source| StoreError::Corrupt { key: row.value().replace('\0', "/"), source })?;
        if let Some(key) = Key::from_row(row.value()) {
            memory.objects.insert(key, Arc::new(object));
        }
    }
    Ok(memory)
}

fn prepare_tables(database: &Database, shown: &str) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    let found = {
        transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
        let mut counters = transaction.open_table(COUNTERS).map_err(redb::Error::from)?;
        let found = counters.get(FORMAT).map_err(redb::Error::from)?.map(|v| v.value());
        if found.is_none() {
            counters.insert(FORMAT, FORMAT_VERSION).map_err(redb::Error::from)?;
        }
        found.unwrap_or(FORMAT_VERSION)
    };
    if found > FORMAT_VERSION {
        return Err(StoreError::Newer { path: shown.into(), found });
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}
