//! Throwaway VMs: a stock Debian kernel under QEMU with nothing but cgroup v2, an initramfs of our own, and a command.
//!
//! ```text
//! Kernel (Debian's package, unpacked under target/vm)
//!    └─ Image (kernel modules, busybox, guest-init, programs, the command) ─pack→ initramfs in memory
//!          └─ Vm::run ─→ QEMU ─→ guest-init (pid 1) ─→ the command
//!                         output, errors and exit code come back over one virtio-serial port each; the
//!                         console is kept for the report of a panic or a hang
//! ```
//!
//! A [`disk`], served to QEMU over NBD, is what remains from one boot to the next, and its power can be cut; a
//! [`film`] of it can be cut at many instants.
//!
//! [`kernel`] fetches the package that [`lock`] names, [`modules`] orders and indexes its modules, [`cpio`] writes the archive,
//! [`debian`] makes a root file system in which [`systemd`] is process 1, for what a bare init does not show,
//! [`host_program`] packs a program of this machine with its libraries, [`cargo`] builds what is of this workspace,
//! [`guest`] is what host and guest agree on.

mod apt;
pub mod cargo;
pub mod cpio;
pub mod debian;
pub mod disk;
pub mod film;
pub mod guest;
pub mod host_program;
pub mod image;
pub mod kernel;
pub mod lock;
pub mod modules;
mod nbd;
mod qemu;
pub mod random;
pub mod systemd;
pub mod vm;

pub use disk::Disk;
pub use image::Image;
pub use kernel::Kernel;
pub use systemd::Hierarchy;
pub use vm::{Ending, Options, Vm};
