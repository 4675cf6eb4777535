//! Debian's kernel: its package is downloaded by apt and unpacked under `target/vm`, never installed.

use crate::apt::{self, Apt};
use crate::lock::{Lock, PinnedKernel};
use crate::{cargo, modules};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel of the lock file that is booted where none is named: that of Debian's stable release.
pub const DEFAULT: &str = "6.1";

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
    /// A kernel of the lock file by its name (`6.1`, `6.12`), or the newest of a Debian package (`linux-image-…`; one
    /// that only depends on the newest is followed). It is fetched unless this version of it is in the cache.
    pub fn named(name: &str) -> Result<Self> {
        let lock = Lock::built_in()?;
        let known = || lock.kernels.iter().map(|kernel| kernel.name.as_str()).collect::<Vec<_>>().join(", ");
        match lock.kernel(name) {
            Some(pinned) => Self::pinned(pinned, &lock.date),
            None => Self::of_package(name).with_context(|| format!("kernel {name}: known are {}", known())),
        }
    }

    fn pinned(pinned: &PinnedKernel, date: &str) -> Result<Self> {
        let PinnedKernel { package, version, archive, path, sha256, .. } = pinned;
        unpacked(package, version, |work| {
            apt::download_pinned(archive, path, date, sha256, &work.join("kernel.deb"))
                .context("`cargo run -p vm-tests -- lock` pins what Debian has now")
        })
    }

    fn of_package(name: &str) -> Result<Self> {
        let apt = Apt::of_the_machine();
        if apt.describe(name)?.is_none() {
            // A machine that never ran it has no lists. That it fails shows in the next line.
            let _ = Command::new("apt-get").args(["update", "-q"]).output();
        }
        let found = apt.newest(name)?;
        unpacked(&found.package, &found.version, |work| apt.download(&found.package, &found.version, work))
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

/// The kernel of this package, from the cache, else from what `download` puts into the directory that it is given.
fn unpacked(package: &str, version: &str, download: impl FnOnce(&Path) -> Result<()>) -> Result<Kernel> {
    let (cache, _lock) = cargo::locked_cache()?;
    let directory = cache.join(format!("{package}_{version}"));
    if !directory.exists() {
        eprintln!("vm-tests: fetching kernel {package} {version}");
        let work = cache.join(format!("fetch-{}", std::process::id()));
        fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        let result = download(&work).and_then(|()| unpack(&work, &directory));
        let _ = fs::remove_dir_all(&work);
        result?;
    }
    Kernel::in_directory(&directory)
}

fn unpack(work: &Path, directory: &Path) -> Result<()> {
    let archive = fs::read_dir(work)?.flatten().find(|entry| entry.path().extension().is_some_and(|it| it == "deb"));
    let archive = archive.context("apt left no package")?.path();
    let unpacked = work.join("unpacked");
    apt::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    // Since 6.12 each module is compressed, which neither modinfo's reader here nor busybox' modprobe unpacks.
    let decompress = r#"find "$1" -name '*.ko.xz' -exec xz --decompress {} +"#;
    apt::run(Command::new("sh").args(["-c", decompress, "sh"]).arg(&unpacked))?;
    fs::rename(&unpacked, directory)
        .with_context(|| format!("rename {} to {}", unpacked.display(), directory.display()))
}
