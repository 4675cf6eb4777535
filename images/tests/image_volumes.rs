//! Images as read-only volumes of containers, whole and in part.

mod fixture;

use std::process::Command;

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, TestImage, chain, gzip, is_root};
use serde_json::json;
use wharf_images::{Image, ImageVolume, PullOptions, StoreError};

/// An image of three layers: a directory is merged, another replaced, a file removed.
async fn pulled(node: &Node) -> Image {
    let base = Layer::new()
        .dir("data/", 0o755)
        .file("data/base", b"base")
        .file("data/gone", b"gone")
        .dir("opaque/", 0o755)
        .file("opaque/hidden", b"hidden")
        .symlink("link", "data")
        .symlink("out", "../../../../../etc")
        .file("plain", b"plain");
    let upper = Layer::new()
        .dir("data/", 0o755)
        .file("data/upper", b"upper")
        .file("data/.wh.gone", b"")
        .dir("opaque/", 0o755)
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/shown", b"shown");
    let top = Layer::new().file("top", b"top");
    let layers: Vec<_> = [base, upper, top].map(Layer::tar).map(|tar| (tar.clone(), gzip(&tar))).into();
    let image = TestImage::new(&layers, json!({}));
    let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
    node.store.pull(&registry.reference("data:1"), PullOptions::default()).await.unwrap()
}

/// What a container would find there: every file with its content, or the volume's own if it is a file. Mounted in a
/// namespace that goes with it.
fn content(volume: &ImageVolume) -> String {
    let script = match volume {
        ImageVolume::Bind(path) => format!("cd '{0}' 2>/dev/null || {{ cat '{0}'; exit; }}", path.display()),
        ImageVolume::Overlay { lower } => {
            let lower: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
            format!("mount -t overlay -o ro,lowerdir={} x /mnt && cd /mnt && ! touch x 2>/dev/null", lower.join(":"))
        }
    };
    let find = "find . -type f | sort | while read f; do printf '%s=%s ' \"$f\" \"$(cat \"$f\")\"; done";
    let output = Command::new("unshare").args(["-m", "sh", "-ec", &format!("{script}; {find}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_shows_what_the_image_has_at_its_sub_path() {
    if !is_root("a_volume_shows_what_the_image_has_at_its_sub_path") {
        return;
    }
    let node = Node::new();
    let image = pulled(&node).await;
    node.store.prepare("c", &image).unwrap();
    let volume = |sub_path: &str| node.store.image_volume("c", &image, sub_path).map_err(|error| chain(&error));
    let all = "./data/base=base ./data/upper=upper ./opaque/shown=shown ./plain=plain ./top=top";
    for (sub_path, shown) in [
        ("", all),
        ("./", all),
        ("data", "./base=base ./upper=upper"),
        ("link/", "./base=base ./upper=upper"),
        ("opaque", "./shown=shown"),
        ("plain", "plain"),
        ("data//upper", "upper"),
    ] {
        assert_eq!(content(&volume(sub_path).unwrap()), shown, "{sub_path}");
    }
    assert!(matches!(volume("opaque").unwrap(), ImageVolume::Bind(_)));
    for (sub_path, part) in [
        ("/data", "`/data` of image sha256:"),
        ("/data", "expected a relative path"),
        ("data/../plain", "expected a path without `..`"),
        ("data/gone", "no directory or regular file"),
        ("opaque/hidden", "no directory or regular file"),
        ("plain/x", "no directory or regular file"),
        // Of this machine it has nothing.
        ("out", "no directory or regular file"),
        ("out/passwd", "no directory or regular file"),
    ] {
        let line = volume(sub_path).unwrap_err();
        assert!(line.starts_with("container c: sub-path") && line.contains(part), "{sub_path}: {line}");
    }
    let line = chain(&node.store.image_volume("other", &image, "").unwrap_err());
    assert_eq!(line, "container other: has no writable layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_of_a_volume_stays_as_long_as_its_container() {
    if !is_root("the_image_of_a_volume_stays_as_long_as_its_container") {
        return;
    }
    let node = Node::new();
    let data = pulled(&node).await;
    let other = TestImage::small("container");
    let registry = FakeRegistry::start(move |request| honest(&other, request)).await;
    let own = node.store.pull(&registry.reference("own"), PullOptions::default()).await.unwrap();
    node.store.prepare("c", &own).unwrap();
    let volume = node.store.image_volume("c", &data, "").unwrap();
    assert_eq!(node.store.image_volume("c", &data, "").unwrap(), volume);
    let refused = node.store.remove(&data.id.to_string());
    assert!(matches!(&refused, Err(StoreError::InUse { containers, .. }) if containers == &["c"]), "{refused:?}");
    // What is removed at the same time does not take the volume's layers with it.
    let third = TestImage::small("third");
    let registry = FakeRegistry::start(move |request| honest(&third, request)).await;
    let third = node.store.pull(&registry.reference("third"), PullOptions::default()).await.unwrap();
    node.store.remove(&third.id.to_string()).unwrap();
    assert!(content(&volume).contains("top=top"));
    node.store.remove_snapshot("c").unwrap();
    node.store.remove(&data.id.to_string()).unwrap();
    assert!(node.store.image_volume("c", &data, "").is_err());
}
