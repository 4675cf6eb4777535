//! `packages.lock`: which kernels and which root file system guests are made of, by hash.

use crate::apt::{self, Apt};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::Path;

const TEXT: &str = include_str!("../packages.lock");
const HEADER: &str = "\
# What guests are made of, by hash. `cargo run -p vm-tests -- lock` writes it anew from Debian's archive.
# kernel NAME PACKAGE VERSION ARCHIVE PATH SHA256
# root SUITE SHA256-OF-ITS-PACKAGES-AND-VERSIONS
";
/// Kernels by name, and where the newest of each is found.
const KERNELS: [(&str, &[&str]); 2] = [
    ("6.1", &["debian bookworm main", "debian-security bookworm-security main"]),
    ("6.12", &["debian bookworm-backports main"]),
];
/// The flavour for VMs: small, and with virtio.
pub(crate) const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// One kernel of the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedKernel {
    /// By which it is asked for: `6.1`.
    pub name: String,
    pub package: String,
    pub version: String,
    /// `debian` or `debian-security`.
    pub archive: String,
    /// Of the package in the archive.
    pub path: String,
    pub sha256: String,
}

/// The lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// As snapshot.debian.org writes it: when all this was Debian's newest.
    pub date: String,
    pub kernels: Vec<PinnedKernel>,
    /// Suites and the hashes of their packages.
    pub roots: Vec<(String, String)>,
}

impl Lock {
    /// The one that this program was built with.
    pub fn built_in() -> Result<Self> {
        Self::parse(TEXT).context("read vm-tests/packages.lock")
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lock = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
            match <[String; 7]>::try_from(words.clone()) {
                Ok([kind, name, package, version, archive, path, sha256]) if kind == "kernel" => {
                    lock.kernels.push(PinnedKernel { name, package, version, archive, path, sha256 });
                }
                _ => match words.as_slice() {
                    [kind, date] if kind == "date" => lock.date.clone_from(date),
                    [kind, suite, hash] if kind == "root" => lock.roots.push((suite.clone(), hash.clone())),
                    _ => anyhow::bail!("the line {line:?} is of no known form"),
                },
            }
        }
        Ok(lock)
    }

    /// As the file's content.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}date {}\n", self.date);
        for kernel in &self.kernels {
            let PinnedKernel { name, package, version, archive, path, sha256 } = kernel;
            let _ = writeln!(text, "kernel {name} {package} {version} {archive} {path} {sha256}");
        }
        for (suite, hash) in &self.roots {
            let _ = writeln!(text, "root {suite} {hash}");
        }
        text
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&PinnedKernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// What the root file system of this suite must consist of.
    pub fn root(&self, suite: &str) -> Option<&str> {
        self.roots.iter().find(|(name, _)| name == suite).map(|(_, hash)| hash.as_str())
    }

    /// Asks Debian's archive for the newest kernels, in directories of `work`; the roots are the caller's to make.
    pub fn newest_kernels(work: &Path) -> Result<Self> {
        let date = apt::output("date", &["--utc", "+%Y%m%dT%H%M%SZ"])?.trim().to_string();
        let mut kernels = Vec::new();
        for (name, sources) in KERNELS {
            let found = Apt::with_sources(&work.join(name), sources)?.newest(KERNEL_PACKAGE)?;
            // As the security archive names its files.
            let security = found.path.starts_with("pool/updates/");
            let archive = if security { "debian-security" } else { "debian" };
            ensure!(!found.sha256.is_empty(), "apt knows no SHA256 of {}", found.package);
            kernels.push(PinnedKernel {
                name: name.into(),
                package: found.package,
                version: found.version,
                archive: archive.into(),
                path: found.path,
                sha256: found.sha256,
            });
        }
        Ok(Self { date, kernels, roots: Vec::new() })
    }
}

/// The hash of what is installed, by dpkg's `status` file.
pub(crate) fn hash_of_packages(status: &str) -> String {
    let mut packages: Vec<String> = status
        .split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
            Some(format!("{} {}\n", field("Package: ")?, field("Version: ")?))
        })
        .collect();
    packages.sort();
    Sha256::digest(packages.concat().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_is_read_as_it_is_written() {
        let lock = Lock::built_in().expect("the lock file");
        assert_eq!(lock.to_text(), TEXT);
        assert!(KERNELS.iter().all(|(name, _)| lock.kernel(name).is_some()) && lock.root("bookworm").is_some());
        assert!(Lock::parse("kernel 6.1 too few words").is_err());
    }

    #[test]
    fn the_hash_of_a_root_is_that_of_its_packages_and_versions() {
        let (one, other) = ("Package: a\nVersion: 1\n", "Package: b\nStatus: x\nVersion: 2\n");
        let hash = hash_of_packages(&format!("{one}\n{other}"));
        assert_eq!(hash, hash_of_packages(&format!("{other}\n{one}")));
        assert_ne!(hash, hash_of_packages(&format!("{one}\n{}", other.replace('2', "3"))));
    }
}
