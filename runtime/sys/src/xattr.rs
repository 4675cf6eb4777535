//! Extended attributes, never through a symbolic link in the last component.

use crate::{check, check_int};
use std::ffi::CStr;
use std::io;

/// Value of an attribute, or `None` if it is not set.
pub fn read(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 256];
    loop {
        // SAFETY: the strings are NUL-terminated; pointer and length describe `value`.
        let result = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match check(result as libc::c_long) {
            Ok(length) => {
                value.truncate(length as usize);
                return Ok(Some(value));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => value.resize(value.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Sets an attribute.
pub fn write(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the strings are NUL-terminated; pointer and length describe `value`.
    check_int(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }).map(drop)
}
