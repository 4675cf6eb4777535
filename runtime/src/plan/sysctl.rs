//! `linux.sysctl`: only what belongs to a namespace of the container.

use super::{Namespaces, Refusal, c_string};
use std::collections::HashMap;
use std::ffi::CString;
use wharf_specs::oci::LinuxNamespaceType;

/// One kernel parameter to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    pub name: String,
    /// The namespace it belongs to.
    pub kind: LinuxNamespaceType,
    /// Below `/proc/sys`.
    pub path: CString,
    pub value: Vec<u8>,
}

/// Parameters of the ipc namespace, beside `fs.mqueue.*`.
const IPC: [&str; 9] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg_next_id",
];

pub(super) fn compile_all(
    sysctls: Option<&HashMap<String, String>>,
    namespaces: &Namespaces,
) -> Result<Vec<Sysctl>, Refusal> {
    let mut compiled = Vec::new();
    for (key, value) in sysctls.into_iter().flatten() {
        compiled.push(compile(key, value, namespaces)?);
    }
    compiled.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(compiled)
}

fn compile(key: &str, value: &str, namespaces: &Namespaces) -> Result<Sysctl, Refusal> {
    let field = format!("linux.sysctl[{key:?}]");
    // As sysctl(8): whichever of `.` and `/` comes first is the separator, the other one is part of a name.
    let path = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_string(),
    };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Refusal::new(field, "is not the name of a kernel parameter"));
    }
    let name = path.replace('/', ".");
    let needed = if IPC.contains(&name.as_str()) || path.starts_with("fs/mqueue/") {
        LinuxNamespaceType::Ipc
    } else if path.starts_with("net/") {
        LinuxNamespaceType::Network
    } else if name == "kernel.domainname" {
        LinuxNamespaceType::Uts
    } else if name == "kernel.hostname" {
        return Err(Refusal::new(field, "is set by the field hostname"));
    } else if path.starts_with("user/") {
        LinuxNamespaceType::User
    } else {
        return Err(Refusal::new(field, "is not in a separate kernel namespace: it would change the host"));
    };
    if !namespaces.separate(needed) {
        let kind = super::namespace::name(needed);
        return Err(Refusal::new(
            field,
            format!("needs a {kind} namespace, which is not in a separate kernel namespace here"),
        ));
    }
    Ok(Sysctl { name: key.to_string(), kind: needed, path: c_string(&path, &field)?, value: value.as_bytes().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> Namespaces {
        Namespaces { new: LinuxNamespaceType::Network as i32 | LinuxNamespaceType::Ipc as i32, ..Namespaces::default() }
    }

    #[test]
    fn both_separators_are_understood() {
        let dotted = compile("net.ipv4.conf.eth0/1.forwarding", "1", &namespaces()).expect("dotted");
        assert_eq!(dotted.path.to_str(), Ok("net/ipv4/conf/eth0.1/forwarding"));
        let slashed = compile("net/ipv4/conf/eth0.1/forwarding", "1", &namespaces()).expect("slashed");
        assert_eq!(slashed.path, dotted.path);
    }

    #[test]
    fn what_would_change_the_host_is_refused() {
        for key in ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "kernel.domainname", "net..x"]
        {
            assert!(compile(key, "1", &namespaces()).is_err(), "{key} was accepted");
        }
    }
}
