//! Which capabilities a container gets.

use std::collections::BTreeSet;

use crate::pod::error::{PodError, Result};
use crate::pod::spec::Security;

/// By number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing: the set docker and containerd agree on.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// `ALL` goes before single names, in `drop` and `add` alike. It and the default set mean what this node itself may
/// give; a capability asked for by name that it may not give is refused.
pub(super) fn granted(security: &Security, node: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    if security.privileged {
        return Ok(node.clone());
    }
    let (add_all, mut add) = parse("add_capabilities", &security.add_capabilities)?;
    add.extend(ambient(security, node)?);
    let (drop_all, drop) = parse("drop_capabilities", &security.drop_capabilities)?;
    let mut set: BTreeSet<String> = match (add_all, drop_all) {
        (true, _) => node.clone(),
        (false, true) => BTreeSet::new(),
        (false, false) => DEFAULT.iter().map(|name| name.to_string()).filter(|name| node.contains(name)).collect(),
    };
    for name in add {
        if !node.contains(&name) {
            let reason = format!("{name}: this node does not have it itself");
            return Err(PodError::invalid(field("add_capabilities"), reason));
        }
        set.insert(name);
    }
    for name in drop {
        set.remove(&name);
    }
    Ok(set)
}

/// Those that programs executed by a user other than root keep. They are granted, unless they are dropped as well.
pub(super) fn ambient(security: &Security, node: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    const LIST: &str = "add_ambient_capabilities";
    let (all, names) = parse(LIST, &security.ambient_capabilities)?;
    let (_, drop) = parse("drop_capabilities", &security.drop_capabilities)?;
    if let Some(name) = names.iter().find(|name| !node.contains(*name)) {
        return Err(PodError::invalid(field(LIST), format!("{name}: this node does not have it itself")));
    }
    let set: BTreeSet<String> = if all { node.clone() } else { names.into_iter().collect() };
    Ok(set.into_iter().filter(|name| !drop.contains(name)).collect())
}

fn field(list: &str) -> String {
    format!("config.linux.security_context.capabilities.{list}")
}

fn parse(list: &str, names: &[String]) -> Result<(bool, Vec<String>)> {
    let mut all = false;
    let mut parsed = Vec::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if full == "CAP_ALL" {
            all = true;
        } else if NAMES.contains(&full.as_str()) {
            parsed.push(full);
        } else {
            return Err(PodError::invalid(field(list), format!("{name:?} is no capability")));
        }
    }
    Ok((all, parsed))
}

/// This process' bounding set: no container can be given more.
pub(super) fn node_bounding_set() -> BTreeSet<String> {
    parse_bounding_set(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// True where the node itself has `name`.
pub(super) fn node_has(name: &str) -> bool {
    node_bounding_set().contains(name)
}

fn parse_bounding_set(status: &str) -> BTreeSet<String> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    NAMES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> BTreeSet<String> {
        // All but CAP_SYS_RESOURCE (24).
        parse_bounding_set("Name:\tx\nCapBnd:\t000001fffeffffff\n")
    }

    fn with(add: &[&str], drop: &[&str]) -> Result<BTreeSet<String>> {
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
        granted(
            &Security { add_capabilities: names(add), drop_capabilities: names(drop), ..Security::default() },
            &node(),
        )
    }

    #[test]
    fn all_means_what_the_node_has() {
        assert_eq!(node().len(), 40);
        assert_eq!(with(&["ALL"], &[]).unwrap(), node());
        assert_eq!(granted(&Security { privileged: true, ..Security::default() }, &node()).unwrap(), node());
        assert_eq!(with(&["all"], &["net_raw"]).unwrap().len(), 39);
    }

    #[test]
    fn drop_all_and_add_one_leaves_one() {
        assert_eq!(with(&["NET_BIND_SERVICE"], &["ALL"]).unwrap(), ["CAP_NET_BIND_SERVICE".to_string()].into());
    }

    #[test]
    fn ambient_ones_are_granted_unless_dropped() {
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
        let security = |drop: &[&str]| Security {
            ambient_capabilities: names(&["NET_ADMIN"]),
            drop_capabilities: names(drop),
            ..Security::default()
        };
        assert_eq!(ambient(&security(&[]), &node()).unwrap(), ["CAP_NET_ADMIN".to_string()].into());
        assert!(granted(&security(&["ALL"]), &node()).unwrap().contains("CAP_NET_ADMIN"));
        assert!(ambient(&security(&["NET_ADMIN"]), &node()).unwrap().is_empty());
        let missing = Security { ambient_capabilities: names(&["SYS_RESOURCE"]), ..Security::default() };
        let error = granted(&missing, &node()).unwrap_err().to_string();
        assert!(error.starts_with(&field("add_ambient_capabilities")), "{error}");
    }

    #[test]
    fn unknown_and_unavailable_names_are_refused() {
        for name in ["NOPE", "CAP_", "SYS_RESOURCE"] {
            let error = with(&[name], &[]).unwrap_err();
            assert!(error.to_string().contains("add_capabilities"), "{error}");
        }
    }
}
