//! Debian's kernel: its package is downloaded by apt and unpacked under `target/vm`, never installed.

use crate::{cargo, modules};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The flavour for VMs: small, and with virtio.
pub const DEFAULT_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    /// `lib/modules/RELEASE` of the package.
    pub modules: PathBuf,
}

impl Kernel {
    /// The kernel of a Debian package (`linux-image-…`; a package that only depends on the newest one is followed),
    /// fetched unless this version of it is in the cache.
    pub fn of_package(name: &str) -> Result<Self> {
        let (package, version) = newest(name)?;
        let cache = cargo::target_directory().join("vm");
        let directory = cache.join(format!("{package}_{version}"));
        if !directory.exists() {
            eprintln!("vm-tests: fetching kernel {package} {version}");
            fetch(&cache, &package, &version, &directory)?;
        }
        Self::in_directory(&directory)
    }

    /// The kernel in an unpacked package.
    fn in_directory(directory: &Path) -> Result<Self> {
        // Packages follow the merged /usr since trixie.
        let parents = [directory.join("lib/modules"), directory.join("usr/lib/modules")];
        let modules = parents.iter().find_map(|parent| fs::read_dir(parent).ok()?.flatten().next());
        let modules = modules.with_context(|| format!("no kernel modules under {}", directory.display()))?.path();
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = directory.join("boot").join(format!("vmlinuz-{release}"));
        ensure!(image.exists(), "{} is missing", image.display());
        Ok(Self { release, image, modules })
    }

    pub(crate) fn select(&self, wanted: &[&str]) -> Result<modules::Selection> {
        modules::Selection::of(&self.modules, wanted)
    }
}

/// The package that holds the kernel, and its version, as apt knows them now.
fn newest(name: &str) -> Result<(String, String)> {
    let mut description = describe(name)?;
    if description.is_none() {
        // A machine that never ran it has no lists. That it fails shows in the next line.
        let _ = Command::new("apt-get").args(["update", "-q"]).output();
        description = describe(name)?;
    }
    let Some((version, depends)) = description else { bail!("apt knows no package {name}") };
    let real = depends.split([',', ' ']).find(|word| word.starts_with("linux-image-"));
    match real {
        None => Ok((name.to_string(), version)),
        Some(package) => {
            let (version, _) = describe(package)?.with_context(|| format!("apt knows no package {package}"))?;
            Ok((package.to_string(), version))
        }
    }
}

/// Version and dependencies of the candidate of a package.
fn describe(package: &str) -> Result<Option<(String, String)>> {
    let output = Command::new("apt-cache").args(["show", "--no-all-versions", package]).output();
    let output = output.context("run apt-cache: kernels are fetched by Debian's apt")?;
    Ok(parse_description(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_description(text: &str) -> Option<(String, String)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("Version:")?.to_string(), field("Depends:").unwrap_or_default().to_string()))
}

/// Downloads and unpacks beside the final directory, which appears only when it is whole.
fn fetch(cache: &Path, package: &str, version: &str, directory: &Path) -> Result<()> {
    let work = cache.join(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let result = fetch_into(&work, package, version, directory);
    let _ = fs::remove_dir_all(&work);
    result
}

fn fetch_into(work: &Path, package: &str, version: &str, directory: &Path) -> Result<()> {
    run(Command::new("apt-get").args(["download", "-q", &format!("{package}={version}")]).current_dir(work))?;
    let archive = fs::read_dir(work)?.flatten().find(|entry| entry.path().extension().is_some_and(|it| it == "deb"));
    let archive = archive.with_context(|| format!("apt-get download {package} left no package"))?.path();
    let unpacked = work.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    match fs::rename(&unpacked, directory) {
        // Another process was faster.
        Err(_) if directory.exists() => Ok(()),
        other => other.with_context(|| format!("rename {} to {}", unpacked.display(), directory.display())),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}\n{}", command.get_program(), output.status, errors.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_gives_version_and_dependencies() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.1-2\nDepends: linux-image-6.1.0-5 (= 6.1.1-2)\n";
        let (version, depends) = parse_description(text).expect("description");
        assert_eq!((version.as_str(), depends.as_str()), ("6.1.1-2", "linux-image-6.1.0-5 (= 6.1.1-2)"));
        assert!(parse_description("").is_none());
    }
}
