//! Security labels: AppArmor profiles and SELinux contexts, set for the next exec.

use crate::handshake::{At, Failure, Step};
use crate::plan::Process;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::Path;
use wharf_sys::fs;

/// Why a label cannot be set on this host, if it cannot.
pub(crate) fn unsupported(process: &Process) -> Option<(&'static str, String)> {
    if let Some(profile) = &process.apparmor_profile
        && profile != "unconfined"
        && !apparmor_enabled()
    {
        return Some(("apparmorProfile", format!("{profile:?} cannot be used: AppArmor is not enabled on this host")));
    }
    if let Some(label) = &process.selinux_label
        && !selinux_enabled()
    {
        return Some(("selinuxLabel", format!("{label:?} cannot be used: SELinux is not enabled on this host")));
    }
    None
}

/// Whether the kernel enforces AppArmor profiles.
pub fn apparmor_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the kernel runs SELinux.
pub fn selinux_enabled() -> bool {
    Path::new("/sys/fs/selinux/status").exists()
}

/// Sets the labels that the next exec takes on. Called while `/proc` is still the host's.
pub(crate) fn set_exec_label(process: &Process) -> Result<(), Failure> {
    if let Some(profile) = process.apparmor_profile.as_deref().filter(|_| apparmor_enabled()) {
        let write = || {
            let modern: &CStr = c"/proc/thread-self/attr/apparmor/exec";
            let file = fs::open_at(None, modern, fs::O_WRONLY, 0, 0)
                .or_else(|_| fs::open_at(None, c"/proc/thread-self/attr/exec", fs::O_WRONLY, 0, 0))?;
            fs::write_once(file.as_fd(), format!("exec {profile}").as_bytes())
        };
        write().at(Step::Label, profile)?;
    }
    if let Some(label) = &process.selinux_label {
        let write = || {
            let file = fs::open_at(None, c"/proc/thread-self/attr/exec", fs::O_WRONLY, 0, 0)?;
            fs::write_once(file.as_fd(), label.as_bytes())
        };
        write().at(Step::Label, label)?;
    }
    Ok(())
}
