//! The kernel's switches for IPv6, beneath `/proc/sys/net/ipv6`: of the network namespace of the calling thread.

use std::fs;
use std::path::Path;

use super::sysctl::sysctl;
use super::{NetworkError, Result};

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Why nobody can have an address of IPv6 on this machine, should that be so.
pub(super) fn obstacle() -> Option<String> {
    if !Path::new(CONF).exists() {
        return Some(format!("this machine's kernel has no IPv6: there is no {CONF}"));
    }
    let off = ["all", "default"].into_iter().find(|name| is_off(name))?;
    Some(format!("IPv6 is switched off on this machine: {CONF}/{off}/disable_ipv6 is 1"))
}

pub(super) fn is_off(interface: &str) -> bool {
    fs::read_to_string(format!("{CONF}/{interface}/disable_ipv6")).map_or(true, |value| value.trim() != "0")
}

/// Takes no routes and no addresses from what somebody on this interface says to be a router: anybody there can.
pub(super) fn ignore_routers(interface: &str) -> Result<()> {
    match Path::new(CONF).join(interface).exists() {
        true => sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "0"),
        false => Ok(()),
    }
}

/// Lets the node forward. One that does so takes no routes from its routers' advertisements any more, and loses those it
/// has, unless its interfaces say otherwise: those that took them go on.
pub(super) fn forward() -> Result<()> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let all = Path::new(CONF).join("all/forwarding");
    if read(&all) == "1" {
        return Ok(());
    }
    let failed = |error: std::io::Error| NetworkError::kernel(format!("read {CONF}"), error);
    for interface in fs::read_dir(CONF).map_err(failed)?.flatten() {
        let name = interface.file_name();
        let is_interface = name != "all" && name != "default";
        if is_interface && read(&interface.path().join("accept_ra")) == "1" {
            // Should it be gone by now, so are its routers.
            let _ = fs::write(interface.path().join("accept_ra"), "2");
        }
    }
    sysctl("net/ipv6/conf/all/forwarding", "1")
}
