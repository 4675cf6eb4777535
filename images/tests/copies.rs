//! Root file systems where overlayfs cannot be used: the layers are copied.

mod fixture;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, TestImage, gzip, is_root, read};
use serde_json::json;
use wharf_images::verify::Depth;
use wharf_images::{Image, ImageVolume, PullOptions, RootFs};

const MANY_ZEROS: usize = 1 << 20;

async fn pulled(node: &Node, layers: Vec<Layer>) -> Image {
    let layers: Vec<_> = layers.into_iter().map(Layer::tar).map(|tar| (tar.clone(), gzip(&tar))).collect();
    let image = TestImage::new(&layers, json!({}));
    let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
    node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap()
}

fn layers() -> Vec<Layer> {
    let base = Layer::new()
        .dir("./", 0o755)
        .dir("etc/", 0o750)
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nwww:x:33:33::/:/bin/sh\n")
        .file("etc/gone", b"gone")
        .hard_link("etc/again", "etc/passwd")
        .dir("tree/", 0o755)
        .file("tree/old", b"old")
        .file("zeros", &vec![0; MANY_ZEROS]);
    let top = Layer::new()
        .file("etc/.wh.gone", b"")
        .dir("tree/", 0o700)
        .file("tree/.wh..wh..opq", b"")
        .file("tree/new", b"new");
    vec![base, top]
}

fn copy(root: RootFs) -> std::path::PathBuf {
    match root {
        RootFs::Copy { root, .. } => root,
        RootFs::Overlay(mount) => panic!("an overlay: {mount:?}"),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_copied_where_an_overlay_cannot_be() {
    if !is_root("layers_are_copied_where_an_overlay_cannot_be") {
        return;
    }
    let node = Node::on_overlay();
    let image = pulled(&node, layers()).await;
    let prepared = node.store.prepare("c", &image).unwrap();
    assert_eq!(node.store.snapshot("c").unwrap().as_ref(), Some(&prepared));
    assert_eq!(wharf_images::user::resolve(&prepared, "www").unwrap().uid, 33);
    let root = copy(prepared);
    assert_eq!(names(&root), ["etc", "tree", "zeros"]);
    assert_eq!(names(&root.join("etc")), ["again", "passwd"]);
    assert_eq!(names(&root.join("tree")), ["new"]);
    let inode = |path: &str| std::fs::metadata(root.join(path)).unwrap().ino();
    assert_eq!(inode("etc/again"), inode("etc/passwd"));
    assert_eq!(std::fs::metadata(root.join("tree")).unwrap().mode() & 0o7777, 0o700);

    // It is the container's own.
    std::fs::write(root.join("tree/new"), "other").unwrap();
    std::fs::remove_file(root.join("etc/again")).unwrap();
    let changes: Vec<String> = node
        .store
        .container_changes("c")
        .unwrap()
        .into_iter()
        .map(|change| format!("{:?} {}", change.kind, String::from_utf8_lossy(&change.path)))
        .collect();
    assert_eq!(changes, ["Changed /etc", "Deleted /etc/again", "Changed /tree", "Changed /tree/new"]);
    assert_eq!(read(copy(node.store.prepare("d", &image).unwrap()).join("tree/new")), "new");
    assert!(node.store.snapshot_usage("c").unwrap().bytes >= MANY_ZEROS as u64);
    for container in ["c", "d"] {
        node.store.remove_snapshot(container).unwrap();
        assert_eq!(node.store.snapshot(container).unwrap(), None);
    }
    assert!(!root.exists());
    assert!(node.store.verify(Depth::Files).unwrap().damages.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_several_layers_is_one_directory() {
    if !is_root("a_volume_of_several_layers_is_one_directory") {
        return;
    }
    let node = Node::on_overlay();
    let image = pulled(&node, layers()).await;
    node.store.prepare("c", &image).unwrap();
    for _ in 0..2 {
        let ImageVolume::Bind(volume) = node.store.image_volume("c", &image, "etc").unwrap() else {
            panic!("an overlay");
        };
        assert_eq!(names(&volume), ["again", "passwd"]);
    }
    node.store.remove_snapshot("c").unwrap();
}
