//! `ps`.

use crate::Fault;
use crate::cli::ListFormat;
use crate::store::Store;
use std::process::Command;

pub(crate) fn run(id: &str, format: ListFormat, options: &[String], store: &Store) -> Result<u8, Fault> {
    let container = store.load(id)?;
    if container.cgroup().path().is_none() {
        return Err(Fault::new(format!("container {id} has no control group to find its processes by")));
    }
    let mut pids = container.cgroup().pids()?;
    pids.sort_unstable();
    if format == ListFormat::Json {
        crate::output::print(&(serde_json::to_string(&pids)? + "\n"))?;
        return Ok(0);
    }
    let default = ["-ef".to_string()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = Command::new("ps").args(options).output().map_err(|error| Fault::new(format!("run ps: {error}")))?;
    if !output.status.success() {
        return Err(Fault::new(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Fault::new("ps: the output has no column PID"))?;
    let mut shown = format!("{header}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            shown = shown + line + "\n";
        }
    }
    crate::output::print(&shown)?;
    Ok(0)
}
