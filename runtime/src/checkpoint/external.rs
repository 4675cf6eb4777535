//! What belongs to a container and is no part of its images: bind mounts, masked files, the groups of cgroup v1,
//! namespaces by path. A dump names them by keys, a restore says what stands for each key.
//!
//! Mounts are keyed by their destination as `config.json` has it, masked files by the null device that covers them.

use super::Error;
use super::criu::{Criu, FIRST_HANDED, Version};
use crate::cgroup::Cgroup;
use crate::error::While;
use crate::joins;
use crate::plan::{MountSource, Plan, Refusal, namespace_name};
use crate::rootfs::cgroupfs;
use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use wharf_specs::criu::{InheritFd, JoinNamespace};
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::{errno, fs};

const NULL_DEVICE: &str = "/dev/null";

/// A path of the configuration in its plain form: absolute, without `.`, `..` and doubled slashes.
pub(super) fn plain(path: &CStr) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in Path::new(OsStr::from_bytes(path.to_bytes())).components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

/// Without a mount namespace of its own the container's mounts are the host's, and no part of any image.
pub(super) fn refuse_shared_mounts(plan: &Plan) -> Result<(), Refusal> {
    if plan.namespaces.separate(Kind::Mount) {
        return Ok(());
    }
    Err(Refusal::new("linux.namespaces", "has no mount namespace; checkpoint and restore need one"))
}

/// Mounts that stand for something outside: destination and what is mounted there.
fn bound(plan: &Plan, cgroup: &Cgroup) -> Result<Vec<(PathBuf, PathBuf)>, Refusal> {
    let mut list = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let destination = plain(&mount.destination);
        match &mount.source {
            MountSource::Bind { .. } if mount.idmap.is_some() => {
                let problem = "is id-mapped, which criu cannot restore; leave the mapping out";
                return Err(Refusal::new(format!("mounts[{index}]"), problem));
            }
            MountSource::Bind { source, .. } => {
                list.push((destination, PathBuf::from(OsStr::from_bytes(source.to_bytes()))));
            }
            // With a namespace of its own, and on cgroup v2 in any case, these are file systems like any other.
            MountSource::Cgroup if !plan.namespaces.separate(Kind::Cgroup) => {
                for (controllers, directory) in cgroup.paths() {
                    if !controllers.is_empty() {
                        list.push((destination.join(cgroupfs::directory_name(&controllers)), directory));
                    }
                }
            }
            MountSource::Cgroup | MountSource::FileSystem { .. } | MountSource::Remount { .. } => {}
        }
    }
    Ok(list)
}

/// Text of criu's option for a mount: `mnt[PLACE]:KEY` in a dump, `mnt[KEY]:SOURCE` in a restore.
fn mount_option(left: &Path, right: &Path) -> Result<String, Error> {
    Ok(format!("mnt[{}]:{}", super::options::text(left)?, super::options::text(right)?))
}

/// The external mounts of a dump. `root` is the root directory of the container's init: what its paths mean now is
/// where its mounts are.
pub(super) fn dump_mounts(plan: &Plan, cgroup: &Cgroup, root: BorrowedFd<'_>) -> Result<Vec<String>, crate::Error> {
    let mut options = BTreeSet::new();
    for (destination, _) in bound(plan, cgroup)? {
        let place = place_of(root, &destination)?.map_or_else(|| destination.clone(), |(place, _)| place);
        options.insert(mount_option(&place, &destination)?);
    }
    for device in &plan.devices {
        let path = plain(&device.path);
        options.insert(mount_option(&path, &path)?);
    }
    for path in &plan.masked_paths {
        // A directory is covered by a file system of its own.
        if let Some((place, false)) = place_of(root, &plain(path))? {
            options.insert(mount_option(&place, Path::new(NULL_DEVICE))?);
        }
    }
    Ok(options.into_iter().collect())
}

