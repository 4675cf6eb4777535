//! Extended attributes of files.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

/// As Linux bounds them (xattr(7)).
const MAX_BYTES: usize = 64 << 10;

/// All but the security label that this machine gives by itself.
pub(crate) fn xattrs(file: impl AsFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut all = BTreeMap::new();
    // Most files have none or few: nothing is made ready for more.
    let (mut few, mut many) = ([0; 256], Vec::new());
    let names = match fs::flistxattr(&file, &mut few[..]) {
        Ok(length) => &few[..length],
        Err(Errno::OPNOTSUPP) => return Ok(all),
        Err(Errno::RANGE) => {
            many.resize(MAX_BYTES, 0);
            let length = fs::flistxattr(&file, &mut many[..])?;
            &many[..length]
        }
        Err(errno) => return Err(errno.into()),
    };
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; MAX_BYTES];
        let length = fs::fgetxattr(&file, name, &mut value[..])?;
        value.truncate(length);
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

pub(crate) fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}
