//! Loading of seccomp filters.

use crate::check;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub use libc::{
    SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
};

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (`linux/seccomp.h`).
pub const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// One instruction of classic BPF, as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub value: u32,
}

impl Instruction {
    pub const BYTES: usize = size_of::<Self>();

    /// As the kernel lays it out.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [a, b] = self.code.to_ne_bytes();
        let [c, d, e, f] = self.value.to_ne_bytes();
        [a, b, self.jump_true, self.jump_false, c, d, e, f]
    }

    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, jump_true, jump_false, c, d, e, f] = bytes;
        Self { code: u16::from_ne_bytes([a, b]), jump_true, jump_false, value: u32::from_ne_bytes([c, d, e, f]) }
    }

    /// A whole program; what is too short at its end for an instruction is left.
    pub fn program(bytes: &[u8]) -> Vec<Self> {
        bytes.as_chunks().0.iter().map(|chunk| Self::from_bytes(*chunk)).collect()
    }
}

/// Installs a filter on the calling thread. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` returns the descriptor
/// for its notifications.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN and without `no_new_privs`; `EINVAL` for a program the kernel refuses.
pub fn load(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` describes `program`, whose elements have the layout of sock_filter; the kernel only
    // reads it.
    let result =
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) })?;
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the successful call returned a new descriptor.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }))
}

/// Whether the kernel knows this action (a `SECCOMP_RET_*` value).
pub fn action_available(action: u32) -> bool {
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one u32.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}
