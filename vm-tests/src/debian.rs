//! A Debian root file system with systemd, made by mmdebstrap from Debian's packages and kept as a cpio archive: the
//! kernel unpacks it like any initramfs, so that it lives in memory and is thrown away with the guest.

use crate::lock::{Lock, hash_of_packages};
use crate::{cargo, cpio};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tar::EntryType;

/// The release of Debian.
pub const SUITE: &str = "bookworm";
/// systemd with both buses and logins, what rootless containers need, and what the suites call.
const PACKAGES: [&str; 19] = [
    "apparmor",
    "busybox-static",
    "ca-certificates",
    "criu",
    "dbus",
    "dbus-user-session",
    "iproute2",
    "jq",
    "kmod",
    "libpam-systemd",
    "login",
    "nftables",
    "passwd",
    "procps",
    "systemd",
    "systemd-sysv",
    "uidmap",
    "usr-is-merged",
    "util-linux",
];
/// The ordinary user of the guest, with ranges of subordinate ids.
pub const USER: &str = "wharf";
/// Files of kinds that no guest reads.
const LEFT_OUT: [&str; 4] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// Runs at the end, with the new root as its first argument.
const CUSTOMIZE: &str = r#"chroot "$1" useradd --create-home --shell /bin/bash wharf"#;
/// What apt left behind, and what the kernel mounts over.
const DROPPED: [&str; 5] = ["dev/", "var/cache/apt/", "var/lib/apt/", "var/log/", "boot/"];
/// Changes when the archive is written in another way.
const FORMAT: &str = "1";
const STATUS: &str = "var/lib/dpkg/status";

/// The archive, from the cache or made now. Further packages make an archive of their own.
pub fn archive(further_packages: &[String]) -> Result<PathBuf> {
    let mut packages: Vec<&str> = PACKAGES.into_iter().chain(further_packages.iter().map(String::as_str)).collect();
    packages.sort_unstable();
    packages.dedup();
    let lock = Lock::built_in()?;
    let pinned = lock.root(SUITE).unwrap_or_default();
    let mut recipe = vec![FORMAT, SUITE, CUSTOMIZE, pinned];
    recipe.extend(LEFT_OUT.iter().chain(&DROPPED).chain(&packages));
    let digest = Sha256::digest(recipe.join("\0").as_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (cache, _lock) = cargo::locked_cache()?;
    let path = cache.join(format!("debian-{SUITE}-{name}.cpio"));
    if !path.exists() {
        eprintln!("vm-tests: making a {SUITE} root file system with systemd");
        let unfinished = cache.join("debian.unfinished");
        let made = make(&packages, &unfinished);
        let renamed = made.and_then(|found| {
            // Debian's mirrors have no other versions than the newest: a guest of these is better than none.
            if further_packages.is_empty() && found != pinned {
                eprintln!("vm-tests: Debian has newer packages than vm-tests/packages.lock pins, and they are used;");
                eprintln!("vm-tests: `cargo run -p vm-tests -- lock` pins what Debian has now");
            }
            fs::rename(&unfinished, &path).context("name the root file system")
        });
        if renamed.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        renamed?;
    }
    Ok(path)
}

/// Makes a root file system only to see of which packages and versions it would consist now.
pub fn newest(work: &Path) -> Result<String> {
    let file = work.join("root.cpio");
    make(&PACKAGES, &file)
}

/// Returns the hash of its packages and versions.
fn make(packages: &[&str], output: &Path) -> Result<String> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=essential", "--format=tar", "--aptopt=APT::Install-Recommends \"false\""]);
    command.args(LEFT_OUT.map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    command.arg(format!("--include={}", packages.join(",")));
    command.args(["--customize-hook", CUSTOMIZE, SUITE, "-"]);
    // Programs of the administrator are called by name in there, whoever calls.
    command.env("PATH", crate::guest::PATH).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run mmdebstrap: `scripts/install vm` installs it")?;
    let errors = child.stderr.take();
    let messages = std::thread::spawn(move || {
        let mut text = String::new();
        errors.map(|mut errors| errors.read_to_string(&mut text));
        text
    });
    let tar = child.stdout.take().context("mmdebstrap has no output")?;
    let converted = convert(BufReader::with_capacity(1 << 20, tar), output);
    let status = child.wait().context("wait for mmdebstrap")?;
    let messages = messages.join().unwrap_or_default();
    ensure!(status.success(), "mmdebstrap: {status}\n{}", last_lines(&messages));
    let installed = converted.with_context(|| format!("write {}", output.display()))?;
    Ok(hash_of_packages(&installed))
}

