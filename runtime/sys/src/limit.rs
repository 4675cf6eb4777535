//! Resource limits, scheduling, io priority, affinity, personality, memory policy.

use crate::{check, check_int};
use std::io;

/// Sets soft and hard limit of a resource (`RLIMIT_*`) of the caller.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit64 and the old value may be null.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    })
    .map(drop)
}

/// Soft and hard limit of a resource of the caller.
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the new value may be null and `limit` is a valid rlimit64.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<libc::rlimit64>(), &raw mut limit)
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets class (1 real time, 2 best effort, 3 idle) and level of the caller's io priority.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: ioprio_set takes integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << CLASS_SHIFT | level) }).map(drop)
}

/// Arguments of `sched_setattr(2)`, in its layout.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Filled in by [`set_scheduling`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as the two that follow.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Sets the scheduling policy of the caller.
pub fn set_scheduling(mut scheduling: Scheduling) -> io::Result<()> {
    scheduling.size = size_of::<Scheduling>() as u32;
    // SAFETY: `scheduling` has the kernel's layout and states its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduling, 0) }).map(drop)
}

/// Binds process `pid` (0: the caller) to the cpus in `cpus`.
pub fn set_affinity(pid: i32, cpus: &[usize]) -> io::Result<()> {
    let mut mask = [0u64; 128];
    for &cpu in cpus {
        match mask.get_mut(cpu / 64) {
            Some(word) => *word |= 1 << (cpu % 64),
            None => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
    // SAFETY: pointer and size describe `mask`.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, size_of_val(&mask), mask.as_ptr()) }).map(drop)
}

/// Lets a process run on every cpu its cpuset allows; nothing changes where that is refused.
pub fn reset_affinity(pid: i32) {
    let mask = [u64::MAX; 128];
    // SAFETY: pointer and size describe `mask`.
    unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, size_of_val(&mask), mask.as_ptr()) };
}

/// Sets the execution domain of the caller.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: personality takes an integer.
    check_int(unsafe { libc::personality(domain.into()) }).map(drop)
}

/// `set_mempolicy(2)`: mode with its flags, and the nodes it speaks of.
pub fn set_memory_policy(mode: i32, nodes: &[usize]) -> io::Result<()> {
    let mut mask = [0u64; 16];
    for &node in nodes {
        match mask.get_mut(node / 64) {
            Some(word) => *word |= 1 << (node % 64),
            None => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
    let bits = if nodes.is_empty() { 0 } else { mask.len() * 64 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { mask.as_ptr() };
    // SAFETY: the mask has at least `bits` bits; null stands for no node.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}
