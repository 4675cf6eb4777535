//! `state`: runc's JSON.

use crate::Fault;
use crate::store::Store;
use serde_json::{Value, json};
use wharf_runtime::Container;
use wharf_runtime::state::Status;

pub(crate) fn run(id: &str, store: &Store) -> Result<u8, Fault> {
    let container = store.load(id)?;
    println!("{}", serde_json::to_string_pretty(&describe(&container))?);
    Ok(0)
}

/// The fields `state` and `list` show.
pub(crate) fn describe(container: &Container) -> Value {
    let (state, status) = (container.state(), container.status());
    let mut value = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": if status == Status::Stopped { 0 } else { state.pid },
        "status": status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": owner(state.owner),
    });
    if !state.annotations.is_empty() {
        value["annotations"] = json!(state.annotations);
    }
    value
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
