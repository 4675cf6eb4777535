//! Everything that reads what others wrote, as functions of bytes: what the fuzz targets and their smoke test call.
//! None of it may panic or take long, whatever the bytes are. Not part of the interface.

use crate::cgroup::{Cgroup, Layout};
use crate::handshake::Message;
use crate::plan::{self, Plan};
use crate::rootfs::mounts::kernel_file_systems;
use crate::seccomp::FilterSource;
use crate::state::{State, parse_stat};
use std::path::{Component, Path};
use wharf_specs::oci::{self, LinuxSeccomp};
use wharf_specs::shim;

/// `config.json`. True if it was taken.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(parsed) = oci::parse_config(bytes) else { return false };
    Plan::compile(&parsed.value, Path::new("/bundle")).is_ok()
}

/// `process.json` of `exec`.
pub fn process(bytes: &[u8]) -> bool {
    let Ok(parsed) = oci::parse_process(bytes) else { return false };
    plan::Process::compile(&parsed.value, "process", &mut Vec::new()).is_ok()
}

/// Resources of `update`, written to the control files in `directory` as to both versions of cgroups.
pub fn resources(bytes: &[u8], directory: &Path) -> bool {
    let Ok(parsed) = oci::parse_resources(bytes) else { return false };
    let legacy = "cpu,cpuset,memory,pids,blkio,hugetlb,net_cls,net_prio,rdma,devices,freezer";
    let update = |controllers: &str| {
        Cgroup::from_paths([(controllers.to_string(), directory.to_path_buf())]).update(&parsed.value).is_ok()
    };
    // Each refuses what only the other has.
    let taken = [update(""), update(legacy)];
    crate::cgroup::device_rules_compile(&parsed.value) && taken != [false; 2]
}

/// A frame of the handshake. Whatever is understood reads the same after another journey.
pub fn handshake(bytes: &[u8]) -> bool {
    let Some(message) = Message::decode(bytes) else { return false };
    let again = Message::decode(&message.encode());
    // An object that is no text, or too long, is cut: no more than that may be lost.
    assert!(again.is_some_and(|again| std::mem::discriminant(&again) == std::mem::discriminant(&message)));
    true
}

/// `mountinfo`, a NUL, and `/proc/PID/cgroup`: every group must lie below its mount point.
pub fn layout(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let (mounts, groups) = text.split_once('\0').unwrap_or((&text, ""));
    let layout = Layout::parse(mounts, groups);
    kernel_file_systems(mounts);
    let _ = parse_stat(mounts);
    for path in ["/a/../../b", "a/b", "../x"] {
        let cgroup = Cgroup::locate(&layout, Some(Path::new(path)), "id");
        for (_, directory) in cgroup.paths() {
            let below = mounts.contains("..") || directory.components().all(|part| part != Component::ParentDir);
            assert!(below && directory.starts_with("/sys/fs/cgroup"), "{directory:?}");
        }
    }
    layout.unified.is_some() || !layout.legacy.is_empty()
}

/// A seccomp profile, compiled for the kernel.
pub fn seccomp(bytes: &[u8]) -> bool {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else { return false };
    FilterSource::compile(&profile).is_ok_and(|source| source.program(None).is_ok())
}

/// `state.json`.
pub fn state(bytes: &[u8]) -> bool {
    serde_json::from_slice::<State>(bytes).is_ok()
}

/// The body of a frame of the shim's protocol, either way, and what the shim is started with.
pub fn shim(bytes: &[u8]) -> bool {
    let _ = serde_json::from_slice::<shim::SandboxSetup>(bytes);
    let request = serde_json::from_slice::<shim::Request>(bytes);
    request.is_ok() || serde_json::from_slice::<shim::FromShim>(bytes).is_ok()
}
