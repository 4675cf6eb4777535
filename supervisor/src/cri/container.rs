//! Containers: the wire's messages from and to the engine's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_specs::cri;

use super::status::{invalid, unsupported};
use super::{mount, resources, sandbox, signal};
use crate::pod::spec::{ContainerConfig, Device, SandboxConfig, Seccomp, Security};
use crate::pod::status::{ContainerState, ContainerStatus};
use crate::pod::{PodError, Result};

pub(super) fn config(wire: Option<cri::ContainerConfig>, pod: &SandboxConfig) -> Result<ContainerConfig> {
    let wire = wire.ok_or_else(|| invalid("config", "is missing"))?;
    if wire.windows.is_some() {
        return Err(unsupported("config.windows"));
    }
    let stop_signal = signal::name(wire.stop_signal());
    let metadata = wire.metadata.ok_or_else(|| invalid("config.metadata", "is missing"))?;
    let image = wire.image.ok_or_else(|| invalid("config.image", "is missing"))?;
    let linux = wire.linux.unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let mount = |(index, wire)| mount::config(index, wire, pod);
    let user_image = mount::image_name(&image);
    Ok(ContainerConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        image: image.image,
        user_image,
        command: wire.command,
        args: wire.args,
        working_dir: wire.working_dir,
        env: wire.envs.into_iter().enumerate().map(variable).collect::<Result<_>>()?,
        mounts: wire.mounts.into_iter().enumerate().map(mount).collect::<Result<_>>()?,
        devices: wire.devices.into_iter().map(device).collect(),
        labels: wire.labels.into_iter().collect(),
        annotations: wire.annotations.into_iter().collect(),
        log_path: Some(wire.log_path).filter(|path| !path.is_empty()).map(PathBuf::from),
        stdin: wire.stdin,
        stdin_once: wire.stdin_once,
        tty: wire.tty,
        resources: resources::resources(linux.resources, "config.linux.resources")?,
        pid_of: pid_of(&context)?,
        security: security(context, pod)?,
        cdi_devices: wire.cdi_devices.into_iter().map(|device| device.name).collect(),
        stop_signal,
    })
}

fn variable((index, wire): (usize, cri::KeyValue)) -> Result<(String, String)> {
    let field = |name: &str| format!("config.envs[{index}].{name}");
    if wire.key.is_empty() || wire.key.contains(['=', '\0']) {
        return Err(invalid(field("key"), format!("{:?} is no name of a variable", wire.key)));
    }
    let value = String::from_utf8(wire.value).map_err(|_| invalid(field("value"), "is not UTF-8"))?;
    if value.contains('\0') {
        return Err(invalid(field("value"), "has a NUL in it"));
    }
    Ok((wire.key, value))
}

fn device(wire: cri::Device) -> Device {
    Device {
        container_path: wire.container_path.into(),
        host_path: wire.host_path.into(),
        permissions: wire.permissions,
    }
}

const SECURITY: &str = "config.linux.security_context";

/// Before the name of a profile of the node's, in fields that also name others.
const LOCALHOST: &str = "localhost/";

/// The kernel's attribute takes a page at most.
const APPARMOR_NAME_BYTES_MAX: usize = 1024;

fn security(wire: cri::LinuxContainerSecurityContext, pod: &SandboxConfig) -> Result<Security> {
    let field = |name: &str| format!("{SECURITY}.{name}");
    let only_named_groups = wire.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict;
    if wire.selinux_options.as_ref().is_some_and(|options| *options != cri::SeLinuxOption::default()) {
        return Err(unsupported(field("selinux_options")));
    }
    check_namespaces(&wire, pod)?;
    let (seccomp, apparmor) = (seccomp(&wire)?, apparmor(&wire)?);
    let capabilities = wire.capabilities.unwrap_or_default();
    if wire.run_as_group.is_some() && wire.run_as_user.is_none() && wire.run_as_username.is_empty() {
        let reason = "needs run_as_user or run_as_username";
        return Err(invalid(field("run_as_group"), reason));
    }
    let id = |name: &str, value: i64| {
        u32::try_from(value).map_err(|_| invalid(field(name), format!("{value} is no 32-bit id")))
    };
    let groups = wire.supplemental_groups.iter().map(|group| id("supplemental_groups", *group));
    // An empty list means the defaults to the kubelet, which sends its own list otherwise.
    let paths = |paths: Vec<String>| Some(paths).filter(|paths| !paths.is_empty());
    Ok(Security {
        privileged: wire.privileged,
        run_as_user: wire.run_as_user.map(|uid| id("run_as_user", uid.value)).transpose()?,
        run_as_username: wire.run_as_username,
        run_as_group: wire.run_as_group.map(|gid| id("run_as_group", gid.value)).transpose()?,
        supplemental_groups: groups.collect::<Result<_>>()?,
        only_named_groups,
        add_capabilities: capabilities.add_capabilities,
        ambient_capabilities: capabilities.add_ambient_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        readonly_rootfs: wire.readonly_rootfs,
        no_new_privs: wire.no_new_privs,
        seccomp,
        apparmor,
        masked_paths: paths(wire.masked_paths),
        readonly_paths: paths(wire.readonly_paths),
    })
}

