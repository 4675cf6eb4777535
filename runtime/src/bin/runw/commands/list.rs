//! `list`.

use super::state::{Description, owner};
use crate::Fault;
use crate::cli::ListFormat;
use crate::log::Log;
use crate::store::Store;
use wharf_runtime::ContainerId;
use wharf_runtime::state::{State, Status};

pub(crate) fn run(quiet: bool, format: ListFormat, store: &Store, log: &Log) -> Result<u8, Fault> {
    let load = |id: &ContainerId| match store.load(id.as_str()) {
        Ok(container) => Some(container),
        // One that is being made or removed at this moment has no state to show.
        Err(_) if !State::is_in(&store.directory(id)) => None,
        Err(fault) => {
            log.warn(&format!("container {id} is not listed: {}", fault.message));
            None
        }
    };
    let containers: Vec<_> = store.ids()?.iter().filter_map(load).collect();
    if quiet {
        let ids: String = containers.iter().map(|container| format!("{}\n", container.id())).collect();
        crate::output::print(&ids)?;
        return Ok(0);
    }
    if format == ListFormat::Json {
        let values: Vec<_> = containers.iter().map(Description::of).collect();
        let json = if values.is_empty() { "null".into() } else { serde_json::to_string(&values)? };
        crate::output::print(&(json + "\n"))?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_string)];
    for container in &containers {
        let (state, status) = (container.state(), container.status());
        let pid = if status == Status::Stopped { 0 } else { state.pid };
        let owner = if state.owner == 0 { "root".into() } else { owner(state.owner) };
        let bundle = state.bundle.display().to_string();
        rows.push([state.id, pid.to_string(), status.to_string(), bundle, state.created, owner]);
    }
    crate::output::print(&table(&rows))?;
    Ok(0)
}

/// Columns as wide as their widest cell and three spaces, at least twelve.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
