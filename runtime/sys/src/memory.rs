//! Memory that a process has done with.

use std::io;

/// Left alone below the stack pointer: what the calls of this module themselves need, and the red zone of the ABI.
const STACK_IN_USE_BYTES: usize = 8 * 1024;

/// Gives memory that is not used any more back to the kernel: free parts of the heap, where the C library can, and pages
/// of the stack that deeper calls have used.
///
/// # Errors
/// The kernel does not say where the stack ends, or keeps it.
pub fn trim() -> io::Result<()> {
    // SAFETY: it takes the allocator's own lock and touches free memory only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    trim_stack()
}

/// Has all threads allocate from at most `count` heaps, where the C library would make eight for each processor: what one
/// has freed the others use. To be called before there are threads.
pub fn limit_heaps(count: u16) {
    // SAFETY: it sets a number of the allocator's own.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count.into());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Of the calling thread, if that is the process's first: the stacks of others are not marked as such.
fn trim_stack() -> io::Result<()> {
    let marker = 0u8;
    let here = std::ptr::from_ref(&marker).addr();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let Some(lowest) = maps.lines().rfind(|line| line.ends_with("[stack]")).and_then(start_of) else { return Ok(()) };
    let page = page_bytes();
    let end = here.saturating_sub(STACK_IN_USE_BYTES) / page * page;
    // A thread's stack lies elsewhere.
    if here < lowest || end <= lowest {
        return Ok(());
    }
    let start = std::ptr::with_exposed_provenance_mut::<libc::c_void>(lowest);
    // SAFETY: the range is part of the mapping of this very stack and ends well below the stack pointer. The stack grows
    // downwards, so nothing that lives is in it; pages that later calls reach come back as zeros.
    crate::check_int(unsafe { libc::madvise(start, end - lowest, libc::MADV_DONTNEED) }).map(drop)
}

/// `7ffc3000-7ffe4000 rw-p …`: the first address.
fn start_of(line: &str) -> Option<usize> {
    usize::from_str_radix(line.split('-').next()?, 16).ok()
}

fn page_bytes() -> usize {
    // SAFETY: it reads a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_work_on_after_their_stack_was_trimmed() {
        fn deep(level: u32) -> u64 {
            let page = [u64::from(level); 512];
            if level == 0 { 0 } else { std::hint::black_box(&page)[level as usize] + deep(level - 1) }
        }
        let before = deep(60);
        trim().unwrap();
        assert_eq!(deep(60), before);
        assert_eq!(start_of("7ffc3000-7ffe4000 rw-p 00000000 00:00 0   [stack]"), Some(0x7ffc_3000));
    }
}