/// The container whose PID namespace is asked for.
fn pid_of(wire: &cri::LinuxContainerSecurityContext) -> Result<Option<String>> {
    let Some(options) = &wire.namespace_options else { return Ok(None) };
    let field = format!("{SECURITY}.namespace_options.target_id");
    match (options.pid() == cri::NamespaceMode::Target, options.target_id.is_empty()) {
        (true, false) => Ok(Some(options.target_id.clone())),
        (true, true) => Err(invalid(field, "is empty, but pid is TARGET")),
        (false, false) => Err(invalid(field, "is given, but pid is not TARGET")),
        (false, true) => Ok(None),
    }
}

/// Namespaces are the pod's; a container that asks for others than its pod has would not get them.
fn check_namespaces(wire: &cri::LinuxContainerSecurityContext, pod: &SandboxConfig) -> Result<()> {
    let Some(options) = wire.namespace_options.clone() else { return Ok(()) };
    let field = format!("{SECURITY}.namespace_options");
    let targeted = options.pid() == cri::NamespaceMode::Target;
    // A container that shares another's PID namespace says nothing of the pod's.
    let options = if targeted { cri::NamespaceOption { pid: sandbox::pid(pod).into(), ..options } } else { options };
    let asked = sandbox::namespaces(Some(options), &field)?;
    let differs = [
        ("network", asked.host_network != pod.host_network),
        ("ipc", asked.host_ipc != pod.host_ipc),
        ("pid", asked.pid != pod.pid),
        ("userns_options", asked.user_namespace != pod.user_namespace),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((name, _)) => Err(invalid(format!("{field}.{name}"), "is not the pod sandbox's")),
        None => Ok(()),
    }
}

/// The profile that is asked for by name. The node has none of its own: the runtime's default is none.
fn apparmor(wire: &cri::LinuxContainerSecurityContext) -> Result<Option<String>> {
    use cri::security_profile::ProfileType;
    #[allow(deprecated)]
    let (path, field) = match (&wire.apparmor, wire.apparmor_profile.as_str()) {
        (Some(profile), _) if profile.profile_type() == ProfileType::Localhost => {
            (profile.localhost_ref.as_str(), "apparmor.localhost_ref")
        }
        (Some(_), _) | (None, "" | "runtime/default" | "unconfined") => return Ok(None),
        (None, old) if old.starts_with(LOCALHOST) => (old, "apparmor_profile"),
        (None, old) => {
            let reason = format!("{old:?} is neither runtime/default, unconfined nor localhost/NAME");
            return Err(invalid(format!("{SECURITY}.apparmor_profile"), reason));
        }
    };
    let name = path.strip_prefix(LOCALHOST).unwrap_or(path);
    if name.is_empty() || name.len() > APPARMOR_NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(invalid(format!("{SECURITY}.{field}"), format!("{name:?} is no name of a profile")));
    }
    Ok(Some(name.into()))
}

fn seccomp(wire: &cri::LinuxContainerSecurityContext) -> Result<Seccomp> {
    use cri::security_profile::ProfileType;
    if let Some(profile) = &wire.seccomp {
        return match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
            ProfileType::Unconfined => Ok(Seccomp::Unconfined),
            ProfileType::Localhost => localhost_profile(&profile.localhost_ref, "seccomp.localhost_ref"),
        };
    }
    #[allow(deprecated)]
    match wire.seccomp_profile_path.as_str() {
        "" | "unconfined" => Ok(Seccomp::Unconfined),
        "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
        path => localhost_profile(path, "seccomp_profile_path"),
    }
}

fn localhost_profile(path: &str, name: &str) -> Result<Seccomp> {
    let plain = PathBuf::from(path.strip_prefix(LOCALHOST).unwrap_or(path));
    if !plain.is_absolute() {
        return Err(invalid(format!("{SECURITY}.{name}"), format!("{path:?} is no absolute path")));
    }
    Ok(Seccomp::Localhost(plain))
}

pub(super) fn state(state: ContainerState) -> cri::ContainerState {
    match state {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    }
}

pub(super) fn metadata(config: &ContainerConfig) -> cri::ContainerMetadata {
    cri::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }
}

fn image_spec(config: &ContainerConfig) -> cri::ImageSpec {
    cri::ImageSpec {
        image: config.image.clone(),
        user_specified_image: config.user_image.clone(),
        ..Default::default()
    }
}

