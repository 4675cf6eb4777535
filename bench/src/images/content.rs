//! What the images consist of: files of Debian packages that are installed here, and small files that are counted up.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::archive::{BenchImage, LayerWriter, Written};
use crate::Context;

const LAYERS: usize = 12;
const TAR_BYTES: u64 = 700_000_000;
/// Beside Debian's essential packages, in this order until there is enough: an image that programs are built in. All
/// come with `scripts/install bench`.
const PACKAGES: &[&str] = &[
    "perl-modules-*",
    "libperl5.*",
    "libpython3.*-stdlib",
    "libc6-dev",
    "linux-libc-dev",
    "binutils-x86-64-linux-gnu",
    "binutils-aarch64-linux-gnu",
    "cpp-[0-9]*",
    "gcc-[0-9]*",
    "libgcc-*-dev",
    "git",
    "golang-*-src",
    "golang-*-go",
    "containerd",
    "docker.io",
    "podman",
];
const SMALL_FILES: usize = 100_000;
const FILES_IN_DIRECTORY: usize = 500;

/// Twelve layers, each on top of the one before, none describing a file twice.
pub(super) fn debian(context: &Context) -> anyhow::Result<BenchImage> {
    BenchImage::prepared(&context.work, "debian", |folder| {
        let members = members()?;
        let total: u64 = members.iter().map(|(_, bytes)| bytes).sum();
        let per_layer = total / LAYERS as u64 + 1;
        let mut layers: Vec<Vec<PathBuf>> = vec![Vec::new(); LAYERS];
        let mut before = 0;
        for (path, bytes) in members {
            layers[(before / per_layer) as usize].push(path);
            before += bytes;
        }
        Ok((write_all(folder, &layers)?, "Debian's packages"))
    })
}

/// One layer of 100,000 files of a few dozen bytes.
pub(super) fn files(context: &Context) -> anyhow::Result<BenchImage> {
    BenchImage::prepared(&context.work, "files", |folder| {
        let mut layer = LayerWriter::create(folder, 0)?;
        for number in 0..SMALL_FILES {
            let content = format!("file {number}\n").repeat(8);
            layer.add_content(&format!("d/{}/f{number}", number / FILES_IN_DIRECTORY), content.as_bytes())?;
        }
        Ok((vec![layer.finish()?], "small files"))
    })
}

/// Two at a time: there is a lot to compress.
fn write_all(folder: &Path, layers: &[Vec<PathBuf>]) -> anyhow::Result<Vec<Written>> {
    let mut written = Vec::new();
    for pair in layers.chunks(2) {
        let at = written.len();
        let both: Vec<anyhow::Result<Written>> = std::thread::scope(|scope| {
            let write = |(number, paths)| {
                let paths: &Vec<PathBuf> = paths;
                scope.spawn(move || write_one(folder, at + number, paths))
            };
            let threads: Vec<_> = pair.iter().enumerate().map(write).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread that writes a layer")).collect()
        });
        written.extend(both.into_iter().collect::<anyhow::Result<Vec<_>>>()?);
    }
    Ok(written)
}

fn write_one(folder: &Path, number: usize, paths: &[PathBuf]) -> anyhow::Result<Written> {
    let mut layer = LayerWriter::create(folder, number)?;
    for path in paths {
        layer.add(path).with_context(|| format!("archive {}", path.display()))?;
    }
    layer.finish()
}

/// Paths with the bytes that they take in an archive, parents before what lies in them.
fn members() -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut packages = names(&["-f", "${Package} ${Essential}\n", "-W"], " yes")?;
    for pattern in PACKAGES {
        packages.extend(names(&["-f", "${Package} ${db:Status-Status}\n", "-W", pattern], " installed")?);
    }
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    let (mut members, mut total) = (Vec::new(), 0);
    for package in packages {
        let listing = Command::new("dpkg").args(["-L", &package]).output().context("run dpkg")?.stdout;
        for line in listing.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"/") && *line != b"/.") {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(line));
            // What the administrator has taken away, or a directory on a merged /usr; what is in it has its own line.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if is_through_link(&path) || !seen.insert(path.clone()) {
                continue;
            }
            let bytes = archived_bytes(&metadata);
            total += bytes;
            members.push((path, bytes));
            if total >= TAR_BYTES {
                return Ok(members);
            }
        }
    }
    if total < TAR_BYTES / 2 {
        bail!("Debian's packages here have {} MB of files, too few; `scripts/install bench`", total / 1_000_000);
    }
    Ok(members)
}

fn archived_bytes(metadata: &Metadata) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let data = if metadata.is_file() { metadata.len().next_multiple_of(BLOCK_BYTES) } else { 0 };
    BLOCK_BYTES + data
}

/// `/bin/sh` where `/bin` leads to `/usr/bin`: it is archived there.
fn is_through_link(path: &Path) -> bool {
    path.ancestors().skip(1).any(Path::is_symlink)
}

/// Packages whose line ends in `with`. A pattern that fits none is none.
fn names(query: &[&str], with: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new("dpkg-query").args(query).output().context("run dpkg-query: is this Debian?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<String> = text.lines().filter_map(|line| Some(line.strip_suffix(with)?.to_owned())).collect();
    names.sort();
    names.dedup();
    Ok(names)
}