fn last_lines(text: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Returns what dpkg says of its packages.
fn convert(tar: impl Read, output: &Path) -> Result<String> {
    let mut installed = String::new();
    let mut writer = cpio::Writer::new(BufWriter::with_capacity(1 << 20, File::create(output)?));
    let mut inodes: HashMap<String, u32> = HashMap::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let name = clean(&entry.path()?)?;
        if name.is_empty() || DROPPED.iter().any(|dropped| name.starts_with(dropped)) {
            continue;
        }
        let header = entry.header().clone();
        let (owner, mode) = (cpio::Owner { user: header.uid()? as u32, group: header.gid()? as u32 }, header.mode()?);
        let target = entry.link_name()?.map(|target| target.into_owned());
        match (header.entry_type(), target) {
            (EntryType::Directory, _) => writer.owned_directory(&name, mode, owner)?,
            (EntryType::Symlink, Some(target)) => writer.link(&name, &target.to_string_lossy())?,
            (EntryType::Link, Some(target)) => {
                let inode =
                    *inodes.get(&clean(&target)?).with_context(|| format!("{name}: no {}", target.display()))?;
                writer.hard_link(&name, mode, owner, inode)?;
            }
            (EntryType::Regular, _) if name == STATUS => {
                entry.read_to_string(&mut installed)?;
                writer.owned_file(&name, mode, owner, installed.len() as u64, &mut installed.as_bytes())?;
            }
            (EntryType::Regular, _) => {
                let inode = writer.owned_file(&name, mode, owner, header.size()?, &mut entry)?;
                inodes.insert(name, inode);
            }
            (kind, _) => bail!("{name}: an entry of kind {kind:?} is not expected in a root file system"),
        }
    }
    writer.finish()?.flush().context("write")?;
    Ok(installed)
}

/// `./usr/bin/` as `usr/bin`; the root itself is empty.
fn clean(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    let text = text.strip_prefix('.').unwrap_or(text);
    Ok(text.trim_matches('/').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_tar_become_names_of_a_cpio() {
        let clean = |text: &str| clean(Path::new(text)).expect("clean");
        assert_eq!(["./", "./usr/bin/", "./etc/.pwd.lock"].map(clean), ["", "usr/bin", "etc/.pwd.lock"]);
    }

    #[test]
    fn hard_links_share_the_inode_of_their_file() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(42);
        header.set_size(2);
        tar.append_data(&mut header.clone(), "./a", &b"hi"[..]).expect("file");
        header.set_size(0);
        header.set_entry_type(EntryType::Link);
        tar.append_link(&mut header, "./b", "./a").expect("link");
        let directory = std::env::temp_dir().join(format!("wharf-cpio-{}", std::process::id()));
        convert(&*tar.into_inner().expect("tar"), &directory).expect("convert");
        let archive = fs::read(&directory).expect("read");
        fs::remove_file(&directory).expect("remove");
        // Fields of eight digits after the magic: inode, mode, uid, gid, links.
        let fields = |at: usize| String::from_utf8_lossy(&archive[at + 6..at + 46]).into_owned();
        let regular = "000089ed000000000000002a00000002";
        assert_eq!(fields(0), format!("00000001{regular}"));
        assert_eq!(fields(116), format!("00000001{regular}"));
    }
}