pub(super) fn listed(status: &ContainerStatus) -> cri::Container {
    cri::Container {
        id: status.id.clone(),
        pod_sandbox_id: status.sandbox.clone(),
        metadata: Some(metadata(&status.config)),
        image: Some(image_spec(&status.config)),
        image_ref: status.image_id.clone(),
        state: state(status.state).into(),
        created_at: status.created_at,
        labels: status.config.labels.clone().into_iter().collect(),
        annotations: status.config.annotations.clone().into_iter().collect(),
        image_id: status.image_id.clone(),
    }
}

pub(super) fn status(status: &ContainerStatus) -> cri::ContainerStatus {
    let config = &status.config;
    let user = &status.user;
    cri::ContainerStatus {
        id: status.id.clone(),
        metadata: Some(metadata(config)),
        state: state(status.state).into(),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        image: Some(image_spec(config)),
        image_ref: status.image_id.clone(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        mounts: config.mounts.iter().map(mount::status).collect(),
        log_path: status.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(cri::ContainerResources { linux: Some(resources::wire(&config.resources)), windows: None }),
        image_id: status.image_id.clone(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
        stop_signal: signal::from_number(status.stop_signal).into(),
    }
}

/// What `crictl inspect` shows beyond the protocol's fields.
pub(super) async fn verbose(status: &ContainerStatus, bundle: &Path) -> Result<HashMap<String, String>> {
    let path = bundle.join("config.json");
    let text =
        tokio::fs::read(&path).await.map_err(|error| PodError::internal(format!("read {}", path.display()), error))?;
    let spec: Value =
        serde_json::from_slice(&text).map_err(|error| PodError::internal(format!("read {}", path.display()), error))?;
    let info = json!({
        "sandboxID": status.sandbox, "pid": status.pid, "config": status.config, "runtimeSpec": spec,
    });
    Ok([("info".to_string(), info.to_string())].into())
}

pub(super) fn matches(status: &ContainerStatus, filter: &cri::ContainerFilter) -> bool {
    status.id.starts_with(&filter.id)
        && status.sandbox.starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state() == state(status.state))
        && sandbox::has_labels(&status.config.labels, &filter.label_selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> SandboxConfig {
        let metadata = cri::PodSandboxMetadata { name: "a".into(), namespace: "b".into(), ..Default::default() };
        let wire = cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
        sandbox::config(Some(wire), String::new()).unwrap()
    }

    fn wire() -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: "i".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn with_security(security: cri::LinuxContainerSecurityContext) -> Result<ContainerConfig> {
        let linux = cri::LinuxContainerConfig { security_context: Some(security), resources: None };
        config(Some(cri::ContainerConfig { linux: Some(linux), ..wire() }), &pod())
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let refused = |mount: cri::Mount| {
            config(Some(cri::ContainerConfig { mounts: vec![mount], ..wire() }), &pod()).unwrap_err().to_string()
        };
        let mount = cri::Mount { mount_options: vec!["noexec".into(), "exec".into()], ..Default::default() };
        assert_eq!(refused(mount), "config.mounts[0].mount_options[1]: \"exec\" is none of noexec, nodev, nosuid");
        let mount = cri::Mount { recursive_read_only: true, ..Default::default() };
        let expected = "config.mounts[0].recursive_read_only: needs readonly and the propagation PRIVATE";
        assert_eq!(refused(mount), expected);
        let ids = vec![cri::IdMapping { host_id: 100_000, container_id: 0, length: 1000 }];
        let mount = cri::Mount { uid_mappings: ids.clone(), ..Default::default() };
        assert_eq!(refused(mount), "config.mounts[0].gidMappings: are missing beside uidMappings");
        let mount = cri::Mount { uid_mappings: ids.clone(), gid_mappings: ids, ..Default::default() };
        assert_eq!(refused(mount), "config.mounts[0].uidMappings: need a pod with a user namespace");
        let options = cri::NamespaceOption { pid: cri::NamespaceMode::Target.into(), ..Default::default() };
        let security = cri::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        let error = with_security(security).unwrap_err().to_string();
        assert!(error.starts_with("config.linux.security_context.namespace_options.target_id: is empty"), "{error}");
        let security = cri::LinuxContainerSecurityContext {
            run_as_group: Some(cri::Int64Value { value: 7 }),
            ..Default::default()
        };
        assert!(with_security(security).is_err());
        let security = cri::LinuxContainerSecurityContext {
            run_as_user: Some(cri::Int64Value { value: 1 << 32 }),
            ..Default::default()
        };
        let error = with_security(security).unwrap_err().to_string();
        assert_eq!(error, "config.linux.security_context.run_as_user: 4294967296 is no 32-bit id");
    }

    #[test]
    fn environment_is_checked() {
        let env = |key: &str, value: &[u8]| variable((0, cri::KeyValue { key: key.into(), value: value.into() }));
        assert_eq!(env("A", b"b=c").unwrap(), ("A".into(), "b=c".into()));
        assert!(env("", b"x").is_err() && env("A=B", b"x").is_err());
        assert!(env("A", b"\xff").is_err() && env("A", b"a\0b").is_err());
    }
}
