//! `mounts` (runtime-spec, config.md#mounts and config-linux.md): options become attributes, propagation,
//! and the parameters of the file system.

use super::{Namespaces, Refusal, c_string};
use std::ffi::CString;
use std::path::Path;
use wharf_specs::oci::{self, LinuxNamespaceType, Spec};
use wharf_sys::mount::{self, Attributes};

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A new file system with its parameters, in order; those without value are flags.
    FileSystem { fstype: CString, source: CString, parameters: Vec<(CString, Option<CString>)>, copy_up: bool },
    /// A copy of a mount of the host.
    Bind {
        source: CString,
        recursive: bool,
        /// A symbolic link at the end of the path is bound itself.
        nofollow: bool,
    },
    /// Other options for what is mounted there already: of the mount alone, or of its file system too.
    Remount { whole: bool, parameters: Vec<(CString, Option<CString>)> },
    /// The container's view of the cgroup hierarchies, whatever their version.
    Cgroup,
}

/// Ids of an id-mapped mount: a mapping of its own, or the one of the container; empty for that of a user namespace
/// that is joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    pub uids: Vec<oci::LinuxIdMapping>,
    pub gids: Vec<oci::LinuxIdMapping>,
    pub recursive: bool,
}

/// One mount of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: CString,
    /// A symbolic link at the end of the destination is mounted on itself.
    pub destination_nofollow: bool,
    pub source: MountSource,
    pub attributes: Attributes,
    /// Attributes of a bind mount's source that go unless a user namespace has locked them: as with runc, a bind
    /// mount that names any flag has exactly the flags it names.
    pub implied_clear: u64,
    /// Attributes for all mounts below as well.
    pub recursive_attributes: Attributes,
    /// `MS_*` propagation and whether it is recursive, in order.
    pub propagation: Vec<(u64, bool)>,
    pub idmap: Option<IdMap>,
}

enum Word {
    Set(u64),
    Clear(u64),
    AccessTime(u64),
    /// Takes an earlier access time back. What is bound keeps its own, a new file system has the kernel's relatime.
    AccessTimeKept,
    Recursive(Box<Word>),
    Propagation(u64, bool),
    Nothing,
}

