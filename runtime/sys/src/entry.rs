//! What happens between the kernel's start of a program and that of its C library.
//!
//! A program that has to be executed a second time, from where nobody can write it, does that best here: the C
//! library's own start, which asks the processor dozens of things (each an exit to the hypervisor in a virtual machine),
//! happens once instead of twice. It is a short cut only. Whatever does not go as it should is left alone: the program
//! starts where it is, finds that out and does the same with all care.
//!
//! Nothing of the C library may be used: there is no thread-local storage yet, and `memcpy` is a pointer that nobody has
//! set. So this is compiled into optimised programs only, in which no call to either stands; the build script names the
//! entry.

use std::arch::{asm, global_asm};
use std::mem::MaybeUninit;

/// Of `linux/magic.h`.
const OVERLAYFS_MAGIC: usize = 0x794c_7630;
/// Read-only, without devices and without symbolic links, as `statfs` says it.
const CLOSED: usize = 0x1 | 0x4 | 0x2000;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const SELF: *const u8 = c"/proc/self/exe".as_ptr().cast();
const NOWHERE: usize = 0;
const PATH_MAX: usize = 4096;

// The stack pointer is all that a program is given (System V ABI for AMD64, 3.4.1), and a multiple of 16, as at any
// call; the C library's `_start` finds it and %rdx as they were.
global_asm!(
    ".globl wharf_entry_of_containers",
    "wharf_entry_of_containers:",
    "mov esi, 1",
    "jmp 2f",
    ".globl wharf_entry",
    "wharf_entry:",
    "xor esi, esi",
    "2:",
    "mov rdi, rsp",
    "push rdx",
    "sub rsp, 8",
    "call {enter}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    enter = sym enter,
);

/// Executes the program again through a closed overlay of its directory, if it does not run from one and can.
/// With `of_containers`, only if one of its words is a command that makes a process in a container.
extern "C" fn enter(stack: *const usize, of_containers: usize) {
    // SAFETY: the kernel puts the number of arguments here, then the arguments, a null, the environment and a null.
    let (count, arguments) = unsafe { (*stack, stack.add(1)) };
    if of_containers != 0 && !makes_processes(count, arguments) {
        return;
    }
    let Some(program) = overlaid() else { return };
    // SAFETY: both are null-terminated arrays of strings that stay until the program is another.
    unsafe {
        let environment = arguments.add(count + 1);
        let empty = c"".as_ptr() as usize;
        let flags = libc::AT_EMPTY_PATH as usize;
        call(libc::SYS_execveat, [program, empty, arguments as usize, environment as usize, flags]);
        close(program);
    }
}

fn makes_processes(count: usize, arguments: *const usize) -> bool {
    (1..count).any(|index| {
        // SAFETY: there are `count` arguments, each a string.
        let word = unsafe { *arguments.add(index) as *const u8 };
        is(word, b"run\0") || is(word, b"create\0") || is(word, b"exec\0")
    })
}

fn is(word: *const u8, wanted: &[u8]) -> bool {
    // SAFETY: `wanted` ends in NUL, so the comparison ends with the string at the latest.
    (0..wanted.len()).all(|index| unsafe { *word.add(index) == *wanted.get_unchecked(index) })
}

