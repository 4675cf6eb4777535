//! AppArmor profiles of the node: a container runs under one that the kernel has, or is not made.

use std::fs;
use std::io;

use crate::pod::error::{PodError, Result};

const FIELD: &str = "config.linux.security_context.apparmor";

/// Every profile that the kernel has, a line each: `NAME (MODE)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Refuses a profile that the kernel has not loaded. Where it does not say which it has (securityfs is not mounted), the
/// start of the container fails instead.
pub(super) fn check(profile: Option<&str>) -> Result<()> {
    let Some(profile) = profile else { return Ok(()) };
    if !wharf_runtime::label::apparmor_enabled() {
        return Err(PodError::invalid(FIELD, format!("profile {profile:?}: AppArmor is not enabled on this node")));
    }
    match fs::read_to_string(PROFILES) {
        Ok(text) if !is_listed(&text, profile) => {
            let reason = format!("profile {profile:?} is not loaded on this node: apparmor_parser loads it");
            Err(PodError::invalid(FIELD, reason))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PodError::internal(format!("read {PROFILES}"), error))
        }
        _ => Ok(()),
    }
}

fn is_listed(profiles: &str, name: &str) -> bool {
    // A name may have spaces and parentheses in it; a mode has neither.
    profiles.lines().filter_map(|line| line.rsplit_once(" (")).any(|(listed, _)| listed == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let text = "nvidia_modprobe//kmod (enforce)\na (b) (complain)\nplain (enforce)\n";
        for (name, listed) in [
            ("plain", true),
            ("a (b)", true),
            ("nvidia_modprobe//kmod", true),
            ("plai", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(is_listed(text, name), listed, "{name:?}");
        }
    }
}
