//! `spec`: the configuration to start from.

use crate::Fault;
use crate::cli::SpecOptions;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use wharf_sys::credential;

pub(crate) fn run(options: &SpecOptions) -> Result<u8, Fault> {
    let directory = options.bundle.as_deref().unwrap_or(Path::new("."));
    let path = directory.join("config.json");
    let mut spec = default();
    if options.rootless {
        make_rootless(&mut spec);
    }
    let mut text = serde_json::to_string_pretty(&spec)?;
    text.push('\n');
    let fail = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::new(format!("file {} exists. Remove it first", path.display())),
        _ => Fault::new(format!("write {}: {error}", path.display())),
    };
    File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(fail)?;
    Ok(0)
}

/// runc's default: a shell on a terminal, three capabilities, six namespaces.
fn default() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: Value| {
        let mut mount = json!({"destination": destination, "type": kind, "source": source});
        if options != json!([]) {
            mount["options"] = options;
        }
        mount
    };
    json!({
        "ociVersion": wharf_runtime::state::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "runc",
        "mounts": [
            mount("/proc", "proc", "proc", json!([])),
            mount("/dev", "tmpfs", "tmpfs", json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            ),
            mount("/dev/shm", "tmpfs", "shm", json!(["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])),
            mount("/dev/mqueue", "mqueue", "mqueue", json!(["nosuid", "noexec", "nodev"])),
            mount("/sys", "sysfs", "sysfs", json!(["nosuid", "noexec", "nodev", "ro"])),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", json!(["nosuid", "noexec", "nodev", "relatime", "ro"])),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// A user namespace that maps the caller, the host's network, and no limits, which need delegation.
fn make_rootless(spec: &mut Value) {
    let mapping = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = mapping(credential::effective_user());
    linux["gidMappings"] = mapping(credential::effective_group());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        for mount in mounts {
            if mount["destination"] == "/dev/pts"
                && let Some(options) = mount["options"].as_array_mut()
            {
                options.retain(|option| option != "gid=5");
            }
            if mount["destination"] == "/sys" {
                // A new sysfs needs a network namespace of one's own.
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            }
        }
    }
}
