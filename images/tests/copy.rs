//! Copies between registries, the store, archives and layouts, each read again by us and by skopeo.

mod fixture;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use fixture::flaky::{Fault, FlakyProxy};
use fixture::{DebianRegistry, Node, OCI_INDEX, TestImage, chain, index, is_installed, is_root, overlay, read};
use wharf_images::{Copied, CopyOptions, Digest, Place};

/// A registry with an index of two images as `multi:1`.
struct Multi {
    registry: DebianRegistry,
    amd64: TestImage,
    arm64: TestImage,
    index: Vec<u8>,
}

async fn multi(test: &str) -> Option<Multi> {
    fixture::install_tls();
    if !is_root(test) || !is_installed("skopeo", test) {
        return None;
    }
    let registry = DebianRegistry::start(test)?;
    let (amd64, arm64) = (TestImage::small("amd64"), TestImage::small("arm64"));
    registry.push("multi", "amd64", &amd64).await;
    registry.push("multi", "arm64", &arm64).await;
    let index = index(&[amd64.index_entry("linux", "amd64"), arm64.index_entry("linux", "arm64")]);
    registry.push_manifest("multi", "1", OCI_INDEX, &index).await;
    Some(Multi { registry, amd64, arm64, index })
}

async fn copy(node: &Node, from: &str, to: &str, platform: Option<&str>) -> Result<Copied, String> {
    let platform = platform.map(|platform| platform.parse().unwrap());
    let options = CopyOptions { platform, ..CopyOptions::default() };
    let (from, to): (Place, Place) = (from.parse().unwrap(), to.parse().unwrap());
    let copied = node.store.copy(&from, &to, &options).await.map_err(|error| chain(&error));
    node.store.idle().await;
    // What only passed through is gone.
    assert_eq!(std::fs::read_dir(node.dir.path().join("tmp")).unwrap().count(), 0);
    copied
}

/// What skopeo finds there: the manifest, and every blob of all images by name.
fn skopeo(place: &str, all: bool) -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("copy");
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests"]);
    command.args(all.then_some("--all"));
    let output = command.args([place, &format!("dir:{}", to.display())]).output().unwrap();
    assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    let files = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap());
    let content =
        |entry: std::fs::DirEntry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
    (std::fs::read(to.join("manifest.json")).unwrap(), files.map(content).collect())
}

