//! Memory that a process has done with.

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;

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

/// Lets go of the pages of the program itself, its code and constants. They stay in the page cache as long as the kernel has
/// room; those that are used again are mapped again, which costs a fault for each sixteen. Of a large program most is
/// used once, at its start.
///
/// # Errors
/// The kernel keeps them.
pub fn unmap_program() -> io::Result<()> {
    let mut outcome: io::Result<()> = Ok(());
    let data = ptr::from_mut(&mut outcome).cast::<c_void>();
    // SAFETY: it calls `unmap_object` here and now, with a description of each object that is valid for the call, and with
    // `data`, which nobody else uses meanwhile.
    unsafe { libc::dl_iterate_phdr(Some(unmap_object), data) };
    outcome
}

/// Ends the walk after the first object, which is the program.
///
/// # Safety
/// `info` describes a loaded object, and `data` is an `io::Result<()>` that nobody else uses.
unsafe extern "C" fn unmap_object(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: as above; the headers are those of the object and are never written.
    let (base, headers, outcome) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        (info.dlpi_addr, headers, &mut *data.cast::<io::Result<()>>())
    };
    let page = page_bytes();
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let (Ok(start), Ok(length)) = (usize::try_from(base + header.p_vaddr), usize::try_from(header.p_memsz)) else {
            continue;
        };
        let (first, end) = (start / page * page, (start + length).next_multiple_of(page));
        let address = ptr::with_exposed_provenance_mut::<c_void>(first);
        // SAFETY: the range is a mapping of the program's file that was never writable: what relocations have changed lies in
        // segments that were. The next access of a page maps the file's again, whose text is busy.
        let advised = crate::check_int(unsafe { libc::madvise(address, end - first, libc::MADV_DONTNEED) });
        if let Err(error) = advised {
            *outcome = Err(error);
        }
    }
    1
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

    /// What of the program's code is in memory.
    fn mapped_code_bytes() -> usize {
        let program = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_code = false;
        let mut bytes = 0;
        for line in maps.lines() {
            if line.ends_with(program.to_str().unwrap()) {
                is_code = line.contains(" r-xp ");
            } else if let Some(text) = line.strip_prefix("Rss:").filter(|_| is_code) {
                bytes += text.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
                is_code = false;
            }
        }
        bytes
    }

    #[test]
    fn the_program_works_on_after_it_was_unmapped() {
        static TEXTS: [&str; 2] = ["a constant", "another"];
        // Other tests map theirs again meanwhile, but not all of it.
        let before = mapped_code_bytes();
        unmap_program().unwrap();
        let after = mapped_code_bytes();
        assert!(after < before, "{after} bytes of code in memory, {before} before");
        assert_eq!(TEXTS.map(str::len), [10, 7]);
    }

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
