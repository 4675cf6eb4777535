//! `config.json` compiled: checked as a whole, then laid out as the child will walk it.
//!
//! All refusals happen here, before anything was created, with the JSON path of the field, what stood
//! there and what is allowed. What comes later trusts the [`Plan`]. Nothing here asks for root.

mod device;
mod mount;
mod namespace;
mod net_device;
mod process;
mod sysctl;

pub use device::Device;
pub(crate) use mount::ALLOWED_INSIDE_PROC;
pub use mount::{IdMap, Mount, MountSource, OPTIONS as MOUNT_OPTIONS};
pub(crate) use namespace::name as namespace_name;
pub use namespace::{Join, Namespaces};
pub use net_device::NetDevice;
pub(crate) use process::index_list;
pub use process::{CapabilityPlan, Process};
pub use sysctl::Sysctl;

use crate::intel_rdt::RdtPlan;
use crate::seccomp::FilterSource;
use std::collections::HashSet;
use std::ffi::CString;
use std::path::Path;
use wharf_specs::oci::{Hooks, Linux, LinuxNamespaceType, LinuxResources, Spec};

/// A field of `config.json` that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {field}: {problem}")]
pub struct Refusal {
    /// The JSON path, such as `linux.namespaces[2].type`.
    pub field: String,
    /// What stood there, and what is allowed.
    pub problem: String,
}

impl Refusal {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// A container, ready to be executed step by step.
#[derive(Debug)]
pub struct Plan {
    pub namespaces: Namespaces,
    /// `root.path`, as it stands.
    pub root_path: std::path::PathBuf,
    pub readonly_root: bool,
    /// `MS_*` propagation of the root mount and whether it is recursive; the default is a recursive slave.
    pub root_propagation: Option<(u64, bool)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub net_devices: Vec<NetDevice>,
    pub intel_rdt: Option<RdtPlan>,
    pub masked_paths: Vec<CString>,
    pub readonly_paths: Vec<CString>,
    pub sysctls: Vec<Sysctl>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub process: Process,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<std::path::PathBuf>,
    pub resources: Option<LinuxResources>,
    pub hooks: Hooks,
    /// What was passed over, one line each.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Compiles a configuration. `bundle` is the absolute directory that relative mount sources start from.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn compile(spec: &Spec, bundle: &Path) -> Result<Self, Refusal> {
        let root =
            spec.root().as_ref().ok_or_else(|| Refusal::new("root", "is missing; root.path names the rootfs"))?;
        if root.path().as_os_str().is_empty() {
            return Err(Refusal::new("root.path", "is empty; allowed: the directory of the rootfs"));
        }
        refuse_other_platforms(spec)?;
        let none;
        let linux = match spec.linux() {
            Some(linux) => linux,
            None => {
                none = empty_linux();
                &none
            }
        };
        let namespaces = Namespaces::compile(linux)?;
        let process = spec.process().as_ref().ok_or_else(|| Refusal::new("process", "is missing"))?;
        let mut warnings = Vec::new();
        let process = Process::compile(process, "process", &mut warnings)?;
        let has = |kind| namespaces.separate(kind);

        for (field, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
            if value.as_ref().is_some_and(|name| !name.is_empty()) && !has(LinuxNamespaceType::Uts) {
                return Err(Refusal::new(field, "is set, but linux.namespaces has no uts namespace to hold it"));
            }
            if value.as_ref().is_some_and(|name| name.len() > 64) {
                return Err(Refusal::new(field, "is longer than the 64 bytes the kernel allows"));
            }
        }
        let mut process = process;
        process.personality = namespace::personality(linux)?;
        let cpu = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
        process.cpus_restricted = cpu.is_some_and(|cpu| cpu.cpus().as_ref().is_some_and(|cpus| !cpus.is_empty()));
        process.memory_policy = process::memory_policy(linux)?;
        // Its program is made, or found, where it is loaded.
        linux.seccomp().as_ref().map(FilterSource::compile).transpose()?;
        Ok(Self {
            root_path: root.path().clone(),
            readonly_root: root.readonly().unwrap_or(false),
            root_propagation: mount::root_propagation(linux.rootfs_propagation().as_deref())?,
            mounts: labelled(mount::compile_all(spec, &namespaces, bundle)?, linux, &mut warnings)?,
            devices: device::compile_all(linux)?,
            intel_rdt: linux.intel_rdt().as_ref().map(RdtPlan::compile).transpose()?,
            net_devices: net_device::compile_all(linux, &namespaces)?,
            masked_paths: path_list(linux.masked_paths().as_deref(), "linux.maskedPaths")?,
            readonly_paths: path_list(linux.readonly_paths().as_deref(), "linux.readonlyPaths")?,
            sysctls: sysctl::compile_all(linux.sysctl().as_ref(), &namespaces)?,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            cgroups_path: cgroups_path(linux)?,
            resources: linux.resources().clone(),
            hooks: checked_hooks(spec)?,
            process,
            namespaces,
            warnings,
        })
    }

    /// Whether anything must run between the mounts and `pivot_root` in the runtime's namespaces.
    pub(crate) fn has_runtime_hooks(&self) -> bool {
        #[allow(deprecated, reason = "prestart hooks are deprecated, but callers still use them")]
        let prestart = self.hooks.prestart();
        [prestart, self.hooks.create_runtime()].into_iter().flatten().any(|list| !list.is_empty())
    }

