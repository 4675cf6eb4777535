//! Images from files, and what the store does with names, containers and removal.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{Layer, Node, chain, gzip, is_installed, is_root, overlay, read, zstd};
use serde_json::json;
use wharf_images::{Digest, Image, SnapshotError, StoreError, user};

fn docker_archive(names: &[&str], tar: &[u8], config: serde_json::Value) -> Vec<u8> {
    let config = json!({"architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(tar)]}})
    .to_string();
    let manifest = json!([{"Config": "abc.json", "RepoTags": names, "Layers": ["l/layer.tar"]}]).to_string();
    Layer::new()
        .dir("l", 0o755)
        .symlink("l/layer.tar", "../shared.tar")
        .file("shared.tar", tar)
        .file("abc.json", config.as_bytes())
        .file("./manifest.json", manifest.as_bytes())
        .tar()
}

fn write(node: &Node, name: &str, bytes: &[u8]) -> PathBuf {
    // Beside the store, not in it: the state is compared.
    let path = node.dir.path().with_extension(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

async fn load(node: &Node, bytes: &[u8]) -> Result<Vec<Image>, String> {
    let archive = Removed(write(node, "archive", bytes));
    node.store.load(&archive.0, None).await.map_err(|error| chain(&error))
}

fn accounts() -> Vec<u8> {
    Layer::new()
        .dir("./", 0o755)
        .dir("etc", 0o755)
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nlog:x:4:web\n")
        .file("hello", b"hello")
        .tar()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_are_loaded_plain_and_compressed() {
    if !is_root("docker_archives_are_loaded_plain_and_compressed") {
        return;
    }
    let plain = docker_archive(&["demo/web:1", "busybox"], &accounts(), json!({"Cmd": ["sh"], "User": "web"}));
    for bytes in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let node = Node::new();
        let images = load(&node, &bytes).await.unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].repo_tags, ["docker.io/demo/web:1", "docker.io/library/busybox:latest"]);
        assert!(images[0].repo_digests.is_empty());
        assert_eq!(images[0].config.cmd, ["sh"]);
        let found = node.store.resolve("busybox").unwrap().unwrap();
        assert_eq!(found.id, images[0].id);
        let root = node.store.prepare("c", &found).unwrap();
        assert_eq!(read(overlay(&root).lower[0].join("hello")), "hello");
        let who = user::resolve(&root, &found.config.user).unwrap();
        assert_eq!((who.uid, who.gid, who.additional_gids, who.home), (33, 34, vec![4], PathBuf::from("/srv")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_script_makes_an_image() {
    let test = "the_example_script_makes_an_image";
    if !is_root(test) || !is_installed("/bin/busybox", test) {
        return;
    }
    let node = Node::new();
    let archive = Removed(node.dir.path().with_extension("tar"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/make-image.sh");
    let made = Command::new(script).arg(&archive.0).args(["demo/web:1", "echo", "a \"b\" \\ c"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let images = node.store.load(&archive.0, None).await.unwrap();
    assert_eq!(images[0].config.cmd, ["echo", "a \"b\" \\ c"]);
    let root = node.store.prepare("c", &images[0]).unwrap();
    let files = &overlay(&root).lower[0];
    assert!(files.join("www/index.html").exists());
    assert_eq!(std::fs::read_link(files.join("bin/sh")).unwrap(), Path::new("busybox"));
    assert_eq!(user::resolve(&root, "www").unwrap().additional_gids, [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_archives_of_skopeo_are_loaded() {
    let test = "oci_archives_of_skopeo_are_loaded";
    if !is_root(test) || !is_installed("skopeo", test) {
        return;
    }
    let node = Node::new();
    let docker = Removed(write(&node, "docker", &docker_archive(&["demo/web:1"], &accounts(), json!({}))));
    let oci = Removed(node.dir.path().with_extension("oci"));
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy"])
        .arg(format!("docker-archive:{}", docker.0.display()))
        .arg(format!("oci-archive:{}:quay.io/demo/web:2", oci.0.display()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let images = node.store.load(&oci.0, None).await.unwrap();
    assert_eq!(images[0].repo_tags, ["quay.io/demo/web:2"]);
    let mount = overlay(&node.store.prepare("c", &images[0]).unwrap());
    assert_eq!(read(mount.lower[0].join("hello")), "hello");
    // Its blobs are gzip, the archive's own are plain: another image over the same unpacked layer.
    let plain = node.store.load(&docker.0, None).await.unwrap();
    assert_ne!(plain[0].id, images[0].id);
    assert_eq!(plain[0].diff_ids, images[0].diff_ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_none_are_refused() {
    let tar = accounts();
    let whole = docker_archive(&["a"], &tar, json!({}));
    let lying = {
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]}});
        Layer::new()
            .file("c", config.to_string().as_bytes())
            .file("l", &tar)
            .file("manifest.json", br#"[{"Config":"c","Layers":["l"]}]"#)
            .tar()
    };
    let manifest = |text: &str| Layer::new().file("manifest.json", text.as_bytes()).tar();
    let table: Vec<(Vec<u8>, &str)> = vec![
        (b"text".to_vec(), "middle of a header"),
        (vec![b'x'; 2000], "no tar archive"),
        (Vec::new(), "neither index.json nor manifest.json"),
        (Layer::new().file("a", b"").tar(), "neither index.json nor manifest.json"),
        (manifest("{"), "manifest.json is no valid JSON"),
        (manifest(r#"[{"Config":"../../etc/passwd","Layers":[]}]"#), "../../etc/passwd is named but not in"),
        (docker_archive(&["A:b:c"], &tar, json!({})), "image reference `A:b:c`"),
        (Layer::new().file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#).tar(), "neither index.json"),
        (whole[..whole.len() / 2].to_vec(), "ends in the middle"),
        (gzip(&whole)[..200].to_vec(), "read archive"),
        (lying, "diff id"),
    ];
    for (bytes, part) in table {
        let node = Node::new();
        let before = node.state();
        let line = load(&node, &bytes).await.expect_err(part);
        assert!(line.contains(part) && line.starts_with("load "), "{part}: {line}");
        assert_eq!(node.state(), before, "{part}");
    }
    let node = Node::new();
    let error = node.store.load(Path::new("/nowhere/archive"), None).await.unwrap_err();
    assert!(chain(&error).contains("load /nowhere/archive: open: No such file"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_leaves_nothing_and_spares_what_is_shared() {
    if !is_root("removing_leaves_nothing_and_spares_what_is_shared") {
        return;
    }
    let node = Node::new();
    let empty = node.state();
    let one = docker_archive(&["one:1", "one:2"], &accounts(), json!({"Cmd": ["1"]}));
    let two = docker_archive(&["two"], &accounts(), json!({"Cmd": ["2"]}));
    let one = load(&node, &one).await.unwrap().remove(0);
    let two = load(&node, &two).await.unwrap().remove(0);
    let used = node.store.usage().unwrap();
    assert!(used.bytes > 2 * accounts().len() as u64 && used.inodes > 6, "{used:?}");

    let removed = node.store.remove("one:1").unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["docker.io/library/one:1".into()], None));
    node.store.tag("one:2", &"three:3".parse().unwrap()).unwrap();
    let removed = node.store.remove(&one.id.hex()[..12]).unwrap();
    assert_eq!(removed.untagged, ["docker.io/library/one:2", "docker.io/library/three:3"]);
    assert_eq!(removed.deleted, Some(one.id));
    // The layer is two's as well.
    let mount = overlay(&node.store.prepare("c", &two).unwrap());
    assert_eq!(read(mount.lower[0].join("hello")), "hello");

    let in_use = node.store.remove("two").unwrap_err();
    assert!(matches!(&in_use, StoreError::InUse { containers, .. } if containers == &["c"]), "{in_use}");
    assert_eq!(node.store.images().unwrap().len(), 1);
    node.store.remove_snapshot("c").unwrap();
    node.store.remove_snapshot("c").unwrap();
    assert_eq!(node.store.remove(&two.id.to_string()).unwrap().deleted, Some(two.id));
    let mut left = node.state();
    let mut before = empty;
    // Written anew, with the same nothing in it; the lock file stays.
    for state in [&mut left, &mut before] {
        state.retain(|path, _| !path.ends_with("lock"));
    }
    assert_eq!(left, before);
    assert!(matches!(node.store.remove("two"), Err(StoreError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_leaves_the_old_image_to_its_containers() {
    if !is_root("a_moved_tag_leaves_the_old_image_to_its_containers") {
        return;
    }
    let node = Node::new();
    let old = load(&node, &docker_archive(&["app"], &accounts(), json!({"Cmd": ["1"]}))).await.unwrap().remove(0);
    let new = load(&node, &docker_archive(&["app"], &accounts(), json!({"Cmd": ["2"]}))).await.unwrap().remove(0);
    assert_eq!(node.store.resolve("app").unwrap().unwrap().id, new.id);
    let nameless = node.store.resolve(&old.id.to_string()).unwrap().unwrap();
    assert!(nameless.repo_tags.is_empty());
    assert_eq!(node.store.images().unwrap().len(), 2);
    assert_eq!(node.store.remove(&old.id.to_string()).unwrap().deleted, Some(old.id));
    assert_eq!(node.store.images().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn writable_layers_are_made_listed_and_removed() {
    if !is_root("writable_layers_are_made_listed_and_removed") {
        return;
    }
    let node = Node::new();
    let image = load(&node, &docker_archive(&["app"], &accounts(), json!({}))).await.unwrap().remove(0);
    for bad in ["", "..", "a/b"] {
        assert!(matches!(node.store.prepare(bad, &image), Err(SnapshotError::Id(_))), "{bad}");
    }
    let root = node.store.prepare("c1", &image).unwrap();
    assert!(matches!(node.store.prepare("c1", &image), Err(SnapshotError::Exists(_))));
    assert_eq!(node.store.snapshot("c1").unwrap().as_ref(), Some(&root));
    assert_eq!(node.store.snapshot("c2").unwrap(), None);
    std::fs::write(overlay(&root).upper.join("file"), vec![1; 10_000]).unwrap();
    let usage = node.store.snapshot_usage("c1").unwrap();
    assert!(usage.bytes >= 10_000 && usage.inodes == 1, "{usage:?}");
    // What containers have written, and nothing of the images.
    assert_eq!(node.store.containers_usage().unwrap(), usage);
    let second = overlay(&node.store.prepare("second", &image).unwrap());
    std::fs::write(second.upper.join("file"), b"").unwrap();
    assert_eq!(node.store.containers_usage().unwrap().inodes, 2);
    node.store.remove_snapshot("second").unwrap();
    // Another process sees it, and one that was cut short has no image.
    let other = wharf_images::Store::open(node.dir.path()).unwrap();
    std::fs::create_dir(node.dir.path().join("containers/half")).unwrap();
    let all: Vec<_> = other.snapshots().unwrap().into_iter().map(|made| (made.container_id, made.image)).collect();
    assert_eq!(all, [("c1".to_owned(), Some(image.id)), ("half".to_owned(), None)]);
    other.remove_snapshot("c1").unwrap();
    other.remove_snapshot("half").unwrap();
    assert!(node.store.snapshots().unwrap().is_empty());
    node.store.remove("app").unwrap();
    assert!(matches!(node.store.prepare("c3", &image), Err(SnapshotError::LayerMissing { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_read_through_whiteouts_and_symlinks() {
    if !is_root("accounts_are_read_through_whiteouts_and_symlinks") {
        return;
    }
    let node = Node::new();
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("passwd"), "web:x:0:0::/:\n").unwrap();
    let image = load(&node, &docker_archive(&["app"], &accounts(), json!({}))).await.unwrap().remove(0);
    let root = node.store.prepare("c", &image).unwrap();
    let etc = overlay(&root).upper.join("etc");
    let uid = |name: &str| user::resolve(&root, name).map(|user| user.uid).map_err(|error| chain(&error));
    assert_eq!(uid("web"), Ok(33));
    // The container's own file goes first.
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("passwd"), "web:x:44:0::/:\n").unwrap();
    assert_eq!(uid("web"), Ok(44));
    // Inside the root filesystem, an absolute link leads to its own files only.
    std::fs::remove_file(etc.join("passwd")).unwrap();
    std::os::unix::fs::symlink(secret.path().join("passwd"), etc.join("passwd")).unwrap();
    assert!(uid("web").unwrap_err().contains("no such name"));
    std::fs::remove_file(etc.join("passwd")).unwrap();
    std::os::unix::fs::symlink("../../../../etc/accounts", etc.join("passwd")).unwrap();
    std::fs::write(etc.join("accounts"), "web:x:55:0::/:\n").unwrap();
    assert_eq!(uid("web"), Ok(55));
    std::fs::remove_file(etc.join("passwd")).unwrap();
    std::os::unix::fs::symlink("passwd", etc.join("passwd")).unwrap();
    assert!(uid("web").unwrap_err().contains("read /etc/passwd"));
    std::fs::remove_file(etc.join("passwd")).unwrap();
    let device = rustix::fs::FileType::CharacterDevice;
    let root = std::fs::File::open(&etc).unwrap();
    rustix::fs::mknodat(&root, "passwd", device, rustix::fs::Mode::empty(), 0).unwrap();
    assert!(uid("web").unwrap_err().contains("no such name"));
    std::fs::remove_file(etc.join("passwd")).unwrap();
    assert_eq!(uid("web"), Ok(33));
    std::fs::File::create(etc.join("passwd")).unwrap().set_len(1 << 30).unwrap();
    assert!(uid("web").unwrap_err().contains("read /etc/passwd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_image_does_not_take_the_others_with_it() {
    if !is_root("a_damaged_image_does_not_take_the_others_with_it") {
        return;
    }
    let node = Node::new();
    let mut images = Vec::new();
    for name in ["one", "two", "three"] {
        let archive = docker_archive(&[name], &accounts(), json!({"Cmd": [name]}));
        images.push(load(&node, &archive).await.unwrap().remove(0));
    }
    let manifest = node.store.image_layout().join("blobs/sha256").join(images[0].manifest_digest.hex());
    std::fs::write(manifest, "{").unwrap();
    // A new handle, as after a restart: nothing of it is remembered.
    let store = wharf_images::Store::open(node.dir.path()).unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
    assert_eq!(store.remove("two").unwrap().deleted, Some(images[1].id));
    // What the damaged one shares with others is still there.
    assert_eq!(overlay(&store.prepare("c", &images[2]).unwrap()).lower.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_swept_and_a_living_session_is_not() {
    let node = Node::new();
    let tmp = node.dir.path().join("tmp");
    std::fs::create_dir_all(tmp.join("99999-0/blobs")).unwrap();
    std::fs::create_dir(tmp.join("99999-1")).unwrap();
    let living = std::fs::File::open(tmp.join("99999-1")).unwrap();
    living.lock().unwrap();
    wharf_images::Store::open(node.dir.path()).unwrap();
    assert!(!tmp.join("99999-0").exists());
    assert!(tmp.join("99999-1").exists());
}

#[test]
fn an_index_that_was_never_renamed_goes_with_the_next_start() {
    let node = Node::new();
    let index = node.dir.path().join("images/index.json");
    let before = std::fs::read(&index).unwrap();
    let unfinished = index.with_extension("tmp-1");
    std::fs::write(&unfinished, b"{").unwrap();
    wharf_images::Store::open(node.dir.path()).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(std::fs::read(&index).unwrap(), before);
}
