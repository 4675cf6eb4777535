//! Images saved to archives, and read again by us and by skopeo.

mod fixture;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, TestImage, chain, gzip, is_installed, is_root, overlay, read, zstd};
use serde_json::{Value, json};
use wharf_images::{ArchiveForm, Image, PullOptions};

/// An image with a gzip, a zstd and a plain layer, in a store under two tags.
async fn pulled(node: &Node) -> (TestImage, Image, FakeRegistry) {
    let layers: Vec<_> = [gzip as fn(&[u8]) -> Vec<u8>, zstd, <[u8]>::to_vec]
        .iter()
        .enumerate()
        .map(|(number, compress)| {
            let tar =
                Layer::new().dir("./", 0o755).file(&format!("file-{number}"), &vec![b'0' + number as u8; 9000]).tar();
            (tar.clone(), compress(&tar))
        })
        .collect();
    let image = TestImage::new(&layers, json!({"Cmd": ["/hello"], "Env": ["A=b"]}));
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
    let pulled = node.store.pull(&registry.reference("team/app:1"), PullOptions::default()).await.unwrap();
    node.store.tag(&pulled.id.to_string(), &"demo/web:2".parse().unwrap()).unwrap();
    (image, pulled, registry)
}

async fn save(node: &Node, name: &str, form: ArchiveForm, path: &Path) -> Result<(), String> {
    let file = File::create(path).unwrap();
    node.store.save(vec![name.into()], form, file).await.map_err(|error| chain(&error))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_loaded_as_the_same_image() {
    if !is_root("what_is_saved_is_loaded_as_the_same_image") {
        return;
    }
    let node = Node::new();
    let (image, pulled, _registry) = pulled(&node).await;
    let folder = tempfile::tempdir().unwrap();
    for form in [ArchiveForm::Docker, ArchiveForm::Oci] {
        for (name, tags) in [("demo/web:2", 1), (&pulled.id.to_string()[..20], 2)] {
            let path = folder.path().join("image.tar");
            save(&node, name, form, &path).await.unwrap();
            let other = Node::new();
            let loaded = other.store.load(&path, None).await.unwrap();
            assert_eq!((loaded[0].id, loaded[0].repo_tags.len()), (image.id(), tags), "{form:?} {name}");
            // Docker's form has no compressed layers, and so another manifest.
            assert_eq!(loaded[0].manifest_digest == image.digest(), form == ArchiveForm::Oci);
            let mount = overlay(&other.store.prepare("c", &loaded[0]).unwrap());
            assert_eq!(read(mount.lower[2].join("file-0")), "0".repeat(9000));
            let again = folder.path().join("again.tar");
            save(&node, name, form, &again).await.unwrap();
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap(), "the same image, another archive");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_what_is_saved() {
    let test = "skopeo_reads_what_is_saved";
    if !is_root(test) || !is_installed("skopeo", test) {
        return;
    }
    let node = Node::new();
    let (image, _, _registry) = pulled(&node).await;
    let folder = tempfile::tempdir().unwrap();
    for (form, transport) in [(ArchiveForm::Docker, "docker-archive"), (ArchiveForm::Oci, "oci-archive")] {
        let path = folder.path().join("image.tar");
        save(&node, "demo/web:2", form, &path).await.unwrap();
        let copy = folder.path().join(transport);
        let from = format!("{transport}:{}:docker.io/demo/web:2", path.display());
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", &from, &format!("dir:{}", copy.display())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let manifest = std::fs::read(copy.join("manifest.json")).unwrap();
        let document: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(document["config"]["digest"], image.id().to_string(), "{transport}");
        match form {
            ArchiveForm::Oci => assert_eq!(manifest, image.manifest),
            ArchiveForm::Docker => {
                assert_eq!(std::fs::read(copy.join(image.id().hex())).unwrap(), image.blobs[0].1);
                assert_eq!(document["layers"].as_array().unwrap().len(), 3);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_saved_is_named() {
    if !is_root("what_cannot_be_saved_is_named") {
        return;
    }
    let node = Node::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    let line = save(&node, "busybox", ArchiveForm::Oci, &path).await.unwrap_err();
    assert_eq!(line, "save busybox: not in the store");
    let (image, _, _registry) = pulled(&node).await;
    let layer = image.blobs[3].0;
    let blob = node.store.image_layout().join("blobs/sha256").join(layer.hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let line = save(&node, "demo/web:2", ArchiveForm::Docker, &path).await.unwrap_err();
    assert!(
        line.contains(&format!("layer {layer} unpacks to the diff id")) && line.contains("pull it again"),
        "{line}"
    );
    std::fs::remove_file(&blob).unwrap();
    let line = save(&node, "demo/web:2", ArchiveForm::Oci, &path).await.unwrap_err();
    assert!(line.contains(&format!("{layer} of it is not here; pull it again")), "{line}");
}
