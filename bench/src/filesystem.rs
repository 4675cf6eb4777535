//! A fresh ext4 in a file in memory: what a machine's own disk costs varies tenfold from one to the next.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::measure;

/// Sparse: only what is written takes memory.
const SIZE_BYTES: u64 = 6 << 30;

/// The file and its mount point. Whoever runs the bench has a mount namespace of its own: nothing of it stays, even if
/// the bench is killed.
pub struct FileSystem {
    folder: tempfile::TempDir,
    is_mounted: bool,
}

impl FileSystem {
    /// Made and mounted.
    pub fn fresh() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in("/dev/shm").context("a folder in /dev/shm")?;
        let mut new = Self { folder, is_mounted: false };
        let image = new.folder.path().join("image");
        File::create(&image)?.set_len(SIZE_BYTES)?;
        std::fs::create_dir(new.path())?;
        // Nothing is left for later: what the kernel would initialise in the background disturbs the measurement.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        measure::run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", lazy]).arg(&image))?;
        measure::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(new.path()))?;
        new.is_mounted = true;
        Ok(new)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = measure::run(Command::new("umount").arg(self.path()))
        {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Waits until all of the file system at `path` is on its disk.
pub fn sync(path: &Path) -> anyhow::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}
