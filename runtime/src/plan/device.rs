//! `linux.devices` and the default devices (runtime-spec, config-linux.md#default-devices).

use super::{Refusal, c_string};
use std::ffi::CString;
use wharf_specs::oci::{Linux, LinuxDeviceType};
use wharf_sys::fs;

/// A node to be made in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute path in the container.
    pub path: CString,
    /// `S_IF*` type and permission bits.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Path, major and minor number of the devices every container has.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Permission bits where the configuration gives none.
const DEFAULT_MODE: u32 = 0o666;

pub(super) fn compile_all(linux: &Linux) -> Result<Vec<Device>, Refusal> {
    let mut devices = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let field = |name| format!("linux.devices[{index}].{name}");
        let path = device.path();
        if !path.is_absolute() {
            return Err(Refusal::new(field("path"), format!("{path:?} is not an absolute path")));
        }
        let kind = match device.typ() {
            LinuxDeviceType::B => fs::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => fs::S_IFCHR,
            LinuxDeviceType::P => fs::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Refusal::new(field("type"), "\"a\" is not a device; allowed: b, c, u, p"));
            }
        };
        let number = |name, value: i64| {
            u32::try_from(value).map_err(|_| Refusal::new(field(name), format!("{value} is not a device number")))
        };
        devices.push(Device {
            path: c_string(path.as_os_str().as_encoded_bytes(), &field("path"))?,
            mode: kind | device.file_mode().unwrap_or(DEFAULT_MODE) & 0o7777,
            major: number("major", device.major())?,
            minor: number("minor", device.minor())?,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    for (path, major, minor) in DEFAULT_DEVICES {
        if devices.iter().all(|device| device.path.as_bytes() != path.as_bytes()) {
            let path = c_string(path, "linux.devices")?;
            devices.push(Device { path, mode: fs::S_IFCHR | DEFAULT_MODE, major, minor, uid: 0, gid: 0 });
        }
    }
    Ok(devices)
}
