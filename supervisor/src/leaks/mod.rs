//! What is left on the machine of pods and containers that the node does not know: `wharf leaks`.
//!
//! | file | looks at |
//! |---|---|
//! | [`groups`] | control groups, and what runs in them |
//! | [`processes`] | shims |
//! | [`mounts`] | mounts and pinned network namespaces |
//! | [`network`] | addresses, interfaces, rules |
//! | this one | pods' directories, writable layers, volumes |
//!
//! Whatever belongs to a pod or a container has its id in its name. A look at the machine takes its time, and pods come and
//! go meanwhile: so only what two looks find, and what the node knew neither before nor after, is left over.

mod groups;
mod mounts;
mod network;
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a node knows, and where it keeps it; `known` in the verbose answer of the CRI's `Status`. The objects are its API's
/// to tell, and not in there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub root: PathBuf,
    pub state: PathBuf,
    /// Of the daemon, whose mounts are meant.
    pub pid: u32,
    /// Of the embedded network.
    pub bridge: String,
    /// Parents of the groups of pods for which no client named one, from each hierarchy's root on.
    pub cgroup_parents: Vec<PathBuf>,
    /// By id, those too that are being made or taken away.
    pub sandboxes: BTreeMap<String, KnownSandbox>,
    /// Sandboxes that are gone but for their network, which the kernel has not let go of.
    #[serde(default)]
    pub leaving: BTreeSet<String>,
    /// Those too that are being made or taken away.
    pub containers: BTreeSet<String>,
    /// `ADDRESS:PORT` that Services lead to.
    #[serde(default)]
    pub endpoints: BTreeSet<String>,
    /// By uid, those of the API.
    #[serde(default)]
    pub pods: BTreeSet<String>,
    /// PersistentVolumes by name.
    #[serde(default)]
    pub volumes: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSandbox {
    /// The group that its containers are in.
    pub cgroup: PathBuf,
}

impl Known {
    fn has(&self, id: &str) -> bool {
        self.sandboxes.contains_key(id)
            || self.leaving.contains(id)
            || self.containers.contains(id)
            || self.pods.contains(id)
            || self.volumes.contains(id)
            || self.endpoints.contains(id)
    }

    /// By the first digits of its id, as an interface's name has them.
    fn has_sandbox_like(&self, prefix: &str) -> bool {
        let from = || prefix.to_string()..;
        let next = [self.sandboxes.range(from()).next().map(|(id, _)| id), self.leaving.range(from()).next()];
        next.into_iter().flatten().any(|id| id.starts_with(prefix))
    }
}

/// One thing that nobody owns any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    pub kind: Kind,
    /// A path, a name, or a process.
    pub what: String,
    /// Id of the sandbox or the container that it was for, or as much of it as is known.
    pub owner: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Process,
    Mount,
    Namespace,
    ControlGroup,
    Address,
    Interface,
    Rule,
    Snapshot,
    Directory,
    Volume,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "process",
            Self::Mount => "mount",
            Self::Namespace => "namespace",
            Self::ControlGroup => "cgroup",
            Self::Address => "address",
            Self::Interface => "interface",
            Self::Rule => "nft rule",
            Self::Snapshot => "snapshot",
            Self::Directory => "directory",
            Self::Volume => "volume",
        })
    }
}

/// Something of the machine that could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct LeakError {
    what: String,
    reason: String,
}

impl LeakError {
    fn new(what: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { what: what.to_string(), reason: reason.to_string() }
    }
}

type Result<T, E = LeakError> = std::result::Result<T, E>;

