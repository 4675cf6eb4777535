//! Plugins that run on after the daemon which started them died.
//!
//! A new daemon takes back what such a plugin is still making: the two would work on one pod at once, which section 3
//! forbids. Each plugin is the leader of a process group and has a mark in its environment, so both can be found.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process_group};

/// Variable that names the node whose daemon started a plugin, by its directory of state.
pub(super) const MARK: &str = "WHARF_CNI_STATE";

/// Ends every plugin of the node whose state is `state`, with all that is left in its process group. What a plugin
/// started to stay has a session of its own, and stays.
pub(super) fn end_all(state: &Path) {
    let mark = [MARK.as_bytes(), b"=", state.as_os_str().as_bytes()].concat();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = pid(&entry.file_name()) else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if marked && leads_group_only(&stat, pid.as_raw_nonzero().get()) {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), "end a CNI plugin that an earlier daemon left");
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

fn pid(name: &OsStr) -> Option<Pid> {
    Pid::from_raw(name.to_str()?.parse().ok()?)
}

/// `/proc/PID/stat`: a leader of its group that leads no session. The name in it may have anything in it.
fn leads_group_only(stat: &str, pid: i32) -> bool {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    // State, parent, group, session.
    let mut fields = fields.split(' ').skip(2).map(str::parse::<i32>);
    let (group, session) = (fields.next(), fields.next());
    group == Some(Ok(pid)) && session != Some(Ok(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_leads_its_group_and_no_session() {
        assert!(leads_group_only("7 (a) b) S 1 7 3 0 -1", 7));
        assert!(!leads_group_only("7 (plugin) S 1 6 3 0 -1", 7), "a child of a plugin");
        assert!(!leads_group_only("7 (daemon) S 1 7 7 0 -1", 7), "with a session of its own");
        assert!(!leads_group_only("", 7));
    }
}
