//! Images made in code: a layer of a few files that carry their own checksums.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vm_tests::Image;
use vm_tests::random::Random;

/// In the layer: what `sha256sum -c` reads.
pub const SUMS: &str = "SUMS";
const FILES: usize = 12;
const FILE_BYTES: u64 = 6000;

/// One image, and the ways in which a guest can get it.
pub struct SmallImage {
    layer: Vec<u8>,
    config: Vec<u8>,
}

impl SmallImage {
    /// Another number makes another image.
    pub fn new(number: u64) -> Self {
        let mut random = Random::new(number);
        let (mut layer, mut sums) = (tar::Builder::new(Vec::new()), String::new());
        for file in 0..FILES {
            let size = random.below(FILE_BYTES) as usize;
            let content: Vec<u8> = std::iter::repeat_with(|| random.number() as u8).take(size).collect();
            let name = format!("file-{file}");
            writeln!(sums, "{}  {name}", hex(&content)).expect("a line");
            append(&mut layer, &name, &content);
        }
        append(&mut layer, SUMS, sums.as_bytes());
        Self::of(layer.into_inner().expect("a layer"), json!({}))
    }

    /// Busybox alone, which sleeps.
    pub fn sleeping() -> Self {
        let mut layer = tar::Builder::new(Vec::new());
        let busybox = std::fs::read("/bin/busybox").expect("read busybox");
        append(&mut layer, "busybox", &busybox);
        Self::of(layer.into_inner().expect("a layer"), json!({"Cmd": ["/busybox", "sleep", "1000000"]}))
    }

    fn of(layer: Vec<u8>, config: Value) -> Self {
        let diff_ids = [format!("sha256:{}", hex(&layer))];
        let config = json!({"architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        Self { layer, config: config.to_string().into_bytes() }
    }

    /// Puts a docker-archive with this name of the image into a guest.
    pub fn add_archive(&self, guest: &mut Image, path: &str, name: &str) {
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, "manifest.json", manifest.to_string().as_bytes());
        append(&mut archive, "config.json", &self.config);
        append(&mut archive, "layer.tar", &self.layer);
        guest.data(path, archive.into_inner().expect("an archive")).expect("add an archive");
    }

    /// Puts what a registry would answer into a guest, as files for its httpd.
    pub fn add_to_registry(&self, guest: &mut Image, directory: &Path, repository: &str) {
        let descriptor = |kind: &str, content: &[u8]| {
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "size": content.len(),
                "digest": format!("sha256:{}", hex(content))})
        };
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &self.config),
            "layers": [descriptor("layer.v1.tar", &self.layer)]});
        let manifest = manifest.to_string().into_bytes();
        let place = directory.join("v2").join(repository);
        let mut add = |path: PathBuf, content: &[u8]| {
            guest.data(&path.to_string_lossy(), content).expect("add a file of the registry");
        };
        for blob in [&self.config, &self.layer] {
            add(place.join(format!("blobs/sha256:{}", hex(blob))), blob);
        }
        add(place.join("manifests/1"), &manifest);
        add(place.join(format!("manifests/sha256:{}", hex(&manifest))), &manifest);
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).expect("a member");
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
