//! The modules of an unpacked kernel package: which are packed, in what order they load, and the index by which the
//! kernel asks for the others. Debian's package has no `modules.dep` (its installation makes one), so it is made here
//! from what every module says of itself.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Loaded by the init before anything else: the bus, the serial ports, and a disk with its file system.
pub const BOOT: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_blk", "ext4"];

/// Packed so that the kernel can ask for them (`request_module`): what containers, their networks and stores use.
pub const ON_DEMAND: [&str; 41] = [
    "af_packet_diag",
    "br_netfilter",
    "bridge",
    "dummy",
    "fuse",
    "inet_diag",
    "ip6t_REJECT",
    "ipt_REJECT",
    "iptable_filter",
    "iptable_nat",
    "ipvlan",
    "loop",
    "macvlan",
    "netlink_diag",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib_inet",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "overlay",
    "raw_diag",
    "tcp_diag",
    "tun",
    "udp_diag",
    "unix_diag",
    "veth",
    "virtiofs",
    "vxlan",
    "xt_MASQUERADE",
    "xt_conntrack",
    "xt_mark",
];

/// One module file and what its `.modinfo` section says.
#[derive(Debug)]
struct Module {
    /// Relative to the kernel's module directory: `kernel/fs/overlayfs/overlay.ko`.
    file: PathBuf,
    depends: Vec<String>,
    aliases: Vec<String>,
}

/// A set of modules that is closed under dependencies.
#[derive(Debug, Default)]
pub struct Selection {
    modules: BTreeMap<String, Module>,
}

impl Selection {
    /// The named modules under `directory` and all they depend on. A name that is no file there is built into the
    /// kernel or unknown to it: left out, as flavours differ.
    pub fn of(directory: &Path, wanted: &[&str]) -> Result<Self> {
        let mut files = BTreeMap::new();
        index(directory, Path::new("kernel"), &mut files)?;
        ensure!(!files.is_empty(), "no modules under {}", directory.display());
        let mut selection = Self::default();
        let mut open: Vec<String> = wanted.iter().map(|name| (*name).to_string()).collect();
        while let Some(name) = open.pop() {
            let Some(file) = files.get(&name).filter(|_| !selection.modules.contains_key(&name)) else { continue };
            let path = directory.join(file);
            let content = fs::read(&path).with_context(|| format!("read module {}", path.display()))?;
            let module = Module {
                file: file.clone(),
                depends: values(&content, "depends").flat_map(|list| split(&list)).collect(),
                aliases: values(&content, "alias").collect(),
            };
            open.extend(module.depends.iter().cloned());
            selection.modules.insert(name, module);
        }
        Ok(selection)
    }

    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.modules.values().map(|module| module.file.as_path())
    }

    /// The files to load for `wanted`, dependencies first.
    pub fn load_order(&self, wanted: &[&str]) -> Vec<&Path> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for name in wanted {
            self.visit(name, &mut seen, &mut order);
        }
        order
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<&'a String>, order: &mut Vec<&'a Path>) {
        let Some((name, module)) = self.modules.get_key_value(name) else { return };
        if seen.insert(name) {
            for dependency in &module.depends {
                self.visit(dependency, seen, order);
            }
            order.push(&module.file);
        }
    }

    /// `modules.dep`: each file with all that must be loaded before it, the nearest first.
    pub fn dependency_index(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            let mut order = self.load_order(&[name]);
            order.pop();
            let list: String = order.iter().rev().map(|file| format!(" {}", file.display())).collect();
            text += &format!("{}:{list}\n", module.file.display());
        }
        text
    }

    /// `modules.alias`: the names by which the kernel asks for a module.
    pub fn alias_index(&self) -> String {
        let lines = self.modules.iter().flat_map(|(name, module)| {
            module.aliases.iter().map(move |alias| format!("alias {} {name}\n", alias.replace('-', "_")))
        });
        lines.collect()
    }
}

/// Module names by the files under `directory/relative`.
fn index(directory: &Path, relative: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let path = directory.join(relative);
    for entry in fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
        let entry = entry.with_context(|| format!("list {}", path.display()))?;
        let relative = relative.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            index(directory, &relative, files)?;
        } else if relative.extension().is_some_and(|extension| extension == "ko") {
            let stem = relative.file_stem().unwrap_or_default().to_string_lossy();
            // File names have dashes where the names of modules have underscores.
            files.insert(stem.replace('-', "_"), relative);
        }
    }
    Ok(())
}

/// The values of `key=value` in the NUL-separated strings of the `.modinfo` section.
fn values(module: &[u8], key: &str) -> impl Iterator<Item = String> {
    let prefix = format!("{key}=").into_bytes();
    module.split(|byte| *byte == 0).filter_map(move |string| {
        let value = string.strip_prefix(&*prefix)?;
        value.iter().all(|byte| byte.is_ascii_graphic()).then(|| String::from_utf8_lossy(value).into_owned())
    })
}

fn split(list: &str) -> Vec<String> {
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(file: &str, depends: &str) -> Module {
        Module { file: file.into(), depends: split(depends), aliases: vec![format!("fs-{file}")] }
    }

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let list = [("a", "b,c"), ("b", "d"), ("c", "d"), ("d", "")];
        let modules = list.iter().map(|(name, depends)| ((*name).to_string(), module(name, depends))).collect();
        let selection = Selection { modules };
        assert_eq!(selection.load_order(&["a", "b"]), ["d", "b", "c", "a"].map(Path::new));
        assert_eq!(selection.dependency_index(), "a: c b d\nb: d\nc: d\nd:\n");
        assert!(selection.alias_index().starts_with("alias fs_a a\n"));
    }

    #[test]
    fn modinfo_is_read_between_nul_bytes() {
        let content = b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0alias=fs-x\0depends=\0xdepends=no\0";
        let depends: Vec<_> = values(content, "depends").flat_map(|list| split(&list)).collect();
        assert_eq!(depends, ["virtio", "virtio_ring"]);
        assert_eq!(values(content, "alias").collect::<Vec<_>>(), ["fs-x"]);
    }
}
