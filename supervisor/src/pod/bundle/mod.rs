//! From a container's configuration and its image's to the OCI `config.json` that the shim executes.
//!
//! What comes from an image (environment, command, user, volumes) is data here: it names nothing on the node.
//! Namespaces that the pod shares are left out; the shim puts its own in.

mod apparmor;
mod capabilities;
mod cdi;
mod devices;
mod mounts;
mod process;
mod resources;
mod seccomp_default;
mod signal;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use wharf_images::{Image, RootFs, Store};

use super::cgroup;
use super::error::{PodError, Result, chain};
use super::record::ContainerUser;
use super::spec::{ContainerConfig, IdMapping, PidMode, Propagation, SandboxConfig, Seccomp};
pub(crate) use resources::linux_resources;
pub(crate) use signal::parse_signal;

/// Everything a bundle is made from.
pub(crate) struct Input {
    pub(crate) id: String,
    pub(crate) sandbox: SandboxConfig,
    /// Where the pod's `hosts`, `hostname`, `resolv.conf` and `shm` are.
    pub(crate) pod_directory: PathBuf,
    /// `linux.cgroupsPath`, in the form of the node's driver.
    pub(crate) cgroups_path: String,
    pub(crate) store: Store,
    /// With vendors' files of devices.
    pub(crate) cdi_folders: Vec<PathBuf>,
    pub(crate) config: ContainerConfig,
}

/// What came out, and what the record of the container needs.
pub(crate) struct Bundle {
    pub(crate) spec: Spec,
    pub(crate) rootfs: RootFs,
    pub(crate) image_id: String,
    pub(crate) user: ContainerUser,
    pub(crate) stop_signal: i32,
}

/// Checks the configuration, prepares the snapshot `input.id` and compiles the bundle. Where it fails after the
/// snapshot was made, the caller removes it.
pub(crate) async fn build(input: Input) -> Result<Bundle> {
    // Reads the image's account files, and the snapshot's directories are made on a real disk.
    tokio::task::spawn_blocking(move || build_blocking(&input))
        .await
        .map_err(|error| PodError::internal("build bundle", error))?
}

fn build_blocking(input: &Input) -> Result<Bundle> {
    let config = &input.config;
    check(config, &input.sandbox)?;
    let image_error = |reason: String| PodError::Image { image: config.image.clone(), reason };
    let image = input
        .store
        .resolve(&config.image)
        .map_err(|error| image_error(chain(&error)))?
        .ok_or_else(|| PodError::NotFound { what: "image", id: config.image.clone() })?;
    let stop_signal = stop_signal(config, &image)?;
    // Before the snapshot is made: refusals leave nothing.
    process::arguments(config, &image.config)?;
    apparmor::check(config.security.apparmor.as_deref())?;
    let edits = cdi::edits(&config.cdi_devices, &input.cdi_folders)?;
    let rootfs = input.store.prepare(&input.id, &image).map_err(|error| image_error(chain(&error)))?;
    give_to_root(input, &rootfs)?;
    let (spec, user) = compile(input, &image, &rootfs, &edits)?;
    Ok(Bundle { spec, rootfs, image_id: image.id.to_string(), user, stop_signal })
}

/// In a pod with a user namespace the writable layer belongs to its root: two directories, which are empty yet. The layers
/// of the image stay as they are; their ids are mapped where they are mounted.
fn give_to_root(input: &Input, rootfs: &RootFs) -> Result<()> {
    let Some(users) = &input.sandbox.user_namespace else { return Ok(()) };
    let Some(overlay) = rootfs.overlay() else {
        let reason = "needs overlayfs, which cannot be used in the file system of the node's images";
        return Err(PodError::invalid("config.linux.security_context.namespace_options.userns_options", reason));
    };
    let root = |map: &[IdMapping]| map.iter().find_map(|mapping| mapping.host_id(0));
    for directory in [&overlay.upper, &overlay.work] {
        std::os::unix::fs::lchown(directory, root(&users.uids), root(&users.gids))
            .map_err(|error| PodError::internal(format!("give {} to the pod's root", directory.display()), error))?;
    }
    Ok(())
}

/// In the form of `config.json`.
fn id_mappings(map: &[IdMapping]) -> Value {
    let entry = |one: &IdMapping| json!({"containerID": one.container, "hostID": one.host, "size": one.length});
    map.iter().map(entry).collect()
}

fn stop_signal(config: &ContainerConfig, image: &Image) -> Result<i32> {
    match (config.stop_signal.as_deref(), image.config.stop_signal.as_str()) {
        (Some(name), _) => {
            parse_signal(name).ok_or_else(|| PodError::invalid("config.stop_signal", format!("{name:?} is no signal")))
        }
        (None, "") => Ok(signal::SIGTERM),
        // An image with a wrong signal stops as if it had none.
        (None, name) => Ok(parse_signal(name).unwrap_or(signal::SIGTERM)),
    }
}

