//! What makes systemd in a guest start fast and run the command: a target of its own, and nothing that a throwaway
//! machine without disks does not need.

use crate::{Image, guest};
use anyhow::Result;

const UNITS: &str = "/etc/systemd/system";
/// Work for disks, consoles, logs that last, profiles of other programs, and the first boot of a machine that has a second.
const MASKED: [&str; 27] = [
    "apparmor.service",
    "console-getty.service",
    "getty.target",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-boot-system-token.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-repart.service",
    "systemd-sysusers.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "timers.target",
];
const TARGET: &str = "\
[Unit]
Description=The command of this VM and what it may want
Requires=basic.target
Wants=dbus.socket systemd-logind.service systemd-user-sessions.service wharf-vm.service
After=basic.target
AllowIsolate=yes
";
/// A failure of guest-init, not of the command, ends the VM: QEMU leaves instead of booting again.
const SERVICE: &str = "\
[Unit]
Description=The command of this VM
After=basic.target dbus.socket systemd-logind.service systemd-user-sessions.service
FailureAction=reboot-force

[Service]
ExecStart=/init
StandardOutput=journal+console
StandardError=journal+console
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
LimitMEMLOCK=infinity
";
/// An ordinary user's manager gets every controller, not only systemd's choice of them.
const DELEGATE: &str = "[Service]\nDelegate=yes\n";
/// That the machine has an id says that this is not its first boot.
const MACHINE_ID: &str = "77686172662d766d0000000000000001\n";

/// The hierarchies that systemd mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v2 alone.
    #[default]
    Unified,
    /// v1 with all controllers, v2 for systemd's own tracking.
    Hybrid,
    /// v1 alone.
    Legacy,
}

impl Hierarchy {
    /// What the kernel and systemd must be told of it.
    pub(crate) fn kernel_arguments(self) -> &'static str {
        match self {
            Self::Unified => "cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1",
            Self::Hybrid => {
                "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0 \
                 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
            }
            Self::Legacy => {
                "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 \
                 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
            }
        }
    }
}

/// Adds the units; the command runs in a login session of `user` if one is named.
pub(crate) fn configure(image: &mut Image, user: Option<&str>) -> Result<()> {
    for unit in MASKED {
        image.link(&format!("{UNITS}/{unit}"), "/dev/null")?;
    }
    image.data(&format!("{UNITS}/wharf-vm.target"), TARGET)?;
    image.data(&format!("{UNITS}/wharf-vm.service"), SERVICE)?;
    image.data(&format!("{UNITS}/user@.service.d/delegate.conf"), DELEGATE)?;
    image.link(&format!("{UNITS}/default.target"), "wharf-vm.target")?;
    image.data("/etc/machine-id", MACHINE_ID)?;
    image.data(guest::SYSTEMD, user.unwrap_or_default())
}
