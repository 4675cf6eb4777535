//! What the pod's containers share as files: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` and `/dev/shm`.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::record::{PodDirectory, write_whole};
use super::spec::{Dns, HostAlias, SandboxConfig};

/// As docker and Kubernetes size `/dev/shm` where nothing else is asked for.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

const FILE_MODE: u32 = 0o644;

/// The host name that the pod's processes see.
pub(crate) fn hostname(config: &SandboxConfig) -> String {
    match (config.hostname.as_str(), config.host_network) {
        ("", true) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        // A pod's name may be longer than the kernel's 64 bytes for a host name.
        ("", false) => config.name.name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).into(),
        (name, _) => name.into(),
    }
}

/// Writes the files and mounts the shared memory; `addresses` are known by now.
pub(crate) fn write(directory: &PodDirectory, config: &SandboxConfig, addresses: &[IpAddr]) -> io::Result<()> {
    let name = hostname(config);
    let at = |file: &str| directory.path.join(file);
    write_whole(&at("hostname"), format!("{name}\n").as_bytes(), FILE_MODE)?;
    let mut hosts = if config.host_network {
        std::fs::read("/etc/hosts")?
    } else {
        hosts(config.full_name.as_deref(), &name, addresses).into()
    };
    hosts.extend_from_slice(aliases(&config.host_aliases).as_bytes());
    write_whole(&at("hosts"), &hosts, FILE_MODE)?;
    let resolv = if config.dns == Dns::default() {
        std::fs::read("/etc/resolv.conf").unwrap_or_default()
    } else {
        resolv_conf(&config.dns).into()
    };
    write_whole(&at("resolv.conf"), &resolv, FILE_MODE)?;
    if !config.host_ipc {
        let shm = at("shm");
        std::fs::create_dir_all(&shm)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("shm", &shm, "tmpfs", flags, SHM_OPTIONS)?;
    }
    Ok(())
}

/// Mirror of [`write`]'s mount; not mounted is fine.
pub(crate) fn unmount_shm(directory: &PodDirectory) -> io::Result<()> {
    let shm = directory.path.join("shm");
    while is_mount_point(&shm) {
        unmount(&shm, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn hosts(full_name: Option<&str>, name: &str, addresses: &[IpAddr]) -> String {
    // The name with its domain first, as hosts(5) has it, and not twice.
    let full_name = full_name.filter(|full_name| *full_name != name);
    let names: Vec<&str> = full_name.into_iter().chain([name]).collect();
    let names = names.join("\t");
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

fn aliases(aliases: &[HostAlias]) -> String {
    aliases.iter().map(|alias| format!("{}\t{}\n", alias.address, alias.names.join("\t"))).collect()
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_what_was_asked_for() {
        let dns = Dns {
            servers: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            searches: vec!["a.local".into(), "b.local".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search a.local b.local\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
    }

    #[test]
    fn hosts_names_the_pod_by_its_addresses() {
        let address = ["10.88.0.2".parse().unwrap()];
        assert!(hosts(None, "web", &address).ends_with("\n10.88.0.2\tweb\n"));
        let full_name = "web.db.shop.svc.cluster.local";
        assert!(hosts(Some(full_name), "web", &address).ends_with(&format!("\n10.88.0.2\t{full_name}\tweb\n")));
        let alias = HostAlias { address: "10.0.0.1".parse().unwrap(), names: vec!["db".into(), "db.local".into()] };
        assert_eq!(aliases(&[alias]), "10.0.0.1\tdb\tdb.local\n");
    }
}
