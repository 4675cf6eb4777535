//! A sound store is found sound, and every kind of damage is found.

mod fixture;

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use fixture::{Layer, Node, is_root};
use serde_json::json;
use wharf_images::Digest;
use wharf_images::verify::{Damage, Depth};

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
    let sound = node.store.verify(Default::default()).unwrap();
    assert_eq!((sound.images, sound.blobs, sound.layers, sound.damages), (1, 3, 1, Vec::new()));

    let layer = Digest::of(&layer);
    let blob = node.dir.path().join("images/blobs/sha256").join(layer.hex());
    let content = std::fs::read(&blob).unwrap();
    let mut changed = content.clone();
    changed[0] ^= 1;
    std::fs::write(&blob, &changed).unwrap();
    let damages = node.store.verify(Default::default()).unwrap().damages;
    assert_eq!(damages, [Damage::Content { blob: layer, found: Digest::of(&changed) }]);

    std::fs::remove_file(&blob).unwrap();
    assert_eq!(
        node.store.verify(Default::default()).unwrap().damages,
        [Damage::BlobMissing { image: image.id, blob: layer }]
    );
    std::fs::write(&blob, content).unwrap();

    let snapshot = node.dir.path().join("snapshots").join(layer.hex());
    std::fs::write(snapshot.join("record.json"), b"").unwrap();
    let damages = node.store.verify(Default::default()).unwrap().damages;
    assert!(matches!(damages.as_slice(), [Damage::Layer { layer: found, .. }] if *found == layer), "{damages:?}");
    std::fs::remove_dir_all(&snapshot).unwrap();
    assert_eq!(
        node.store.verify(Default::default()).unwrap().damages,
        [Damage::LayerMissing { image: image.id, layer }]
    );
}

/// Writes as somebody does who sets the time back afterwards.
fn change_unseen(path: &Path, content: &[u8]) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    std::fs::write(path, content).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn mark(path: &Path) {
    rustix::fs::setxattr(path, "user.mark", b"x", rustix::fs::XattrFlags::empty()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_an_unpacked_layer_is_found_by_a_deep_check_and_that_layer_unpacked_again() {
    if !is_root("a_changed_file_of_an_unpacked_layer_is_found_by_a_deep_check_and_that_layer_unpacked_again") {
        return;
    }
    let node = Node::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("archive.tar");
    let layer = Layer::new()
        .dir("./", 0o755)
        .dir("etc/", 0o750)
        .file("etc/motd", b"hello")
        .file("usr/bin/tool", b"tool")
        .file("etc/.wh.gone", b"")
        .symlink("link", "etc/motd")
        .tar();
    std::fs::write(&path, archive(&layer)).unwrap();
    node.store.load(&path, None).await.unwrap();
    let layer = Digest::of(&layer);
    let root = node.dir.path().join("snapshots").join(layer.hex()).join("fs");
    let deep = || node.store.verify(Depth::Files).unwrap().damages;
    assert_eq!(deep(), []);

    type Change = fn(&Path);
    let changes: [(&str, Change); 10] = [
        ("`/etc/motd`: has another content", |root| change_unseen(&root.join("etc/motd"), b"Hello")),
        ("`/etc/motd`: has another size", |root| change_unseen(&root.join("etc/motd"), b"hello, world")),
        ("`/etc/motd`: has another time", |root| std::fs::write(root.join("etc/motd"), b"hello").unwrap()),
        ("`/etc`: has another mode", |root| {
            std::fs::set_permissions(root.join("etc"), std::fs::Permissions::from_mode(0o777)).unwrap()
        }),
        ("`/link`: has another owner", |root| lchown(root.join("link"), Some(7), None).unwrap()),
        ("`/etc`: has other extended attributes", |root| mark(&root.join("etc"))),
        ("`/usr/bin/tool`: has other extended attributes", |root| mark(&root.join("usr/bin/tool"))),
        ("`/usr/bin/more`: is not in its archive", |root| std::fs::write(root.join("usr/bin/more"), b"").unwrap()),
        ("`/usr/bin/tool`: is missing", |root| std::fs::remove_file(root.join("usr/bin/tool")).unwrap()),
        ("`/usr/bin/tool`: is of another kind", |root| {
            std::fs::remove_file(root.join("usr/bin/tool")).unwrap();
            std::fs::create_dir(root.join("usr/bin/tool")).unwrap();
        }),
    ];
    for (found, change) in changes {
        change(&root);
        assert_eq!(node.store.verify(Depth::Blobs).unwrap().damages, []);
        let damages = deep();
        let [Damage::Layer { layer: damaged, reason }] = damages.as_slice() else { panic!("{found}: {damages:?}") };
        assert!(*damaged == layer && reason.starts_with(found), "{found}: {reason}");
        let repaired = node.store.repair(Depth::Files, false).await.unwrap();
        assert_eq!((repaired.unpacked, repaired.fetched.len(), repaired.left), (vec![layer], 0, Vec::new()));
        assert_eq!(deep(), []);
    }
    // Nothing of what was unpacked to compare stays.
    assert_eq!(std::fs::read_dir(node.dir.path().join("tmp")).unwrap().count(), 0);
}