fn check(config: &ContainerConfig, sandbox: &SandboxConfig) -> Result<()> {
    if config.name.is_empty() {
        return Err(PodError::invalid("config.metadata.name", "is empty"));
    }
    if config.image.is_empty() {
        return Err(PodError::invalid("config.image.image", "is empty"));
    }
    if config.security.privileged && !sandbox.privileged {
        let reason = "is set, but the pod sandbox is not privileged";
        return Err(PodError::invalid("config.linux.security_context.privileged", reason));
    }
    mounts::check(&config.mounts, &sandbox.runtime_handler)
}

fn compile(
    input: &Input,
    image: &Image,
    rootfs: &RootFs,
    edits: &[wharf_specs::cdi::Edits],
) -> Result<(Spec, ContainerUser)> {
    let config = &input.config;
    let security = &config.security;
    let node = capabilities::node_bounding_set();
    let capabilities = capabilities::granted(security, &node)?;
    let ambient = capabilities::ambient(security, &node)?;
    let (process, mut user) = process::compile(input, image, rootfs, &capabilities, &ambient)?;

    let mut namespaces = vec![json!({"type": "mount"})];
    if input.sandbox.pid == PidMode::Container && config.pid_of.is_none() {
        namespaces.push(json!({"type": "pid"}));
    }
    if cgroup::is_unified() && !security.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let devices = devices::compile(config)?;
    let mut limits = to_value(linux_resources(&config.resources)?)?;
    limits["devices"] = devices.rules;
    let (masked, readonly) = hidden_paths(config);
    let mut linux = json!({
        "namespaces": namespaces,
        "devices": devices.nodes,
        "resources": limits,
        "cgroupsPath": input.cgroups_path,
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        "rootfsPropagation": root_propagation(config),
    });
    if let Some(users) = &input.sandbox.user_namespace {
        linux["uidMappings"] = id_mappings(&users.uids);
        linux["gidMappings"] = id_mappings(&users.gids);
    }
    if let Some(filter) = seccomp(security.privileged, &security.seccomp, &capabilities)? {
        linux["seccomp"] = filter;
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": root_path(rootfs), "readonly": security.readonly_rootfs},
        "mounts": mounts::compile(input)?,
        "linux": linux,
    });
    for edits in edits {
        cdi::apply(edits, &mut spec)?;
        let more: Vec<u32> = edits.additional_gids.iter().copied().filter(|gid| *gid != 0).collect();
        user.groups.extend(more.into_iter().filter(|gid| !user.groups.contains(gid)).collect::<Vec<_>>());
    }
    let spec = serde_json::from_value(spec).map_err(|error| PodError::internal("compile config.json", error))?;
    Ok((spec, user))
}

/// `root.path`. An overlay is mounted in the bundle by the shim, in the container's own mount namespace.
fn root_path(rootfs: &RootFs) -> &Path {
    match rootfs {
        RootFs::Overlay(_) => Path::new("rootfs"),
        RootFs::Copy { root, .. } => root,
    }
}

fn to_value(value: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| PodError::internal("compile config.json", error))
}

/// Kernel interfaces that no container needs and some can misuse.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn hidden_paths(config: &ContainerConfig) -> (Value, Value) {
    let security = &config.security;
    let choose = |asked: &Option<Vec<String>>, default: &[&str]| match asked {
        Some(paths) => json!(paths),
        None if security.privileged => json!([]),
        None => json!(default),
    };
    (choose(&security.masked_paths, &MASKED_PATHS), choose(&security.readonly_paths, &READONLY_PATHS))
}

/// Mounts can only arrive in or leave the container if its root lets them.
fn root_propagation(config: &ContainerConfig) -> &'static str {
    let any = |wanted| config.mounts.iter().any(|mount| mount.propagation == wanted);
    match (any(Propagation::Bidirectional), any(Propagation::HostToContainer)) {
        (true, _) => "rshared",
        (false, true) => "rslave",
        (false, false) => "rprivate",
    }
}

fn seccomp(
    privileged: bool,
    wanted: &Seccomp,
    capabilities: &std::collections::BTreeSet<String>,
) -> Result<Option<Value>> {
    match wanted {
        _ if privileged => Ok(None),
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(seccomp_default::profile(capabilities))),
        Seccomp::Localhost(path) => {
            const FIELD: &str = "config.linux.security_context.seccomp.localhost_ref";
            let refuse = |reason: String| PodError::invalid(FIELD, format!("{}: {reason}", path.display()));
            let text = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
            let profile: oci_spec::runtime::LinuxSeccomp =
                serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
            to_value(profile).map(Some)
        }
    }
}

#[cfg(test)]
mod tests;
