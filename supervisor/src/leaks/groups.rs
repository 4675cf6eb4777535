//! Control groups below the node's own parent, and beside the containers of known pods, and what runs in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Kind, Known, Leak, is_id, names};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

pub(super) fn look(known: &Known) -> Vec<Leak> {
    let mut parents: BTreeSet<&Path> = known.sandboxes.values().map(|sandbox| sandbox.cgroup.as_path()).collect();
    parents.extend(known.cgroup_parents.iter().map(PathBuf::as_path));
    let mut leaks = Vec::new();
    for hierarchy in hierarchies() {
        for parent in &parents {
            let directory = hierarchy.join(parent.strip_prefix("/").unwrap_or(parent));
            // A group that went meanwhile has nothing in it.
            for name in names(&directory).unwrap_or_default() {
                let Some(owner) = id_in(&name) else { continue };
                let group = directory.join(&name);
                if !known.has(owner) && group.is_dir() {
                    leaks.push(Leak {
                        kind: Kind::ControlGroup,
                        what: group.display().to_string(),
                        owner: owner.into(),
                    });
                    running(&group, owner, &mut leaks);
                }
            }
        }
    }
    leaks
}

/// The unified one alone, or every one of v1 and hybrid hosts.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUP_ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.into()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    // `cpu,cpuacct` is reached by links under both names.
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Of `ID`, `wharf-ID.scope` and `wharf-ID.slice`.
fn id_in(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".scope").or_else(|| name.strip_suffix(".slice")).unwrap_or(name);
    let last = stem.rsplit('-').next()?;
    is_id(last).then_some(last)
}

fn running(group: &Path, owner: &str, leaks: &mut Vec<Leak>) {
    let mut directories = vec![group.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines() {
            let what = format!("{pid} {}", super::processes::command(pid));
            leaks.push(Leak { kind: Kind::Process, what, owner: owner.into() });
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_drivers_bear_an_id() {
        let id = "0123456789abcdef0123456789abcdef";
        for name in [id.to_string(), format!("wharf-{id}.scope"), format!("a-wharf-{id}.slice")] {
            assert_eq!(id_in(&name), Some(id));
        }
        for name in ["cgroup.procs", "system.slice", "0123", "wharf-x.scope"] {
            assert_eq!(id_in(name), None);
        }
    }
}
