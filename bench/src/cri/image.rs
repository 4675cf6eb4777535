//! The image of every container here: a static busybox, in the form of `docker save`, which everybody loads.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub(crate) const IMAGE: &str = "docker.io/wharf/bench:1";
/// What containers run.
pub(crate) const PROCESS: &str = "sleep";
/// The same in a pause process, under a name of its own.
pub(super) const BUSYBOX: &str = "/bin/busybox";

/// Writes the archive to `path`.
pub(super) fn write(path: &Path) -> anyhow::Result<()> {
    let busybox = std::fs::read(BUSYBOX).with_context(|| format!("read {BUSYBOX} (`scripts/install bench`)"))?;
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, folder, std::io::empty())?;
    }
    layer.append_data(&mut header(busybox.len(), 0o755), "bin/busybox", busybox.as_slice())?;
    let mut link = header(0, 0o777);
    link.set_entry_type(tar::EntryType::Symlink);
    layer.append_link(&mut link, format!("bin/{PROCESS}"), "busybox")?;
    let layer = layer.into_inner()?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": [BUSYBOX, PROCESS, "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        archive.append_data(&mut header(content.len(), 0o644), name, content.as_slice())?;
    }
    Ok(File::create(path)?.write_all(&archive.into_inner()?)?)
}

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header
}
