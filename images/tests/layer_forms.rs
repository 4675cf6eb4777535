//! Layers of unusual form and size: zstd:chunked, a hundred thousand files, more than overlayfs' old bound of 128.

mod fixture;

use std::process::Command;

use fixture::fake::{FakeRegistry, honest};
use fixture::{DebianRegistry, Layer, Node, TestImage, gzip, is_installed, is_root, noise, overlay, read, zstd};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use wharf_images::{Image, PullOptions};

async fn pulled(node: &Node, layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
    let image = TestImage::new(layers, json!({}));
    let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
    node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap()
}

/// A skippable frame (RFC 8878, 3.1.2), as zstd:chunked keeps its table of contents in.
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[0x50, 0x2a, 0x4d, 0x18][..], &length, content].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn zstd_chunked_layers_are_read_as_plain_zstd() {
    if !is_root("zstd_chunked_layers_are_read_as_plain_zstd") {
        return;
    }
    let tar = Layer::new().file("one", &noise(1, 70_000)).file("two", b"two").tar();
    // Each chunk is a frame of its own; the table and the footer are skipped, wherever they are.
    let frames: Vec<Vec<u8>> = tar.chunks(10_000).map(zstd).collect();
    let (table, footer) = (skippable(&noise(2, 5000)), skippable(b"GNUlInUx"));
    for blob in [
        [frames.concat(), table.clone(), footer.clone()].concat(),
        [table.clone(), frames.concat()].concat(),
        [frames[0].clone(), table, frames[1..].concat(), footer].concat(),
    ] {
        let node = Node::new();
        // What begins with a skippable frame shows no magic number of zstd's own.
        let layers = [(tar.clone(), blob.clone())];
        let image = match blob.starts_with(&[0x28, 0xb5]) {
            true => pulled(&node, &layers).await,
            false => {
                let mut image = TestImage::new(&[(tar.clone(), zstd(&tar))], json!({}));
                let (old, new) = (image.blobs[1].clone(), wharf_images::Digest::of(&blob));
                let manifest = String::from_utf8(image.manifest).unwrap().replace(&old.0.to_string(), &new.to_string());
                image.manifest =
                    manifest.replace(&format!("\"size\":{}", old.1.len()), &format!("\"size\":{}", blob.len())).into();
                image.blobs[1] = (new, blob);
                let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
                node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap()
            }
        };
        let lower = overlay(&node.store.prepare("c", &image).unwrap()).lower;
        assert_eq!(read(lower[0].join("two")), "two");
        assert_eq!(std::fs::read(lower[0].join("one")).unwrap(), noise(1, 70_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zstd_chunked_layers_of_skopeo_are_read() {
    fixture::install_tls();
    let test = "zstd_chunked_layers_of_skopeo_are_read";
    if !is_root(test) || !is_installed("skopeo", test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let tar = Layer::new().dir("./", 0o755).file("one", &noise(1, 300_000)).file("two", b"two").tar();
    registry.push("plain", "1", &TestImage::new(&[(tar.clone(), gzip(&tar))], json!({}))).await;
    let place = |name: &str| format!("docker://{}", registry.reference(name));
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .args(["--dest-compress-format", "zstd:chunked"])
        .args([place("plain:1"), place("chunked:1")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let node = Node::new();
    let image = node.store.pull(&registry.reference("chunked:1"), PullOptions::default()).await.unwrap();
    let manifest: Value = serde_json::from_slice(&node.store.manifest_document(&image).unwrap()).unwrap();
    assert!(manifest["layers"][0].to_string().contains("zstd-chunked"), "{manifest}");
    let lower = overlay(&node.store.prepare("c", &image).unwrap()).lower;
    assert_eq!(std::fs::read(lower[0].join("one")).unwrap(), noise(1, 300_000));
}

/// 100,000, or `WHARF_LAYER_FILES`: in an emulated guest so many take minutes. A multiple of 1,000.
fn layer_files() -> usize {
    std::env::var("WHARF_LAYER_FILES").map_or(100_000, |count| count.parse().expect("WHARF_LAYER_FILES"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_a_hundred_thousand_files_is_unpacked() {
    if !is_root("a_layer_of_a_hundred_thousand_files_is_unpacked") {
        return;
    }
    let count = layer_files();
    let mut archive = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    for number in 0..count {
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(0);
        archive.append_data(&mut header, format!("{}/{number}", number / 1000), &[][..]).unwrap();
    }
    let tar = archive.into_inner().unwrap();
    // In memory: a disk that others use takes minutes for so many inodes.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = wharf_images::Store::open(dir.path()).unwrap();
    let node = Node::of(dir, store);
    let blob = zstd(&tar);
    let image = pulled(&node, &[(tar, blob)]).await;
    let root = &overlay(&node.store.prepare("c", &image).unwrap()).lower[0];
    let directories: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(directories.len(), count / 1000);
    let files = directories.iter().map(|directory| std::fs::read_dir(directory).unwrap().count());
    assert_eq!(files.sum::<usize>(), count);
    // The layer's root, the directories it implies, and the files.
    assert_eq!(node.store.layers_of(&image).unwrap()[0].unpacked.unwrap().inodes as usize, 1 + count / 1000 + count);
    node.store.remove_snapshot("c").unwrap();
    node.store.remove(&image.id.to_string()).unwrap();
    assert_eq!(std::fs::read_dir(node.dir.path().join("snapshots")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_two_hundred_layers_is_one_tree() {
    if !is_root("an_image_of_two_hundred_layers_is_one_tree") {
        return;
    }
    let layer = |number: usize| {
        let tar = Layer::new()
            .dir("shared/", 0o755)
            .file(&format!("shared/{number}"), b"")
            .file("last", number.to_string().as_bytes())
            .tar();
        (tar.clone(), gzip(&tar))
    };
    let layers: Vec<_> = (0..200).map(layer).collect();
    let node = Node::new();
    let image = pulled(&node, &layers).await;
    let mount = overlay(&node.store.prepare("c", &image).unwrap());
    assert_eq!((mount.lower.len(), read(mount.lower[0].join("last"))), (200, "199".to_owned()));
    let volume = node.store.image_volume("c", &image, "shared").unwrap();
    assert!(matches!(volume, wharf_images::ImageVolume::Overlay { lower } if lower.len() == 200));
    assert!(node.store.container_changes("c").unwrap().is_empty());
    let pruned = node.store.prune(true).unwrap();
    assert!(pruned.images.is_empty() && node.store.verify(Default::default()).unwrap().damages.is_empty());
}
