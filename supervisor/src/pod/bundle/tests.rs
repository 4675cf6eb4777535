//! Compiling on data: no image store and no root needed.

use super::*;
use crate::pod::spec::{Dns, Mount, Resources, SandboxName, Security};

pub(super) fn sandbox() -> SandboxConfig {
    SandboxConfig {
        name: SandboxName { name: "web".into(), namespace: "default".into(), uid: "u".into(), attempt: 0 },
        hostname: String::new(),
        log_directory: None,
        dns: Dns::default(),
        ports: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        host_aliases: Vec::new(),
        full_name: None,
        host_network: false,
        host_ipc: false,
        pid: PidMode::Container,
        user_namespace: None,
        sysctls: Default::default(),
        cgroup_parent: None,
        qos_class: None,
        limits: Default::default(),
        runtime_handler: String::new(),
        privileged: false,
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        name: "main".into(),
        attempt: 0,
        image: "busybox".into(),
        user_image: "busybox".into(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        env: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: Resources::default(),
        security: Security::default(),
        pid_of: None,
        cdi_devices: Vec::new(),
        stop_signal: None,
    }
}

fn image_config(entrypoint: &[&str], cmd: &[&str]) -> wharf_images::ImageConfig {
    let owned = |list: &[&str]| list.iter().map(|word| word.to_string()).collect();
    wharf_images::ImageConfig { entrypoint: owned(entrypoint), cmd: owned(cmd), ..Default::default() }
}

#[test]
fn command_replaces_entrypoint_and_cmd_args_replace_cmd() {
    let image = image_config(&["/entry"], &["default"]);
    let with = |command: &[&str], args: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|word| word.to_string()).collect();
        let config = ContainerConfig { command: owned(command), args: owned(args), ..container() };
        process::arguments(&config, &image).unwrap()
    };
    assert_eq!(with(&[], &[]), ["/entry", "default"]);
    assert_eq!(with(&[], &["other"]), ["/entry", "other"]);
    assert_eq!(with(&["sh"], &[]), ["sh"]);
    assert_eq!(with(&["sh"], &["-c", "x"]), ["sh", "-c", "x"]);
}

#[test]
fn no_command_anywhere_is_refused_by_field() {
    let error = process::arguments(&container(), &image_config(&[], &[])).unwrap_err();
    assert_eq!(error.to_string(), "config.command: is empty, and the image names no command");
}

#[test]
fn privileged_needs_a_privileged_sandbox() {
    let security = Security { privileged: true, ..Security::default() };
    let config = ContainerConfig { security, ..container() };
    assert!(check(&config, &sandbox()).is_err());
    assert!(check(&config, &SandboxConfig { privileged: true, ..sandbox() }).is_ok());
}

#[test]
fn root_propagation_follows_the_widest_mount() {
    let mount = |propagation| Mount {
        container_path: "/a".into(),
        host_path: "/b".into(),
        readonly: false,
        recursive_readonly: false,
        propagation,
        denied: Vec::new(),
        ids: None,
        image: None,
    };
    let with = |mounts| root_propagation(&ContainerConfig { mounts, ..container() });
    assert_eq!(with(vec![]), "rprivate");
    assert_eq!(with(vec![mount(Propagation::HostToContainer)]), "rslave");
    assert_eq!(with(vec![mount(Propagation::HostToContainer), mount(Propagation::Bidirectional)]), "rshared");
}

#[test]
fn mounts_with_dots_or_over_the_root_are_refused() {
    for (container_path, host_path) in [("a", "/b"), ("/a/../..", "/b"), ("/", "/b"), ("/a", "b")] {
        let mount = Mount {
            container_path: container_path.into(),
            host_path: host_path.into(),
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
            denied: Vec::new(),
            ids: None,
            image: None,
        };
        assert!(mounts::check(&[mount], "").is_err(), "{container_path} {host_path}");
    }
}
