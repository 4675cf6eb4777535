//! `state`: runc's JSON.

use crate::Fault;
use crate::store::Store;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use wharf_runtime::Container;
use wharf_runtime::state::Status;

pub(crate) fn run(id: &str, store: &Store) -> Result<u8, Fault> {
    let container = store.load(id)?;
    crate::output::print(&(serde_json::to_string_pretty(&Description::of(&container))? + "\n"))?;
    Ok(0)
}

/// The fields `state` and `list` show, in runc's order: scripts match the text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Description {
    pub(crate) fn of(container: &Container) -> Self {
        let (state, status) = (container.state(), container.status());
        Self {
            oci_version: state.oci_version,
            id: state.id,
            pid: if status == Status::Stopped { 0 } else { state.pid },
            status,
            bundle: state.bundle,
            rootfs: state.rootfs,
            created: state.created,
            annotations: state.annotations,
            owner: owner(state.owner),
        }
    }
}

/// The user's name; empty for root, as runc has it.
pub(crate) fn owner(uid: u32) -> String {
    if uid == 0 {
        return String::new();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_string())
    };
    passwd.lines().find_map(name).unwrap_or_else(|| uid.to_string())
}
