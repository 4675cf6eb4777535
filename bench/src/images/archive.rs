//! An image as a folder with an OCI image layout, made of layers that are written here.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// As docker and buildkit compress.
const GZIP_LEVEL: u32 = 6;
const DESCRIPTION: &str = "description";
pub(super) const TAG: &str = "v1";

/// An image that lies ready in `folder`.
pub(super) struct BenchImage {
    pub folder: PathBuf,
    pub name: &'static str,
    description: String,
}

/// One layer under construction: gzip over tar, with both digests.
pub(super) struct LayerWriter {
    tar: tar::Builder<Hashed<GzEncoder<Hashed<BufWriter<File>>>>>,
    file: PathBuf,
    pub members: u64,
}

/// A layer that is whole.
pub(super) struct Written {
    digest: String,
    size: u64,
    diff_id: String,
    pub tar_bytes: u64,
    pub members: u64,
}

impl BenchImage {
    /// The image of an earlier run, or what `make` writes; in one piece or not at all.
    pub(super) fn prepared(
        work: &Path,
        name: &'static str,
        make: impl FnOnce(&Path) -> anyhow::Result<(Vec<Written>, &'static str)>,
    ) -> anyhow::Result<Self> {
        let folder = work.join("images").join(name);
        if !folder.exists() {
            println!("making the image `{name}`, once");
            let new = work.join("images").join(format!("{name}.new"));
            // What a run that was ended has left.
            if new.exists() {
                std::fs::remove_dir_all(&new)?;
            }
            std::fs::create_dir_all(new.join("blobs/sha256"))?;
            let (layers, content) = make(&new)?;
            describe(&new, &layers, content)?;
            std::fs::rename(&new, &folder)?;
        }
        let description = std::fs::read_to_string(folder.join(DESCRIPTION))?;
        Ok(Self { folder, name, description })
    }

    pub(super) fn describe(&self) -> &str {
        &self.description
    }

    /// The layers' digests, base first.
    pub(super) fn layers(&self) -> anyhow::Result<Vec<String>> {
        let manifest = self.folder.join("blobs/sha256").join(self.manifest()?.trim_start_matches("sha256:"));
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest)?)?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        layers.iter().map(|layer| Ok(layer["digest"].as_str().context("no digest")?.to_owned())).collect()
    }

    /// The manifest's digest.
    pub(super) fn manifest(&self) -> anyhow::Result<String> {
        let index: Value = serde_json::from_slice(&std::fs::read(self.folder.join("index.json"))?)?;
        Ok(index["manifests"][0]["digest"].as_str().context("no manifest")?.to_owned())
    }
}

impl LayerWriter {
    /// Layer number `number` of the image being made in `folder`.
    pub(super) fn create(folder: &Path, number: usize) -> anyhow::Result<Self> {
        let file = folder.join(format!("layer-{number}"));
        let blob = Hashed::new(BufWriter::new(File::create(&file)?));
        let gzip = GzEncoder::new(blob, Compression::new(GZIP_LEVEL));
        let mut tar = tar::Builder::new(Hashed::new(gzip));
        tar.follow_symlinks(false);
        Ok(Self { tar, file, members: 0 })
    }

    /// A file of this machine, with its attributes, under the same name.
    pub(super) fn add(&mut self, path: &Path) -> io::Result<()> {
        self.members += 1;
        self.tar.append_path_with_name(path, path.strip_prefix("/").unwrap_or(path))
    }

    /// A file with `content`, owned by root.
    pub(super) fn add_content(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        self.members += 1;
        self.tar.append_data(&mut header, path, content)
    }

    pub(super) fn finish(self) -> anyhow::Result<Written> {
        let members = self.members;
        let content = self.tar.into_inner()?;
        let (tar_bytes, diff_id) = (content.bytes, content.digest());
        let blob = content.inner.finish()?;
        let (size, digest) = (blob.bytes, blob.digest());
        blob.inner.into_inner()?;
        let place = self.file.with_file_name("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        std::fs::rename(&self.file, place)?;
        Ok(Written { digest, size, diff_id, tar_bytes, members })
    }
}

fn describe(folder: &Path, layers: &[Written], content: &str) -> anyhow::Result<()> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| &*layer.diff_id).collect();
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| {
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            json!({"mediaType": media_type, "digest": layer.digest, "size": layer.size})
        })
        .collect();
    let (config, config_size) = put(folder, &config)?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "layers": descriptors,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
    });
    let (digest, size) = put(folder, &manifest)?;
    let names = json!({"org.opencontainers.image.ref.name": TAG});
    let entry = json!({"mediaType": manifest_type, "digest": digest, "size": size, "annotations": names});
    std::fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")?;
    std::fs::write(folder.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())?;
    let sum = |of: fn(&Written) -> u64| layers.iter().map(of).sum::<u64>();
    let (tar, blob, members) = (sum(|layer| layer.tar_bytes), sum(|layer| layer.size), sum(|layer| layer.members));
    let description = format!(
        "an image of {content} ({} in {}, {} MB of tar, {} MB compressed)",
        counted(members, "member"),
        counted(layers.len() as u64, "layer"),
        tar / 1_000_000,
        blob / 1_000_000
    );
    Ok(std::fs::write(folder.join(DESCRIPTION), description)?)
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn put(folder: &Path, document: &Value) -> anyhow::Result<(String, usize)> {
    let bytes = document.to_string().into_bytes();
    let mut hashed = Hashed::new(io::sink());
    hashed.write_all(&bytes)?;
    let digest = hashed.digest();
    std::fs::write(folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:")), &bytes)?;
    Ok((digest, bytes.len()))
}

struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    fn digest(&self) -> String {
        let hex: String = self.hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hasher.update(&data[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
