//! Which hierarchies are mounted, and where the caller is in each.

use super::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1 controllers, or `name=…`; empty for the unified hierarchy.
    pub controllers: Vec<String>,
    pub mountpoint: PathBuf,
    /// The caller's own group.
    pub own: PathBuf,
}

impl Hierarchy {
    /// Directory of the caller's own group.
    pub(crate) fn own_directory(&self) -> PathBuf {
        self.mountpoint.join(super::clean(&self.own))
    }
}

/// All mounted hierarchies of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    pub unified: Option<Hierarchy>,
    pub legacy: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the layout of this host.
    pub fn detect() -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::Layout)?;
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(Error::Layout)?;
        Ok(Self::parse(&mounts, &groups))
    }

    /// Whether v1 has controllers, so that limits are set there.
    pub fn has_v1_controllers(&self) -> bool {
        self.legacy.iter().any(|hierarchy| has_controllers(&hierarchy.controllers))
    }

    /// From the texts of `/proc/self/mountinfo` and `/proc/self/cgroup` (proc(5), cgroups(7)).
    pub(crate) fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mountpoint) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
            // Views inside containers' root file systems are mounted elsewhere.
            if !Path::new(mountpoint).starts_with("/sys/fs/cgroup") {
                continue;
            }
            match kind {
                "cgroup2" if layout.unified.is_none() => {
                    let own = own_group(cgroup, "");
                    layout.unified = Some(Hierarchy { controllers: Vec::new(), mountpoint: mountpoint.into(), own });
                }
                "cgroup" => {
                    let Some((controllers, own)) = legacy_group(cgroup, options) else { continue };
                    if layout.legacy.iter().all(|known| known.controllers != controllers) {
                        layout.legacy.push(Hierarchy { controllers, mountpoint: mountpoint.into(), own });
                    }
                }
                _ => {}
            }
        }
        layout
    }
}

/// Whether a v1 hierarchy has any but its name.
pub(super) fn has_controllers(controllers: &[String]) -> bool {
    controllers.iter().any(|name| !name.starts_with("name="))
}

/// The line of `/proc/self/cgroup` for a v1 mount: the one whose controllers all stand in the mount's options.
fn legacy_group(cgroup: &str, options: &str) -> Option<(Vec<String>, PathBuf)> {
    cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        let path = parts.next()?;
        let matches = |name: &str| options.split(',').any(|option| option == name);
        let named = !controllers.is_empty() && controllers.split(',').all(matches);
        named.then(|| (controllers.split(',').map(str::to_string).collect(), PathBuf::from(path)))
    })
}

fn own_group(cgroup: &str, controllers: &str) -> PathBuf {
    let find = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        (parts.next() == Some(controllers)).then(|| PathBuf::from(parts.next().unwrap_or("/")))
    };
    cgroup.lines().find_map(find).unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_layout_is_read() {
        let mountinfo = "\
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
32 29 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 29 0:26 /c /run/x/sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 29 0:29 / /proc rw - proc proc rw\n";
        let groups = "3:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c\n";
        let layout = Layout::parse(mountinfo, groups);
        let unified = layout.unified.expect("unified");
        assert_eq!((unified.mountpoint, unified.own), ("/sys/fs/cgroup/unified".into(), "/c".into()));
        let legacy: Vec<_> = layout.legacy.iter().map(|h| (h.controllers.join(","), h.own.clone())).collect();
        assert_eq!(legacy, [("cpu,cpuacct".to_string(), "/a".into()), ("name=systemd".to_string(), "/b".into())]);
    }

    #[test]
    fn pure_v2_layout_is_read() {
        let layout = Layout::parse("25 22 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/init\n");
        assert_eq!(layout.legacy, []);
        assert_eq!(layout.unified.map(|h| h.mountpoint), Some("/sys/fs/cgroup".into()));
    }
}
