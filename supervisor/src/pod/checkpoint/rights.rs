//! What the processes of a checkpoint may do, held against what the container that is asked for may: criu, as root, gives
//! them whatever its images say.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use wharf_runtime::capabilities;
use wharf_specs::criu_image::{CORE_BYTES_MAX, Rights, rights};

/// Of each thread, and of each process in the form of older versions.
const CORE: &str = "core-";
const OLD_CREDENTIALS: &str = "creds-";

const SETS: [&str; 4] = ["inheritable", "permitted", "effective", "bounding"];

/// What the processes of a container may have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed {
    /// Bit N is capability N.
    bounding: u64,
    /// Its system calls are filtered.
    filtered: bool,
    /// Whom they act as, where they have no way to become another.
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Allowed {
    pub(crate) fn of(spec: &Spec) -> Self {
        let Some(process) = spec.process() else { return Self::default() };
        let sets = process.capabilities().as_ref();
        let bounding = sets.and_then(|sets| sets.bounding().as_ref());
        let bounding = bounding.into_iter().flatten().fold(0, |set, one| set | capabilities::bit(*one));
        let has = |capability| bounding & capabilities::bit(capability) != 0;
        // A program of another owner could make it one, without that.
        let held = process.no_new_privileges() == Some(true);
        Self {
            bounding,
            filtered: spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()),
            uid: (held && !has(Capability::Setuid)).then(|| process.user().uid()),
            gid: (held && !has(Capability::Setgid)).then(|| process.user().gid()),
        }
    }

    /// Refuses images that give a process more than this.
    pub(super) fn check(&self, images: &Path) -> Result<(), String> {
        let said = |error: std::io::Error| format!("{}: {error}", images.display());
        for entry in fs::read_dir(images).map_err(said)? {
            let entry = entry.map_err(said)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(OLD_CREDENTIALS) {
                return Err(format!("{name}: is of a criu older than 2.0, whose images are not taken"));
            }
            if name.starts_with(CORE) {
                self.check_image(&entry.path()).map_err(|reason| format!("{name}: {reason}"))?;
            }
        }
        Ok(())
    }

    fn check_image(&self, path: &Path) -> Result<(), String> {
        let length = fs::symlink_metadata(path).map_err(|error| error.to_string())?.len();
        super::source::within(length, CORE_BYTES_MAX as u64)?;
        let image = fs::read(path).map_err(|error| error.to_string())?;
        match rights(&image).map_err(|error| error.to_string())? {
            Some(rights) => self.check_rights(&rights),
            None => Ok(()),
        }
    }

    fn check_rights(&self, rights: &Rights) -> Result<(), String> {
        for (set, found) in SETS.iter().zip(rights.capabilities) {
            let more = found & !self.bounding;
            if more != 0 {
                let number = more.trailing_zeros();
                let named = capabilities::ALL.into_iter().find(|one| capabilities::bit(*one) == 1 << number);
                let named = named.map_or_else(|| format!("capability {number}"), capabilities::name);
                return Err(format!("has {named} in its {set} set, which the container does not have"));
            }
        }
        if self.filtered && !rights.filtered {
            return Err("has no seccomp filter, and the container has one".into());
        }
        for (kind, wanted, found) in [("user", self.uid, rights.uids), ("group", self.gid, rights.gids)] {
            if let Some(wanted) = wanted
                && let Some(other) = found.iter().find(|id| **id != wanted)
            {
                return Err(format!("acts as {kind} {other}, the container's is {wanted} and cannot change"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET_ADMIN: u64 = 1 << 12;

    fn allowed(spec: serde_json::Value) -> Allowed {
        let spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "cwd": "/", "args": ["sh"], "user": {"uid": 5, "gid": 6},
                "capabilities": {"bounding": spec["bounding"]}, "noNewPrivileges": spec["held"],
            },
            "linux": {"seccomp": spec["seccomp"]},
        });
        Allowed::of(&serde_json::from_value(spec).expect("a spec"))
    }

    fn rights_of(uid: u32, effective: u64, filtered: bool) -> Rights {
        Rights { uids: [uid; 4], gids: [6; 4], groups: Vec::new(), capabilities: [0, 0, effective, 0], filtered }
    }

    #[test]
    fn more_than_the_container_may_have_is_refused() {
        let plain = allowed(serde_json::json!({"bounding": ["CAP_NET_ADMIN", "CAP_SETUID"], "held": true}));
        assert_eq!(plain.check_rights(&rights_of(0, NET_ADMIN, false)), Ok(()), "whom it becomes is its own affair");
        let error = plain.check_rights(&rights_of(0, NET_ADMIN | 1 << 21, false)).unwrap_err();
        assert_eq!(error, "has CAP_SYS_ADMIN in its effective set, which the container does not have");
        let unknown = plain.check_rights(&rights_of(0, 1 << 63, false)).unwrap_err();
        assert!(unknown.starts_with("has capability 63 "), "{unknown}");

        let seccomp = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let held = allowed(serde_json::json!({"bounding": [], "held": true, "seccomp": seccomp}));
        assert_eq!(held.check_rights(&rights_of(5, 0, true)), Ok(()));
        assert!(held.check_rights(&rights_of(5, 0, false)).unwrap_err().contains("no seccomp filter"));
        let other = held.check_rights(&rights_of(0, 0, true)).unwrap_err();
        assert_eq!(other, "acts as user 0, the container's is 5 and cannot change");
    }
}
