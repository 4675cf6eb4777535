//! Capability names and numbers, and which of them this process can give away.

use wharf_specs::oci::Capability;
use wharf_sys::credential;

/// All capabilities by number (`linux/capability.h`).
pub const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The bit of a capability in the kernel's sets.
pub fn bit(capability: Capability) -> u64 {
    let number = ALL.iter().position(|known| *known == capability).expect("ALL lists every capability");
    1 << number
}

/// The name in `config.json`, such as `CAP_CHOWN`.
pub fn name(capability: Capability) -> String {
    format!("CAP_{capability}")
}

/// Highest capability number this kernel knows.
pub fn last() -> u8 {
    (0..64).take_while(|number| credential::bounding_has(*number).is_ok()).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_kernels_numbers() {
        assert_eq!(bit(Capability::Chown), 1);
        assert_eq!(bit(Capability::SysAdmin), 1 << 21);
        assert_eq!(bit(Capability::CheckpointRestore), 1 << 40);
        assert_eq!(name(Capability::NetBindService), "CAP_NET_BIND_SERVICE");
    }
}