fn word(option: &str) -> Option<Word> {
    use mount::*;
    const REC: bool = true;
    Some(match option {
        "defaults" => Word::Nothing,
        "ro" => Word::Set(MOUNT_ATTR_RDONLY),
        "rw" => Word::Clear(MOUNT_ATTR_RDONLY),
        "nosuid" => Word::Set(MOUNT_ATTR_NOSUID),
        "suid" => Word::Clear(MOUNT_ATTR_NOSUID),
        "nodev" => Word::Set(MOUNT_ATTR_NODEV),
        "dev" => Word::Clear(MOUNT_ATTR_NODEV),
        "noexec" => Word::Set(MOUNT_ATTR_NOEXEC),
        "exec" => Word::Clear(MOUNT_ATTR_NOEXEC),
        "nosymfollow" => Word::Set(MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Word::Clear(MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => Word::Set(MOUNT_ATTR_NODIRATIME),
        "diratime" => Word::Clear(MOUNT_ATTR_NODIRATIME),
        "relatime" => Word::AccessTime(MOUNT_ATTR_RELATIME),
        "noatime" => Word::AccessTime(MOUNT_ATTR_NOATIME),
        "strictatime" => Word::AccessTime(MOUNT_ATTR_STRICTATIME),
        "atime" | "norelatime" | "nostrictatime" => Word::AccessTimeKept,
        // Back to the kernel's default, which is relatime.
        "ratime" | "rnorelatime" | "rnostrictatime" => Word::Recursive(Box::new(Word::AccessTime(MOUNT_ATTR_RELATIME))),
        "private" => Word::Propagation(MS_PRIVATE, false),
        "rprivate" => Word::Propagation(MS_PRIVATE, REC),
        "shared" => Word::Propagation(MS_SHARED, false),
        "rshared" => Word::Propagation(MS_SHARED, REC),
        "slave" => Word::Propagation(MS_SLAVE, false),
        "rslave" => Word::Propagation(MS_SLAVE, REC),
        "unbindable" => Word::Propagation(MS_UNBINDABLE, false),
        "runbindable" => Word::Propagation(MS_UNBINDABLE, REC),
        "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnodiratime" | "rdiratime"
        | "rrelatime" | "rnoatime" | "rstrictatime" | "rnosymfollow" | "rsymfollow" => {
            Word::Recursive(Box::new(word(&option[1..])?))
        }
        _ => return None,
    })
}

/// Every option this runtime gives a meaning of its own, for `features`.
pub const OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dest-nofollow",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Attributes while they are collected from options; a later option takes an earlier one back.
#[derive(Default)]
struct Collected(Attributes);

impl Collected {
    fn apply(&mut self, word: &Word) {
        match word {
            Word::Set(flag) => {
                self.0.set |= flag;
                self.0.clear &= !flag;
            }
            Word::Clear(flag) => {
                self.0.clear |= flag;
                self.0.set &= !flag;
            }
            Word::AccessTime(value) => {
                // The access-time bits are one value: all are cleared, then one is set.
                self.0.clear |= mount::MOUNT_ATTR_ATIME;
                self.0.set = self.0.set & !mount::MOUNT_ATTR_ATIME | value;
            }
            Word::AccessTimeKept => {
                self.0.clear &= !mount::MOUNT_ATTR_ATIME;
                self.0.set &= !mount::MOUNT_ATTR_ATIME;
            }
            Word::Recursive(_) | Word::Propagation(..) | Word::Nothing => {}
        }
    }
}

impl Collected {
    /// Completes the flags of a bind mount as `mount(2)` has them; returns what is cleared without being named.
    fn complete_for_bind(&mut self) -> u64 {
        use mount::*;
        if self.0 == Attributes::default() {
            return 0;
        }
        let access_time = self.0.clear & MOUNT_ATTR_ATIME != 0;
        if !access_time {
            // As with mount(2): what is not replaced by another access time is kept.
            self.0.clear &= !MOUNT_ATTR_NODIRATIME;
        }
        if access_time && self.0.set & MOUNT_ATTR_NODIRATIME == 0 {
            self.0.clear |= MOUNT_ATTR_NODIRATIME;
        }
        if !access_time && self.0.set & MOUNT_ATTR_NODIRATIME != 0 {
            self.apply(&Word::AccessTime(MOUNT_ATTR_RELATIME));
        }
        let flags =
            MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
        flags & !self.0.set & !self.0.clear
    }
}

pub(super) fn compile_all(spec: &Spec, namespaces: &Namespaces, bundle: &Path) -> Result<Vec<Mount>, Refusal> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let root = spec.root().as_ref().map(|root| root.path().clone()).filter(|path| path.as_os_str().len() > 1);
    let rootfs = bundle.join(root.unwrap_or_else(|| "rootfs".into()));
    mounts.iter().enumerate().map(|(index, mount)| compile(mount, index, namespaces, bundle, &rootfs)).collect()
}

fn compile(
    mount: &oci::Mount,
    index: usize,
    namespaces: &Namespaces,
    bundle: &Path,
    rootfs: &Path,
) -> Result<Mount, Refusal> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let destination = mount.destination();
    if destination.as_os_str().is_empty() {
        return Err(Refusal::new(field("destination"), "is empty; allowed: an absolute path in the container"));
    }
    // Relative destinations are below `/`, and those that name the rootfs on the host are meant inside, as runc
    // reads them.
    let destination = destination.strip_prefix(rootfs).unwrap_or(destination);
    let destination = Path::new("/").join(destination);
    refuse_over_proc(mount, &field("destination"), &destination)?;
    let (mut own, mut recursive) = (Collected::default(), Collected::default());
    let (mut propagation, mut parameters) = (Vec::new(), Vec::new());
    let (mut bind, mut copy_up, mut idmap) = (None, false, None);
    let (mut source_nofollow, mut destination_nofollow, mut remount) = (false, false, false);
    for (position, option) in mount.options().iter().flatten().enumerate() {
        let name = format!("mounts[{index}].options[{position}]");
        match (option.as_str(), word(option)) {
            (_, Some(Word::Propagation(flag, all))) => propagation.push((flag, all)),
            (_, Some(Word::Recursive(word))) => recursive.apply(&word),
            (_, Some(word)) => own.apply(&word),
            ("bind", _) => bind = bind.or(Some(false)),
            ("rbind", _) => bind = Some(true),
            ("tmpcopyup", _) => copy_up = true,
            ("idmap", _) => idmap = Some(false),
            ("ridmap", _) => idmap = Some(true),
            ("src-nofollow", _) => source_nofollow = true,
            ("dest-nofollow", _) => destination_nofollow = true,
            ("remount", _) => remount = true,
            // States that a new mount has anyway; the last two are about kernel messages.
            ("async" | "nomand" | "nolazytime" | "loud" | "silent", _) => {}
            (text, None) => {
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Some(c_string(value, &name)?)),
                    None => (text, None),
                };
                parameters.push((c_string(key, &name)?, value));
            }
        }
    }
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let source_path = mount.source().as_deref().unwrap_or(Path::new(""));
    let bind = bind.or((fstype == "bind").then_some(false));
    let source = if remount {
        MountSource::Remount { whole: bind.is_none(), parameters }
    } else if let Some(recursive) = bind {
        if source_path.as_os_str().is_empty() {
            return Err(Refusal::new(field("source"), "is missing; a bind mount needs the path to be bound"));
        }
        // Parameters of a file system have no meaning for a bind mount, and the kernel ignores them there.
        let source = bundle.join(source_path);
        MountSource::Bind {
            source: c_string(source.as_os_str().as_encoded_bytes(), &field("source"))?,
            recursive,
            nofollow: source_nofollow,
        }
    } else {
        match fstype {
            "" | "none" => {
                return Err(Refusal::new(field("type"), "is missing; allowed: a file system type, or the option bind"));
            }
            "cgroup" | "cgroup2" => MountSource::Cgroup,
            _ if !fstype.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) => {
                return Err(Refusal::new(field("type"), format!("{fstype:?} is not a file system type")));
            }
            _ => MountSource::FileSystem {
                fstype: c_string(fstype, &field("type"))?,
                source: c_string(source_path.as_os_str().as_encoded_bytes(), &field("source"))?,
                parameters,
                copy_up: copy_up && fstype == "tmpfs",
            },
        }
    };
    if copy_up && fstype != "tmpfs" {
        return Err(Refusal::new(field("options"), "tmpcopyup is only for type tmpfs"));
    }
    if source_nofollow && !matches!(source, MountSource::Bind { .. }) {
        return Err(Refusal::new(field("options"), "src-nofollow is only for bind mounts"));
    }
    let implied_clear = if bind.is_some() || remount { own.complete_for_bind() } else { 0 };
    Ok(Mount {
        implied_clear,
        destination_nofollow,
        destination: c_string(destination.as_os_str().as_encoded_bytes(), &field("destination"))?,
        idmap: compile_idmap(mount, index, idmap, &source, namespaces)?,
        source,
        attributes: own.0,
        recursive_attributes: recursive.0,
        propagation,
    })
}

