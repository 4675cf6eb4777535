//! Mounts beneath the node's directories, as its daemon sees them. Namespaces that CNI plugins can open are such mounts.

use std::path::Path;

use super::{Kind, Known, Leak, LeakError, Result, is_id, left_in};

pub(super) fn look(known: &Known) -> Result<Vec<Leak>> {
    let file = format!("/proc/{}/mountinfo", known.pid);
    let text = std::fs::read_to_string(&file).map_err(|error| LeakError::new(&file, error))?;
    let mut leaks: Vec<Leak> = text.lines().filter_map(|line| leak(line, known)).collect();
    // Where a pin was unmounted and its file stayed.
    leaks.extend(left_in(&known.state.join("network/netns"), Kind::Namespace, known)?);
    leaks.sort();
    leaks.dedup();
    Ok(leaks)
}

/// A line of proc_pid_mountinfo(5): its fifth field is the mount point, with octal escapes that no id has.
fn leak(line: &str, known: &Known) -> Option<Leak> {
    let point = Path::new(line.split(' ').nth(4)?);
    let places = [
        (known.state.join("pods"), Kind::Mount),
        (known.state.join("network/netns"), Kind::Namespace),
        (known.root.join("containers"), Kind::Mount),
    ];
    let (rest, kind) = places.iter().find_map(|(place, kind)| Some((point.strip_prefix(place).ok()?, *kind)))?;
    // The mounts of a known pod's container may be left too: each id on the way is looked at.
    let mut ids = rest.components().filter_map(|part| part.as_os_str().to_str()).filter(|part| is_id(part));
    let owner = ids.rfind(|id| !known.has(id))?;
    Some(Leak { kind, what: point.display().to_string(), owner: owner.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaks::{KnownSandbox, nothing_known};

    #[test]
    fn mounts_of_unknown_pods_and_containers_are_left_over() {
        let (pod, container) = ("0123456789abcdef0123456789abcdef", "f123456789abcdef0123456789abcdef");
        let mut known = nothing_known(Path::new("/data"), Path::new("/run/w"));
        let line = |point: &str| format!("36 35 0:5 / {point} rw,relatime - tmpfs shm rw");
        let owner = |known: &Known, point: &str| leak(&line(point), known).map(|leak| (leak.kind, leak.owner));
        let shm = format!("/run/w/pods/{pod}/shm");
        let inside = format!("/run/w/pods/{pod}/containers/{container}/rootfs");
        let pin = format!("/run/w/network/netns/{pod}");
        assert_eq!(owner(&known, &shm), Some((Kind::Mount, pod.into())));
        assert_eq!(owner(&known, &pin), Some((Kind::Namespace, pod.into())));
        known.sandboxes.insert(pod.into(), KnownSandbox { cgroup: "/".into() });
        assert_eq!((owner(&known, &shm), owner(&known, &pin)), (None, None));
        assert_eq!(owner(&known, &inside), Some((Kind::Mount, container.into())));
        assert_eq!(owner(&known, "/run/wide"), None);
    }
}
