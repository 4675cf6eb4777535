//! What the host and `guest-init` agree on: names of files in the initramfs and of the virtio-serial ports.

/// The command, each argument ended by a NUL byte.
pub const COMMAND: &str = "/.wharf-vm/command";
/// Modules to load before the ports can be there, one path a line, in order.
pub const BOOT_MODULES: &str = "/.wharf-vm/modules";
/// Exists where there is a disk: the directory that it is mounted on.
pub const DISK: &str = "/.wharf-vm/disk";
/// Exists for an interactive command: rows and columns of the terminal that the console `hvc0` is shown on.
pub const TERMINAL: &str = "/.wharf-vm/terminal";
/// Exists where systemd is process 1: the user whose login session the command runs in, empty for none.
pub const SYSTEMD: &str = "/.wharf-vm/systemd";
/// An empty directory, where the init binds the initramfs onto itself.
pub const NEW_ROOT: &str = "/.wharf-vm/root";

/// Ports carry what the command writes, byte by byte.
pub const PORT_OUTPUT: &str = "wharf.output";
pub const PORT_ERRORS: &str = "wharf.errors";
/// Carries one line at the end: the command's exit code, in decimal.
pub const PORT_EXIT: &str = "wharf.exit";

/// Where programs are looked for, in the guest.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