/// A descriptor of this program through an overlay that has lower layers only; none if it is there already, or cannot be.
fn overlaid() -> Option<usize> {
    let mut path = MaybeUninit::<[u8; PATH_MAX]>::uninit();
    let mut layers = MaybeUninit::<[u8; PATH_MAX]>::uninit();
    let (path, layers) = (path.as_mut_ptr().cast::<u8>(), layers.as_mut_ptr().cast::<u8>());
    if is_closed()? {
        return None;
    }
    // Room for what is written behind it.
    let room = PATH_MAX - 8;
    // SAFETY: both buffers take `room` bytes; all pointers are to NUL-terminated strings that outlive the calls.
    unsafe {
        let length = call(libc::SYS_readlink, [SELF as usize, path as usize, room, 0, 0])?;
        if length == room || call(libc::SYS_readlink, [SELF as usize, layers as usize, room, 0, 0])? != length {
            return None;
        }
        *path.add(length) = 0;
        let mut slash = 0;
        for index in 0..length {
            match *path.add(index) {
                b'/' => slash = index,
                // What a list of layers would have to escape.
                b':' | b'\\' | b',' => return None,
                _ => {}
            }
        }
        // A second layer that is neither above nor below the first.
        if slash == 0 || is_beneath_run(path) {
            return None;
        }
        for (index, byte) in b":/run\0".iter().enumerate() {
            layers.add(slash + index).write_volatile(*byte);
        }
        let context = call(libc::SYS_fsopen, [c"overlay".as_ptr() as usize, libc::FSOPEN_CLOEXEC as usize, 0, 0, 0])?;
        let program = mounted(context, layers, path.add(slash + 1));
        close(context);
        program
    }
}

/// Whether this program runs from such a mount.
fn is_closed() -> Option<bool> {
    // `struct statfs`: its first word says what file system, its eleventh the mount's flags.
    let mut status = MaybeUninit::<[usize; 15]>::uninit();
    // SAFETY: the buffer has the size of a `struct statfs`, which a call that succeeds fills.
    unsafe {
        call(libc::SYS_statfs, [SELF as usize, status.as_mut_ptr() as usize, 0, 0, 0])?;
        let words = status.as_ptr().cast::<usize>();
        Some(*words == OVERLAYFS_MAGIC && *words.add(10) & CLOSED == CLOSED)
    }
}

fn is_beneath_run(path: *const u8) -> bool {
    b"/run/".iter().enumerate().all(|(index, byte)| {
        // SAFETY: the path ends in NUL, where the comparison ends too.
        unsafe { *path.add(index) == *byte }
    })
}

/// The file `name` of the overlay that `context` describes.
///
/// # Safety
/// `layers` and `name` are NUL-terminated strings.
unsafe fn mounted(context: usize, layers: *const u8, name: *const u8) -> Option<usize> {
    let set = |key: &std::ffi::CStr, value: usize| {
        // SAFETY: both are NUL-terminated strings.
        unsafe { call(libc::SYS_fsconfig, [context, FSCONFIG_SET_STRING, key.as_ptr() as usize, value, 0]) }
    };
    set(c"source", c"overlay".as_ptr() as usize)?;
    set(c"lowerdir", layers as usize)?;
    // Of no use here, and its automatic choice leaves a line in the kernel's log.
    let _ = set(c"xino", c"off".as_ptr() as usize);
    // SAFETY: no pointers but the name, a NUL-terminated string.
    unsafe {
        call(libc::SYS_fsconfig, [context, FSCONFIG_CMD_CREATE, NOWHERE, NOWHERE, 0])?;
        let closed = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
        let attributes = (closed | libc::MOUNT_ATTR_NOSYMFOLLOW) as usize;
        let mount = call(libc::SYS_fsmount, [context, libc::FSMOUNT_CLOEXEC as usize, attributes, 0, 0])?;
        let flags = (libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) as usize;
        let program = call(libc::SYS_openat, [mount, name as usize, flags, 0, 0]);
        close(mount);
        program
    }
}

fn close(descriptor: usize) {
    // SAFETY: a descriptor of ours that nobody uses afterwards.
    let _ = unsafe { call(libc::SYS_close, [descriptor, 0, 0, 0, 0]) };
}

/// A system call; none if it failed.
///
/// # Safety
/// As the call demands of its arguments.
#[inline(always)]
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> Option<usize> {
    let result: isize;
    // SAFETY: the kernel changes the result's register, %rcx and %r11 and what the arguments point to, nothing else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (result >= 0).then_some(result as usize)
}
