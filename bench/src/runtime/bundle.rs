//! The container that all run: docker's default, with busybox' `true` or `sleep`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use wharf_runtime::seccomp::FilterSource;

const BUSYBOX: &str = "/bin/busybox";
/// Of the package golang-github-containers-common, which podman brings: docker's default profile, with conditions.
const PROFILE: &str = "/usr/share/containers/seccomp.json";
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// Who runs [`ROOTLESS`]: nobody.
pub(super) const USER: u32 = 65_534;
/// Name of the bundle whose program is `true`, for [`USER`].
pub(super) const ROOTLESS: &str = "rootless";

/// A bundle for each of the programs, and what the floor wants of the same container.
pub(super) struct Bundles {
    folder: TempDir,
    /// In memory, as /run is where runtimes keep their states.
    states: TempDir,
}

impl Bundles {
    /// `limits`: of memory, processor and processes, where the hierarchy has the controllers.
    pub(super) fn make(limits: bool) -> anyhow::Result<Self> {
        let this = Self { folder: tempfile::tempdir()?, states: tempfile::tempdir_in("/dev/shm")? };
        let rootfs = this.rootfs();
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox")).with_context(|| format!("{BUSYBOX}, of busybox-static"))?;
        for applet in ["true", "sleep"] {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        let seccomp = seccomp().with_context(|| format!("{PROFILE}, which podman's package brings"))?;
        let profile = serde_json::from_value(seccomp.clone())?;
        let program = FilterSource::compile(&profile).map_err(anyhow::Error::msg)?.program(None)?;
        let bytes: Vec<u8> = program.iter().flat_map(|instruction| instruction.to_bytes()).collect();
        fs::write(this.filter(), bytes)?;
        for (name, arguments) in [("true", json!(["/bin/true"])), ("sleep", json!(["/bin/sleep", "1000000"]))] {
            let bundle = this.bundle(name);
            fs::create_dir(&bundle)?;
            let config = configuration(&rootfs, &arguments, &seccomp, limits);
            fs::write(bundle.join("config.json"), config.to_string())?;
        }
        let bundle = this.bundle(ROOTLESS);
        fs::create_dir(&bundle)?;
        let config = configuration(&rootfs, &json!(["/bin/true"]), &seccomp, limits);
        fs::write(bundle.join("config.json"), rootless(config).to_string())?;
        for folder in [this.folder.path(), this.states.path()] {
            fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        }
        fs::create_dir(this.states.path().join(ROOTLESS))?;
        chown(this.states.path().join(ROOTLESS), Some(USER), Some(USER))?;
        Ok(this)
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    /// The seccomp program as the kernel takes it.
    pub(super) fn filter(&self) -> PathBuf {
        self.folder.path().join("filter")
    }

    /// The bundle whose program is `/bin/NAME`.
    pub(super) fn bundle(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A runtime's own folder of states.
    pub(super) fn state(&self, runtime: &str) -> PathBuf {
        self.states.path().join(runtime)
    }

    /// The same where [`USER`] calls it.
    pub(super) fn state_of_user(&self, runtime: &str) -> PathBuf {
        self.states.path().join(ROOTLESS).join(runtime)
    }
}

/// The profile with its conditions decided: the entries that docker gives a container without further capabilities.
fn seccomp() -> anyhow::Result<Value> {
    let profile: Value = serde_json::from_slice(&fs::read(PROFILE)?)?;
    let names = |entry: &Value, pointer: &str| -> Vec<String> {
        let list = entry.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let has = |capability: &String| CAPABILITIES.contains(&capability.as_str());
    let applies = |entry: &&Value| {
        let arches = names(entry, "/includes/arches");
        names(entry, "/includes/caps").iter().all(has)
            && !names(entry, "/excludes/caps").iter().any(has)
            && (arches.is_empty() || arches.iter().any(|arch| arch == "amd64"))
            && !names(entry, "/excludes/arches").iter().any(|arch| arch == "amd64")
    };
    let syscalls = profile["syscalls"].as_array().context("no syscalls")?.iter().filter(applies).map(|entry| {
        let mut entry = entry.clone();
        if let Some(fields) = entry.as_object_mut() {
            fields.retain(|name, value| {
                matches!(name.as_str(), "names" | "action" | "args" | "errnoRet") && !value.is_null()
            });
        }
        entry
    });
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls.collect::<Vec<_>>(),
    }))
}

/// As [`USER`] may have it: its root is the user, there are no limits and no other ids.
fn rootless(mut config: Value) -> Value {
    let mapping = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    let linux = &mut config["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = mapping.clone();
    linux["gidMappings"] = mapping;
    linux["resources"] = json!({});
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
    config
}

fn configuration(rootfs: &Path, arguments: &Value, seccomp: &Value, limits: bool) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({"type": kind})).collect();
    let devices = json!([{"allow": false, "access": "rwm"}]);
    let resources = if limits {
        json!({
            "devices": devices,
            "memory": {"limit": 536_870_912},
            "cpu": {"shares": 1024, "quota": 100_000, "period": 100_000},
            "pids": {"limit": 1024},
        })
    } else {
        json!({"devices": devices})
    };
    json!({
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": {"path": rootfs, "readonly": false},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": arguments,
            "env": ["PATH=/bin"],
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "oomScoreAdj": 0,
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": resources,
            "seccomp": seccomp,
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
