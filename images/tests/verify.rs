//! A sound store is found sound, and every kind of damage is found.

mod fixture;

use fixture::{Layer, Node, is_root};
use serde_json::json;
use wharf_images::Digest;
use wharf_images::verify::Damage;

fn archive(layer: &[u8]) -> Vec<u8> {
    let diff_id = Digest::of(layer);
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": ["example/a:1"], "Layers": ["layer.tar"]}]);
    Layer::new()
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("config.json", config.to_string().as_bytes())
        .file("layer.tar", layer)
        .tar()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_a_blob_and_of_a_layer_is_found() {
    if !is_root("damage_of_a_blob_and_of_a_layer_is_found") {
        return;
    }
    let node = Node::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("archive.tar");
    let layer = Layer::new().file("hello", b"hello").tar();
    std::fs::write(&path, archive(&layer)).unwrap();
    let image = node.store.load(&path, None).await.unwrap().remove(0);
    let sound = node.store.verify().unwrap();
    assert_eq!((sound.images, sound.blobs, sound.layers, sound.damages), (1, 3, 1, Vec::new()));

    let layer = Digest::of(&layer);
    let blob = node.dir.path().join("images/blobs/sha256").join(layer.hex());
    let content = std::fs::read(&blob).unwrap();
    let mut changed = content.clone();
    changed[0] ^= 1;
    std::fs::write(&blob, &changed).unwrap();
    let damages = node.store.verify().unwrap().damages;
    assert_eq!(damages, [Damage::Content { blob: layer, found: Digest::of(&changed) }]);

    std::fs::remove_file(&blob).unwrap();
    assert_eq!(node.store.verify().unwrap().damages, [Damage::BlobMissing { image: image.id, blob: layer }]);
    std::fs::write(&blob, content).unwrap();

    let snapshot = node.dir.path().join("snapshots").join(layer.hex());
    std::fs::write(snapshot.join("record.json"), b"").unwrap();
    let damages = node.store.verify().unwrap().damages;
    assert!(matches!(damages.as_slice(), [Damage::Layer { layer: found, .. }] if *found == layer), "{damages:?}");
    std::fs::remove_dir_all(&snapshot).unwrap();
    assert_eq!(node.store.verify().unwrap().damages, [Damage::LayerMissing { image: image.id, layer }]);
}