/// Where a path leads in the container, and whether it is a directory; none if there is nothing.
fn place_of(root: BorrowedFd<'_>, path: &Path) -> Result<Option<(PathBuf, bool)>, crate::Error> {
    let find = || {
        let found = match fs::open_in_root(root, &fs::c_path(path)?, fs::O_PATH, 0) {
            Ok(found) => found,
            Err(error) if matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ENOTDIR | errno::EACCES)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let directory = fs::status(found.as_fd())?.is(fs::S_IFDIR);
        let link = fs::c_path(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))?;
        Ok(Some((fs::read_link_at(None, &link)?, directory)))
    };
    find().during("find in the container", path.display())
}

/// What stands for the external mounts in a restore.
pub(super) fn restore_mounts(plan: &Plan, cgroup: &Cgroup) -> Result<Vec<String>, crate::Error> {
    let mut options = BTreeSet::new();
    for (destination, source) in bound(plan, cgroup)? {
        // criu looks for the mount that it lies in, one component after the other.
        let source = std::fs::canonicalize(&source).unwrap_or(source);
        options.insert(mount_option(&destination, &source)?);
    }
    for device in &plan.devices {
        let path = plain(&device.path);
        options.insert(mount_option(&path, &path)?);
    }
    if !plan.masked_paths.is_empty() {
        options.insert(mount_option(Path::new(NULL_DEVICE), Path::new(NULL_DEVICE))?);
    }
    Ok(options.into_iter().collect())
}

/// The name of a namespace kind in criu's options and in `/proc/PID/ns`.
fn criu_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mnt",
        Kind::Network => "net",
        kind => namespace_name(kind),
    }
}

/// The kinds that a dump leaves out and a restore takes over as they are, with their keys and the first version of
/// criu that can do so.
const TAKEN_OVER: [(Kind, &str, Version, &str); 2] = [
    (Kind::Network, "extRootNetNS", Version::new(3, 11), "a network namespace by path"),
    (Kind::Pid, "extRootPidNS", Version::new(3, 15), "a pid namespace by path"),
];

/// The external namespaces of a dump of the process `pid`.
pub(super) fn dump_namespaces(plan: &Plan, criu: &Criu, pid: i32) -> Result<Vec<String>, crate::Error> {
    let mut options = Vec::new();
    for (kind, key, version, what) in TAKEN_OVER {
        if plan.namespaces.joined(kind).is_some() {
            criu.need(version, what)?;
            let path = format!("/proc/{pid}/ns/{}", criu_name(kind));
            let inode = std::fs::metadata(&path).during("look at", &path)?.ino();
            options.push(format!("{}[{inode}]:{key}", criu_name(kind)));
        }
    }
    Ok(options)
}

/// The namespaces a restored container joins.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Handed to criu in this order.
    pub(super) handed: Vec<OwnedFd>,
    pub(super) inherited: Vec<InheritFd>,
    pub(super) joined: Vec<JoinNamespace>,
}

impl Namespaces {
    pub(super) fn open(plan: &Plan, criu: &Criu) -> Result<Self, crate::Error> {
        let mut namespaces = Self::default();
        for (join, (_, namespace)) in plan.namespaces.join.iter().zip(joins::open_all(plan)?) {
            if join.kind == Kind::Cgroup {
                let problem = "is a cgroup namespace by path, which criu cannot join; leave the path out";
                return Err(Refusal::new("linux.namespaces", problem).into());
            }
            match TAKEN_OVER.iter().find(|(kind, ..)| *kind == join.kind) {
                Some((_, key, version, what)) => {
                    criu.need(*version, what)?;
                    let fd = FIRST_HANDED + namespaces.handed.len() as i32;
                    namespaces.inherited.push(InheritFd { key: (*key).into(), fd });
                    namespaces.handed.push(namespace);
                }
                None => {
                    let file = super::options::text(&join.path)?;
                    namespaces.joined.push(JoinNamespace { namespace: criu_name(join.kind).into(), file });
                }
            }
        }
        Ok(namespaces)
    }
}