fn whole(place: &str, multi: &Multi) {
    let (manifest, files) = skopeo(place, true);
    assert_eq!(manifest, multi.index, "{place}");
    for (digest, blob) in multi.amd64.blobs.iter().chain(&multi.arm64.blobs) {
        assert!(files[&digest.hex()] == *blob, "{place}: {digest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_copied_whole_from_everywhere_to_everywhere() {
    let test = "an_index_is_copied_whole_from_everywhere_to_everywhere";
    let Some(multi) = multi(test).await else { return };
    let node = Node::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let other = DebianRegistry::start(test).unwrap();
    let digest = Digest::of(&multi.index);
    let mut sources = vec![format!("docker://{}", multi.registry.reference("multi:1"))];
    // Each destination is the next one's source, and a further one's.
    for to in [
        format!("oci-archive:{}:registry.example/multi:1", path("a.tar")),
        format!("oci:{}:1", path("layout")),
        format!("docker://{}", other.reference("one/multi:1")),
        format!("oci-archive:{}:registry.example/multi:2", path("b.tar")),
        format!("docker://{}", other.reference("two/multi:1")),
        format!("oci:{}:2", path("layout")),
    ] {
        let from = sources.last().unwrap();
        let copied = copy(&node, from, &to, None).await.unwrap();
        assert_eq!(copied, Copied { digest, is_part: false }, "{from} {to}");
        whole(&to, &multi);
        sources.push(to);
    }
    let entries: serde_json::Value = serde_json::from_str(&read(folder.path().join("layout/index.json"))).unwrap();
    assert_eq!(entries["manifests"].as_array().unwrap().len(), 2);
    // Into the store and out of it again.
    for (number, from) in sources.iter().enumerate() {
        let node = Node::new();
        let name = format!("store:wharf.test/multi:{number}");
        copy(&node, from, &name, None).await.unwrap();
        let image = node.store.resolve(&name[6..]).unwrap().unwrap();
        assert_eq!(image.id, multi.amd64.id(), "{from}");
        let mount = overlay(&node.store.prepare("c", &image).unwrap());
        assert_eq!(read(mount.lower[0].join("hello")), "amd64");
        let out = format!("oci-archive:{}:x/y:1", path(&format!("out-{number}.tar")));
        assert_eq!(copy(&node, &name, &out, None).await, Ok(Copied { digest, is_part: false }), "{from}");
        whole(&out, &multi);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_platform_is_copied_where_it_is_asked_for_or_where_there_can_be_only_one() {
    let test = "one_platform_is_copied_where_it_is_asked_for_or_where_there_can_be_only_one";
    let Some(multi) = multi(test).await else { return };
    let node = Node::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let from = format!("docker://{}", multi.registry.reference("multi:1"));
    let (digest, arm64) = (multi.arm64.digest(), Some("linux/arm64"));
    for to in [
        format!("oci:{}:1", path("layout")),
        format!("oci-archive:{}:a/b:1", path("oci.tar")),
        format!("docker://{}", multi.registry.reference("copy:1")),
    ] {
        assert_eq!(copy(&node, &from, &to, arm64).await, Ok(Copied { digest, is_part: false }), "{to}");
        let (manifest, files) = skopeo(&to, true);
        assert_eq!(manifest, multi.arm64.manifest, "{to}");
        assert!(!files.contains_key(&multi.amd64.id().hex()));
    }
    // Docker's archives hold no index.
    let to = format!("docker-archive:{}:a/b:1", path("docker.tar"));
    let copied = copy(&node, &from, &to, None).await.unwrap();
    assert_eq!(copied, Copied { digest: multi.amd64.digest(), is_part: true });
    let back = format!("docker://{}", multi.registry.reference("back:1"));
    for (platform, image) in [(None, &multi.amd64), (arm64, &multi.arm64)] {
        if platform.is_some() {
            copy(&node, &from, &to, platform).await.unwrap();
        }
        let place = format!("docker-archive:{}", path("docker.tar"));
        let output = Command::new("skopeo").args(["inspect", "--config", "--raw", &place]).output().unwrap();
        assert_eq!(output.stdout, image.blobs[0].1, "{}", String::from_utf8_lossy(&output.stderr));
        // And back into a registry, which has the image if not its manifest.
        copy(&node, &to, &back, None).await.unwrap();
        let output =
            Command::new("skopeo").args(["inspect", "--config", "--raw", "--tls-verify=false", &back]).output();
        assert_eq!(output.unwrap().stdout, image.blobs[0].1);
    }
    let line = copy(&node, &from, &to, Some("linux/s390x")).await.unwrap_err();
    assert!(line.contains("has no image for linux/s390x, it has linux/amd64, linux/arm64"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_registry_blobs_are_mounted_and_nothing_passes_through() {
    let Some(multi) = multi("within_a_registry_blobs_are_mounted_and_nothing_passes_through").await else { return };
    let proxy = FlakyProxy::start(&multi.registry.address, |_, _| Fault::None).await;
    let node = Node::new();
    let place = |name: &str| format!("docker://{}", proxy.reference(name));
    copy(&node, &place("multi:1"), &place("other/multi:1"), None).await.unwrap();
    whole(&format!("docker://{}", multi.registry.reference("other/multi:1")), &multi);
    let seen = proxy.take_seen();
    let blobs =
        |method: &str| seen.iter().filter(|seen| seen.method == method && seen.path.contains("/blobs/")).count();
    assert_eq!((blobs("GET"), blobs("PATCH"), blobs("PUT"), blobs("POST")), (0, 0, 0, 4), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_is_named_and_leaves_nothing() {
    let Some(multi) = multi("what_cannot_be_copied_is_named_and_leaves_nothing").await else { return };
    let node = Node::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let from = format!("docker://{}", multi.registry.reference("multi:1"));
    let archive = format!("oci-archive:{}:a/b:1", path("a.tar"));
    copy(&node, &from, &archive, None).await.unwrap();
    copy(&node, &from, &format!("oci:{}:1", path("layout")), None).await.unwrap();
    copy(&node, &from, &format!("oci:{}:2", path("layout")), Some("linux/arm64")).await.unwrap();
    let out = format!("oci-archive:{}", path("out.tar"));
    let before = std::fs::read(path("a.tar")).unwrap();
    for (from, to, says) in [
        (format!("oci-archive:{}", path("none.tar")), &out, "none.tar: open: No such file"),
        (format!("oci-archive:{}:x/y:1", path("a.tar")), &out, "has no image `x/y:1`, it has docker.io/a/b:1"),
        (format!("oci:{}:3", path("layout")), &out, "has no image `3`"),
        (format!("oci:{}", path("layout")), &out, "has several images"),
        (format!("oci:{}", path("empty")), &out, "No such file"),
        ("store:nothing".into(), &out, "image `nothing`: not in the store"),
        ("store:nothing".into(), &"store:other".to_owned(), "image `nothing`: not in the store"),
        (format!("docker://{}", multi.registry.reference("nothing:1")), &archive, "HTTP 404 not found"),
        (from.clone(), &"oci-archive:/nonexistent/a.tar".to_owned(), "write: No such file"),
        (from.clone(), &format!("docker://127.0.0.1:1/a@{}", Digest::of(b"")), "has the digest"),
        (from.clone(), &"docker://127.0.0.1:1/a".to_owned(), "cannot connect"),
    ] {
        let line = copy(&node, &from, to, None).await.unwrap_err();
        assert!(line.contains(says) && line.lines().count() == 1, "{from} {to}: {line}");
    }
    let arm64 = format!("oci:{}:2", path("layout"));
    let blob = Path::new(&path("layout")).join("blobs/sha256").join(multi.arm64.blobs[1].0.hex());
    std::fs::write(&blob, "spoiled").unwrap();
    let line = copy(&node, &arm64, &out, None).await.unwrap_err();
    assert!(line.contains(&format!("blob {} is damaged", multi.arm64.blobs[1].0)), "{line}");
    assert_eq!(std::fs::read(path("a.tar")).unwrap(), before);
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a.tar", "layout"]);
    assert!(node.store.images().unwrap().is_empty());
}
