//! `linux.namespaces`, the id mappings, the time offsets (runtime-spec, config-linux.md).

use super::Refusal;
use std::collections::HashMap;
use std::path::PathBuf;
use wharf_specs::oci::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxPersonalityDomain};

/// A namespace that exists already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Its place in `linux.namespaces`.
    pub index: usize,
    pub kind: LinuxNamespaceType,
    pub path: PathBuf,
}

/// Which namespaces the container has of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `CLONE_NEW*` of those to be made.
    pub new: i32,
    pub join: Vec<Join>,
    pub uid_map: Vec<LinuxIdMapping>,
    pub gid_map: Vec<LinuxIdMapping>,
    /// Lines for `/proc/self/timens_offsets`.
    pub time_offsets: Vec<u8>,
}

impl Namespaces {
    pub(super) fn compile(linux: &Linux) -> Result<Self, Refusal> {
        let mut namespaces = Self {
            uid_map: linux.uid_mappings().clone().unwrap_or_default(),
            gid_map: linux.gid_mappings().clone().unwrap_or_default(),
            ..Self::default()
        };
        for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
            let kind = namespace.typ();
            if namespaces.separate(kind) {
                let field = format!("linux.namespaces[{index}].type");
                return Err(Refusal::new(field, format!("{:?} stands in the list twice", name(kind))));
            }
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => {
                    if !path.is_absolute() {
                        let field = format!("linux.namespaces[{index}].path");
                        return Err(Refusal::new(field, format!("{path:?} is not an absolute path")));
                    }
                    namespaces.join.push(Join { index, kind, path: path.clone() });
                }
                _ => namespaces.new |= kind as i32,
            }
        }
        namespaces.check_mappings()?;
        namespaces.time_offsets = namespaces.compile_offsets(linux)?;
        Ok(namespaces)
    }

    fn check_mappings(&self) -> Result<(), Refusal> {
        let new_user = self.new & LinuxNamespaceType::User as i32 != 0;
        for (field, map) in [("linux.uidMappings", &self.uid_map), ("linux.gidMappings", &self.gid_map)] {
            if new_user && map.is_empty() {
                return Err(Refusal::new(field, "is empty, but linux.namespaces asks for a new user namespace"));
            }
            if !self.separate(LinuxNamespaceType::User) && !map.is_empty() {
                return Err(Refusal::new(field, "is given, but linux.namespaces has no user namespace"));
            }
            check_map(field, map)?;
        }
        Ok(())
    }

    fn compile_offsets(&self, linux: &Linux) -> Result<Vec<u8>, Refusal> {
        let mut lines = Vec::new();
        let empty = HashMap::new();
        let offsets = linux.time_offsets().as_ref().unwrap_or(&empty);
        if !offsets.is_empty() && self.new & LinuxNamespaceType::Time as i32 == 0 {
            return Err(Refusal::new("linux.timeOffsets", "is given, but linux.namespaces has no new time namespace"));
        }
        for (clock, offset) in offsets {
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                let problem = format!("{clock:?} is not a clock; allowed: monotonic, boottime");
                return Err(Refusal::new("linux.timeOffsets", problem));
            }
            let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            const MOST_NANOSECONDS: u32 = 999_999_999;
            if nanos > MOST_NANOSECONDS {
                let problem = format!("{nanos} is out of range; allowed: 0 to {MOST_NANOSECONDS}");
                return Err(Refusal::new(format!("linux.timeOffsets.{clock}.nanosecs"), problem));
            }
            lines.extend(format!("{clock} {secs} {nanos}\n").into_bytes());
        }
        Ok(lines)
    }

    /// Whether the container has a namespace of this kind other than the runtime's own.
    pub fn separate(&self, kind: LinuxNamespaceType) -> bool {
        self.new & kind as i32 != 0 || self.join.iter().any(|join| join.kind == kind)
    }

    /// The namespace of this kind that is joined.
    pub fn joined(&self, kind: LinuxNamespaceType) -> Option<&Join> {
        self.join.iter().find(|join| join.kind == kind)
    }

    /// Whether a namespace of this kind is made.
    pub fn makes(&self, kind: LinuxNamespaceType) -> bool {
        self.new & kind as i32 != 0
    }
}

/// What the kernel asks of a mapping (user_namespaces(7)); it would answer EINVAL to all of it.
pub(super) fn check_map(field: &str, map: &[LinuxIdMapping]) -> Result<(), Refusal> {
    const MAX_ENTRIES: usize = 340;
    if map.len() > MAX_ENTRIES {
        return Err(Refusal::new(field, format!("has {} entries; allowed: up to {MAX_ENTRIES}", map.len())));
    }
    for (index, entry) in map.iter().enumerate() {
        if entry.size() == 0 {
            return Err(Refusal::new(format!("{field}[{index}].size"), "is 0; allowed: 1 and more"));
        }
        // The largest number is no id.
        let end = |first: u32| u64::from(first) + u64::from(entry.size());
        for (name, first) in [("containerID", entry.container_id()), ("hostID", entry.host_id())] {
            if end(first) > u64::from(u32::MAX) {
                let problem = format!("{name} {first} with size {} goes beyond the largest id", entry.size());
                return Err(Refusal::new(format!("{field}[{index}]"), problem));
            }
        }
        let meets = |first: u32, other: u32, size: u32| {
            u64::from(first) < u64::from(other) + u64::from(size) && u64::from(other) < end(first)
        };
        let overlaps = |other: &LinuxIdMapping| {
            meets(entry.container_id(), other.container_id(), other.size())
                || meets(entry.host_id(), other.host_id(), other.size())
        };
        if let Some(other) = map[..index].iter().position(overlaps) {
            return Err(Refusal::new(format!("{field}[{index}]"), format!("overlaps with entry {other}")));
        }
    }
    Ok(())
}

/// The name of a namespace kind in `config.json`.
pub(crate) fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// `linux.personality` as the argument of `personality(2)`.
pub(super) fn personality(linux: &Linux) -> Result<Option<u32>, Refusal> {
    const PER_LINUX32: u32 = 8;
    let Some(personality) = linux.personality() else { return Ok(None) };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Refusal::new("linux.personality.flags", "is given; allowed: none, the standard defines no flag"));
    }
    Ok(Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    }))
}
