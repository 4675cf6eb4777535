//! Who owns the group of a container that may divide it further (runtime-spec, config-linux.md#cgroup-ownership).

use super::{Cgroup, Error};
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use wharf_specs::oci::{LinuxNamespaceType as Kind, Spec};

/// What may be given away, as the kernel says; of older kernels, cgroups(7).
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";
const BEFORE_4_15: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// The user on the host who is the process' user inside, if the container has a cgroup namespace of its own and sees
/// its group writable.
pub(crate) fn owner(spec: &Spec) -> Option<u32> {
    let linux = spec.linux().as_ref()?;
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let joined = |path: &Option<std::path::PathBuf>| path.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    let own_namespace = |kind| namespaces.iter().any(|space| space.typ() == kind && !joined(space.path()));
    let writable = spec.mounts().iter().flatten().any(|mount| {
        let cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
        cgroup && !mount.options().iter().flatten().any(|option| option == "ro")
    });
    if !own_namespace(Kind::Cgroup) || !writable {
        return None;
    }
    let user = spec.process().as_ref()?.user().uid();
    if namespaces.iter().all(|space| space.typ() != Kind::User) {
        return Some(user);
    }
    linux.uid_mappings().iter().flatten().find_map(|map| {
        let offset = user.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(offset)
    })
}

/// Gives the directory, and in it the files by which a group is divided.
pub(crate) fn give(cgroup: &Cgroup, user: u32) -> Result<(), Error> {
    let Some(directory) = cgroup.unified_path().filter(|_| !cgroup.is_v1()) else { return Ok(()) };
    let files = fs::read_to_string(DELEGATED).unwrap_or_else(|_| BEFORE_4_15.into());
    let paths = std::iter::once(directory.to_path_buf()).chain(files.lines().map(|file| directory.join(file)));
    for path in paths {
        match chown(&path, Some(user), None) {
            // The kernel's list has files of controllers that are not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Directory { operation: "chown", path, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(user: u32, namespaces: &str, options: &str) -> Option<u32> {
        let text = format!(
            r#"{{"ociVersion":"1.0.0","process":{{"user":{{"uid":{user},"gid":0}},"cwd":"/","args":["a"]}},
                "mounts":[{{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":[{options}]}}],
                "linux":{{"namespaces":[{namespaces}],"uidMappings":[{{"containerID":0,"hostID":1000,"size":10}}]}}}}"#
        );
        owner(&serde_json::from_str(&text).expect("spec"))
    }

    #[test]
    fn a_group_is_given_where_it_is_writable_in_its_own_namespaces() {
        let both = r#"{"type":"cgroup"},{"type":"user"}"#;
        assert_eq!(owner_of(5, both, ""), Some(1005));
        assert_eq!(owner_of(10, both, ""), None, "a user who is not mapped");
        assert_eq!(owner_of(0, both, r#""ro""#), None);
        assert_eq!(owner_of(0, r#"{"type":"user"}"#, ""), None);
        assert_eq!(owner_of(5, r#"{"type":"cgroup"}"#, ""), Some(5));
    }
}