/// What the standard descriptors of a process are, such as `pipe:[4711]` or a path; empty where it may not be seen.
pub(crate) fn stdio_of(pid: i32) -> Vec<String> {
    let link = |number| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    (0..3).map(|number| link(number).to_string_lossy().into_owned()).collect()
}

/// The standard descriptors that criu replaces by its own: pipes, whose other ends are outside.
pub(super) fn inherited_stdio(recorded: &[String]) -> Vec<InheritFd> {
    let pipe = |(fd, key): (i32, &String)| key.starts_with("pipe:").then(|| InheritFd { key: key.clone(), fd });
    (0..3).zip(recorded).filter_map(pipe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn plan(json: &str) -> Plan {
        let text = format!(
            r#"{{"ociVersion":"1.2.0","root":{{"path":"rootfs"}},
            "process":{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["sh"]}},{json}}}"#
        );
        let spec = wharf_specs::oci::parse_config(text.as_bytes()).expect("parse").value;
        Plan::compile(&spec, Path::new("/bundle")).expect("compile")
    }

    const MOUNTS: &str = r#""mounts":[
        {"destination":"/proc","type":"proc","source":"proc"},
        {"destination":"/a//b/","source":"data","options":["rbind"]},
        {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup"}]"#;

    fn groups() -> Cgroup {
        Cgroup::from_paths([("".into(), "/u/x".into()), ("name=systemd".into(), "/s/x".into())])
    }

    #[test]
    fn a_restore_says_what_stands_for_each_mount() {
        let plan =
            plan(&format!(r#"{MOUNTS},"linux":{{"namespaces":[{{"type":"mount"}}],"maskedPaths":["/proc/keys"]}}"#));
        let options = restore_mounts(&plan, &groups()).expect("options");
        for wanted in ["mnt[/a/b]:/bundle/data", "mnt[/sys/fs/cgroup/systemd]:/s/x", "mnt[/dev/null]:/dev/null"] {
            assert!(options.iter().any(|option| option == wanted), "{wanted}: {options:?}");
        }
        assert!(!options.iter().any(|option| option.contains("/u/x") || option.contains("mnt[/proc")), "{options:?}");
    }

    #[test]
    fn groups_in_a_namespace_of_their_own_are_no_external_mounts() {
        let plan = plan(&format!(r#"{MOUNTS},"linux":{{"namespaces":[{{"type":"mount"}},{{"type":"cgroup"}}]}}"#));
        let options = restore_mounts(&plan, &groups()).expect("options");
        assert!(!options.iter().any(|option| option.contains("cgroup")), "{options:?}");
    }

    #[test]
    fn a_dump_names_the_places_that_links_lead_to() {
        let directory = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir_all(directory.path().join("real/b")).expect("mkdir");
        std::os::unix::fs::symlink("/real", directory.path().join("a")).expect("symlink");
        let root = File::open(directory.path()).expect("open");
        let plan = plan(&format!(r#"{MOUNTS},"linux":{{"namespaces":[{{"type":"mount"}}],"maskedPaths":["/none"]}}"#));
        let options = dump_mounts(&plan, &groups(), root.as_fd()).expect("options");
        let wanted = format!("mnt[{}/real/b]:/a/b", directory.path().display());
        assert!(options.contains(&wanted), "{options:?}");
        assert!(!options.iter().any(|option| option.contains("none")), "{options:?}");
    }

    #[test]
    fn only_pipes_among_the_standard_descriptors_are_replaced() {
        let recorded = ["/dev/null".to_string(), "pipe:[7]".into(), "/dev/pts/0".into()];
        assert_eq!(inherited_stdio(&recorded), [InheritFd { key: "pipe:[7]".into(), fd: 1 }]);
        assert_eq!(inherited_stdio(&[]), []);
    }
}