/// One look. What it finds may be of a pod that came after `known`, or went meanwhile: see [`confirmed`].
pub async fn look(known: &Known) -> Result<BTreeSet<Leak>> {
    let mut leaks = BTreeSet::new();
    leaks.extend(groups::look(known));
    leaks.extend(processes::look(known)?);
    leaks.extend(mounts::look(known)?);
    leaks.extend(network::look(known).await?);
    leaks.extend(left_in(&known.root.join("containers"), Kind::Snapshot, known)?);
    leaks.extend(left_in(&known.state.join("pods"), Kind::Directory, known)?);
    leaks.extend(not_among(&known.pods, &known.root.join("pods"), Kind::Directory)?);
    leaks.extend(not_among(&known.volumes, &known.root.join("volumes"), Kind::Volume)?);
    Ok(leaks)
}

/// What both looks found and is of nothing that the node knows by now.
pub fn confirmed(first: &BTreeSet<Leak>, second: &BTreeSet<Leak>, now: &Known) -> Vec<Leak> {
    let owned = |leak: &Leak| now.has(&leak.owner) || now.has_sandbox_like(&leak.owner);
    first.intersection(second).filter(|leak| !owned(leak)).cloned().collect()
}

/// Entries of `directory` that bear the id of nothing known.
fn left_in(directory: &Path, kind: Kind, known: &Known) -> Result<Vec<Leak>> {
    let mut leaks = Vec::new();
    for name in names(directory)? {
        let owner = name.split('.').next().unwrap_or(&name);
        if is_id(owner) && !known.has(owner) {
            leaks.push(Leak { kind, what: directory.join(&name).display().to_string(), owner: owner.into() });
        }
    }
    Ok(leaks)
}

/// Entries of `directory` that are named after none of `owners`.
fn not_among(owners: &BTreeSet<String>, directory: &Path, kind: Kind) -> Result<Vec<Leak>> {
    let left = names(directory)?.into_iter().filter(|name| !owners.contains(name));
    let leak = |name: String| Leak { kind, what: directory.join(&name).display().to_string(), owner: name };
    Ok(left.map(leak).collect())
}

/// None where there is no such directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(LeakError::new(directory.display(), error)),
    }
}

/// As [`Node`](crate::pod::Node) makes them: 32 hexadecimal digits.
fn is_id(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
fn nothing_known(root: &Path, state: &Path) -> Known {
    Known {
        root: root.into(),
        state: state.into(),
        pid: std::process::id(),
        bridge: "nobridge0".into(),
        cgroup_parents: vec!["/nonexistent".into()],
        sandboxes: BTreeMap::new(),
        containers: BTreeSet::new(),
        endpoints: BTreeSet::new(),
        pods: BTreeSet::new(),
        volumes: BTreeSet::new(),
        leaving: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn leak(owner: &str) -> Leak {
        Leak { kind: Kind::Snapshot, what: format!("/x/{owner}"), owner: owner.into() }
    }

    #[test]
    fn what_came_or_went_between_two_looks_is_no_leak() {
        let mut known = nothing_known(Path::new("/x"), Path::new("/y"));
        known.containers.insert("made-meanwhile".into());
        known.sandboxes.insert(ID.into(), KnownSandbox { cgroup: "/".into() });
        let first = BTreeSet::from([leak("gone"), leak("left"), leak("made-meanwhile"), leak(&ID[..11])]);
        let second = BTreeSet::from([leak("left"), leak("made-meanwhile"), leak("new"), leak(&ID[..11])]);
        assert_eq!(confirmed(&first, &second, &known), [leak("left")]);
    }

    #[test]
    fn entries_without_a_known_id_are_left_over() {
        let directory = tempfile::tempdir().unwrap();
        for name in [ID, "wharfd.lock", "0123456789ABCDEF0123456789abcdef"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let mut known = nothing_known(directory.path(), directory.path());
        let found = left_in(directory.path(), Kind::Directory, &known).unwrap();
        assert_eq!(found.iter().map(|leak| leak.owner.as_str()).collect::<Vec<_>>(), [ID]);
        known.containers.insert(ID.into());
        assert!(left_in(directory.path(), Kind::Directory, &known).unwrap().is_empty());
        assert!(left_in(Path::new("/nonexistent"), Kind::Directory, &known).unwrap().is_empty());
    }
}