    /// Whether `/dev` is the container's own. One bound from the host has its devices already.
    pub(crate) fn makes_devices(&self) -> bool {
        let bound = |mount: &Mount| {
            matches!(mount.source, MountSource::Bind { .. })
                && matches!(mount.destination.as_bytes(), b"/dev" | b"/dev/")
        };
        !self.mounts.iter().any(bound)
    }

    /// Whether any hook runs inside the container.
    pub(crate) fn has_container_hooks(&self) -> bool {
        [self.hooks.create_container(), self.hooks.start_container()].into_iter().flatten().any(|list| !list.is_empty())
    }
}

/// `oci-spec` fills a defaulted `Linux` with namespaces and paths; an absent one must stay empty.
fn empty_linux() -> wharf_specs::oci::Linux {
    let mut linux = wharf_specs::oci::Linux::default();
    linux.set_namespaces(None).set_resources(None).set_masked_paths(None).set_readonly_paths(None);
    linux
}

/// The root of the hierarchy is everybody's: to end the container would be to end every process of the host.
fn cgroups_path(linux: &wharf_specs::oci::Linux) -> Result<Option<std::path::PathBuf>, Refusal> {
    let Some(path) = linux.cgroups_path().clone().filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    if crate::cgroup::clean(&path).as_os_str().is_empty() {
        let problem = format!("{path:?} is the root of the hierarchy; allowed: a path below it");
        return Err(Refusal::new("linux.cgroupsPath", problem));
    }
    c_string(path.as_os_str().as_encoded_bytes(), "linux.cgroupsPath")?;
    Ok(Some(path))
}

fn refuse_other_platforms(spec: &Spec) -> Result<(), Refusal> {
    let version = spec.version();
    let mut parts = version.split(['.', '-', '+']);
    if parts.next() != Some("1") || parts.next().and_then(|minor| minor.parse::<u32>().ok()).is_none() {
        return Err(Refusal::new("ociVersion", format!("{version:?} is not supported; allowed: 1.0.0 to 1.3.x")));
    }
    for (field, present) in [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        if present {
            return Err(Refusal::new(field, "is for another platform; allowed: linux"));
        }
    }
    Ok(())
}

/// Gives the file systems of the container the SELinux context of `linux.mountLabel`. Where there is no SELinux a label
/// has no meaning and protects nothing; mounts are then without, with a warning.
fn labelled(mut mounts: Vec<Mount>, linux: &Linux, warnings: &mut Vec<String>) -> Result<Vec<Mount>, Refusal> {
    let Some(label) = linux.mount_label().as_ref().filter(|label| !label.is_empty()) else { return Ok(mounts) };
    if !crate::label::selinux_enabled() {
        warnings.push(format!("linux.mountLabel: {label:?} is not set, as SELinux is not enabled on this host"));
        return Ok(mounts);
    }
    let label = c_string(label, "linux.mountLabel")?;
    for mount in &mut mounts {
        if let MountSource::FileSystem { fstype, parameters, .. } = &mut mount.source
            // The kernel labels the files of these by itself.
            && !matches!(fstype.as_bytes(), b"proc" | b"sysfs" | b"mqueue")
            && parameters.iter().all(|(key, _)| key.as_bytes() != b"context")
        {
            parameters.push((c"context".to_owned(), Some(label.clone())));
        }
    }
    Ok(mounts)
}

fn checked_hooks(spec: &Spec) -> Result<Hooks, Refusal> {
    let hooks = spec.hooks().clone().unwrap_or_default();
    #[allow(deprecated, reason = "prestart hooks are deprecated, but callers still use them")]
    let kinds = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in kinds {
        for (index, hook) in list.iter().flatten().enumerate() {
            let field = |name| format!("hooks.{kind}[{index}].{name}");
            if !hook.path().is_absolute() {
                return Err(Refusal::new(field("path"), format!("{:?} is not an absolute path", hook.path())));
            }
            c_string(hook.path().as_os_str().as_encoded_bytes(), &field("path"))?;
            for (name, list) in [("args", hook.args()), ("env", hook.env())] {
                for (place, text) in list.iter().flatten().enumerate() {
                    c_string(text, &format!("hooks.{kind}[{index}].{name}[{place}]"))?;
                }
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(Refusal::new(field("timeout"), "is not a positive number of seconds"));
            }
        }
    }
    Ok(hooks)
}

fn path_list(paths: Option<&[String]>, field: &str) -> Result<Vec<CString>, Refusal> {
    let check = |(index, path): (usize, &String)| {
        if !path.starts_with('/') {
            return Err(Refusal::new(format!("{field}[{index}]"), format!("{path:?} is not an absolute path")));
        }
        c_string(path, &format!("{field}[{index}]"))
    };
    let list: Vec<CString> = paths.unwrap_or_default().iter().enumerate().map(check).collect::<Result<_, _>>()?;
    let mut known = HashSet::new();
    Ok(list.iter().filter(|path| known.insert(*path)).cloned().collect())
}

/// The kernel's form of a string from the configuration.
pub(crate) fn c_string(text: impl AsRef<[u8]>, field: &str) -> Result<CString, Refusal> {
    CString::new(text.as_ref()).map_err(|_| Refusal::new(field, "holds a NUL byte"))
}
