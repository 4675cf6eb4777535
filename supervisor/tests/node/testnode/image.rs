//! Images as archives.

use super::IMAGE;
use std::io::Write;
use std::path::Path;

/// Applets the image has links for.
const APPLETS: [&str; 17] = [
    "sh", "sleep", "echo", "cat", "true", "false", "id", "hostname", "ps", "nc", "wget", "httpd", "ping", "kill",
    "env", "mkdir", "tar",
];

/// A docker-archive with one layer: busybox, its links, and account files.
pub(super) fn write_image(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let directory = |layer: &mut tar::Builder<Vec<u8>>, name: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    };
    for name in ["bin/", "etc/", "dev/", "proc/", "sys/", "root/"] {
        directory(&mut layer, name, 0o755);
    }
    directory(&mut layer, "tmp/", 0o1777);
    append(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox").unwrap(), 0o755);
    append(&mut layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n", 0o644);
    append(&mut layer, "etc/group", b"root:x:0:\nweb:x:1000:\nmail:x:12:web\n", 0o644);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let image = serde_json::json!({"Cmd": ["sh"], "Env": ["FROM_IMAGE=yes"]});
    write_archive(path, IMAGE, &image, &layer.into_inner().unwrap());
}

/// A docker-archive of one layer, whose containers are what `config` says.
pub fn write_archive(path: &Path, name: &str, config: &serde_json::Value, layer: &[u8]) {
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [wharf_images::Digest::of(layer).to_string()]},
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "config.json", config.to_string().as_bytes(), 0o644);
    append(&mut archive, "layer.tar", layer, 0o644);
    append(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    std::fs::File::create(path).unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
}

pub fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).unwrap();
}