/// What LXCFS and the like mount inside `/proc`.
pub(crate) const ALLOWED_INSIDE_PROC: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
    "sys/kernel/random/boot_id",
];

/// A file system inside `/proc` could pass for the kernel's, to the container and to the runtime. This sees what the
/// path says; where links lead is seen when the place is opened.
fn refuse_over_proc(mount: &oci::Mount, field: &str, destination: &Path) -> Result<(), Refusal> {
    let inside = std::path::absolute(destination).unwrap_or_default();
    let Ok(inside) = inside.strip_prefix("/proc") else { return Ok(()) };
    let whole = inside.as_os_str().is_empty();
    let is_proc =
        mount.typ().as_deref() == Some("proc") || mount.source().as_deref().is_some_and(|s| s.starts_with("/proc"));
    if (whole && is_proc) || ALLOWED_INSIDE_PROC.iter().any(|name| inside == Path::new(name)) {
        return Ok(());
    }
    let problem = format!("{destination:?} cannot be mounted because it is inside /proc; allowed: procfs on /proc");
    Err(Refusal::new(field, problem))
}

fn compile_idmap(
    mount: &oci::Mount,
    index: usize,
    option: Option<bool>,
    source: &MountSource,
    namespaces: &Namespaces,
) -> Result<Option<IdMap>, Refusal> {
    let uids = mount.uid_mappings().clone().unwrap_or_default();
    let gids = mount.gid_mappings().clone().unwrap_or_default();
    if uids.is_empty() && gids.is_empty() && option.is_none() {
        return Ok(None);
    }
    let field = |name: &str| format!("mounts[{index}].{name}");
    if !matches!(source, MountSource::Bind { .. }) {
        return Err(Refusal::new(field("uidMappings"), "id-mapped mounts are only possible for bind mounts"));
    }
    if uids.is_empty() != gids.is_empty() {
        return Err(Refusal::new(field("gidMappings"), "uidMappings and gidMappings must be given together"));
    }
    super::namespace::check_map(&field("uidMappings"), &uids)?;
    super::namespace::check_map(&field("gidMappings"), &gids)?;
    let (uids, gids) = if uids.is_empty() {
        if !namespaces.separate(LinuxNamespaceType::User) {
            let problem = "idmap without mappings needs a user namespace";
            return Err(Refusal::new(field("options"), problem));
        }
        (namespaces.uid_map.clone(), namespaces.gid_map.clone())
    } else {
        (uids, gids)
    };
    Ok(Some(IdMap { uids, gids, recursive: option.unwrap_or(false) }))
}

