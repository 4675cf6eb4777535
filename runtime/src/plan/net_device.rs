//! `linux.netDevices` (runtime-spec, config-linux.md#network-devices).

use super::{Namespaces, Refusal, c_string};
use std::ffi::CString;
use wharf_specs::oci::{Linux, LinuxNamespaceType};

/// Longest name of a device, in bytes (`IFNAMSIZ` without the NUL).
const MAX_NAME_BYTES: usize = 15;

/// A network device of the host that becomes the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    pub host_name: CString,
    /// Its name in the container.
    pub name: CString,
}

pub(super) fn compile_all(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<NetDevice>, Refusal> {
    let Some(given) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else {
        return Ok(Vec::new());
    };
    if !namespaces.separate(LinuxNamespaceType::Network) {
        let problem = "is given, but linux.namespaces has no network namespace for the devices to be moved to";
        return Err(Refusal::new("linux.netDevices", problem));
    }
    let mut devices: Vec<NetDevice> = Vec::new();
    let mut sorted: Vec<_> = given.iter().collect();
    sorted.sort_by_key(|(host_name, _)| *host_name);
    for (host_name, device) in sorted {
        let field = format!("linux.netDevices.{host_name}");
        let name = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host_name);
        check(host_name, &field)?;
        check(name, &format!("{field}.name"))?;
        let name = c_string(name, &field)?;
        if let Some(other) = devices.iter().find(|other| other.name == name) {
            let problem =
                format!("{name:?} is the name of {:?} in the container as well", other.host_name.to_string_lossy());
            return Err(Refusal::new(format!("{field}.name"), problem));
        }
        devices.push(NetDevice { host_name: c_string(host_name, &field)?, name });
    }
    Ok(devices)
}

/// As the kernel has it: `dev_valid_name`; a percent sign would be a pattern to it.
fn check(name: &str, field: &str) -> Result<(), Refusal> {
    let wrong = |c: char| c == '/' || c == ':' || c == '%' || c.is_ascii_whitespace() || c.is_ascii_control();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name == "." || name == ".." || name.contains(wrong) {
        let allowed = "1 to 15 bytes without '/', ':', '%' and blanks";
        return Err(Refusal::new(field, format!("{name:?} is not the name of a network device; allowed: {allowed}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_specs::oci;

    fn compile(devices: &str, namespace: &str) -> Result<Vec<NetDevice>, Refusal> {
        let json = format!(r#"{{"namespaces":[{{"type":"{namespace}"}}],"netDevices":{devices}}}"#);
        let linux: oci::Linux = serde_json::from_str(&json).expect("parse");
        compile_all(&linux, &Namespaces::compile(&linux).expect("namespaces"))
    }

    #[test]
    fn devices_keep_their_names_unless_given_another() {
        let devices = compile(r#"{"eth1":{"name":"net0"},"eth0":{}}"#, "network").expect("compile");
        let names: Vec<_> = devices.iter().map(|d| (d.host_name.to_str().unwrap(), d.name.to_str().unwrap())).collect();
        assert_eq!(names, [("eth0", "eth0"), ("eth1", "net0")]);
    }

    #[test]
    fn what_the_kernel_would_not_take_is_refused() {
        for (devices, field) in [
            (r#"{"a b":{}}"#, "linux.netDevices.a b"),
            (r#"{"eth0":{"name":"sixteen-bytes-ab"}}"#, "linux.netDevices.eth0.name"),
            (r#"{"eth0":{"name":"e%d"}}"#, "linux.netDevices.eth0.name"),
            (r#"{"eth0":{},"eth1":{"name":"eth0"}}"#, "linux.netDevices.eth1.name"),
        ] {
            assert_eq!(compile(devices, "network").expect_err(devices).field, field);
        }
        assert_eq!(compile(r#"{"eth0":{}}"#, "uts").expect_err("no namespace").field, "linux.netDevices");
    }
}