/// `linux.rootfsPropagation`.
pub(super) fn root_propagation(value: Option<&str>) -> Result<Option<(u64, bool)>, Refusal> {
    match value {
        None | Some("") => Ok(None),
        Some(name) => match word(name) {
            Some(Word::Propagation(flag, recursive)) => Ok(Some((flag, recursive))),
            _ => Err(Refusal::new(
                "linux.rootfsPropagation",
                format!("{name:?} is not a propagation; allowed: [r]private, [r]shared, [r]slave, [r]unbindable"),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile_json(json: &str) -> Result<Mount, Refusal> {
        let mount: oci::Mount = serde_json::from_str(json).expect("parse");
        compile(&mount, 0, &Namespaces::default(), Path::new("/bundle"), Path::new("/bundle/rootfs"))
    }

    #[test]
    fn options_are_sorted_into_attributes_and_parameters() {
        let mount = compile_json(
            r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","rw"]}"#,
        )
        .expect("compile");
        assert_eq!(mount.attributes.set, mount::MOUNT_ATTR_NOSUID | mount::MOUNT_ATTR_STRICTATIME);
        assert_eq!(mount.attributes.clear, mount::MOUNT_ATTR_RDONLY | mount::MOUNT_ATTR_ATIME);
        let MountSource::FileSystem { parameters, .. } = mount.source else { panic!("not a file system") };
        assert_eq!(parameters, [(c"mode".to_owned(), Some(c"755".to_owned()))]);
    }

    #[test]
    fn a_relative_bind_source_starts_at_the_bundle() {
        let mount = compile_json(r#"{"destination":"x","type":"none","source":"data","options":["rbind","rro"]}"#)
            .expect("compile");
        assert_eq!(mount.destination.as_bytes(), b"/x");
        assert_eq!(
            mount.source,
            MountSource::Bind { source: c"/bundle/data".to_owned(), recursive: true, nofollow: false }
        );
        assert_eq!(mount.recursive_attributes.set, mount::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn a_bind_mount_that_names_a_flag_has_only_those_it_names() {
        let attributes = |options: &str| {
            let json = format!(r#"{{"destination":"/bundle/rootfs/x","source":"/y","options":["bind"{options}]}}"#);
            let mount = compile_json(&json).expect("compile");
            assert_eq!(mount.destination, c"/x".to_owned());
            (mount.attributes, mount.implied_clear)
        };
        assert_eq!(attributes(""), (Attributes::default(), 0));
        assert_eq!(attributes(r#","atime""#), (Attributes::default(), 0));
        let (named, implied) = attributes(r#","ro""#);
        assert_eq!(named.set, mount::MOUNT_ATTR_RDONLY);
        assert!(implied & mount::MOUNT_ATTR_NOEXEC != 0 && implied & mount::MOUNT_ATTR_RDONLY == 0);
    }

    #[test]
    fn a_later_option_takes_an_earlier_one_back() {
        let mount = compile_json(r#"{"destination":"/x","source":"/y","options":["bind","ro","rw","noexec","exec"]}"#)
            .expect("compile");
        assert_eq!(mount.attributes.set, 0);
    }

    #[test]
    fn refused_mounts_are_named() {
        for (json, field) in [
            (r#"{"destination":"/x"}"#, "mounts[0].type"),
            (r#"{"destination":"/x","options":["bind"]}"#, "mounts[0].source"),
            (r#"{"destination":"/x","type":"a/b"}"#, "mounts[0].type"),
            (r#"{"destination":"/x","type":"proc","options":["idmap"]}"#, "mounts[0].uidMappings"),
        ] {
            assert_eq!(compile_json(json).expect_err(json).field, field);
        }
    }
}
