//! What containers and images have changed.

mod fixture;

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, TestImage, gzip, is_root, overlay};
use serde_json::json;
use wharf_images::{Change, ChangeKind, Image, PullOptions};

async fn pulled(node: &Node, name: &str, layers: Vec<Layer>) -> Image {
    let layers: Vec<_> = layers.into_iter().map(Layer::tar).map(|tar| (tar.clone(), gzip(&tar))).collect();
    let image = TestImage::new(&layers, json!({}));
    let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
    node.store.pull(&registry.reference(name), PullOptions::default()).await.unwrap()
}

fn base() -> Layer {
    Layer::new()
        .dir("./", 0o755)
        .dir("etc/", 0o755)
        .file("etc/kept", b"kept")
        .file("etc/edited", b"before")
        .file("etc/gone", b"gone")
        .dir("tree/", 0o755)
        .file("tree/leaf", b"leaf")
        .dir("still/", 0o755)
        .file("still/same", b"same")
        .symlink("link", "etc/kept")
}

fn lines(changes: Vec<Change>) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Changed => 'C',
        ChangeKind::Deleted => 'D',
    };
    let line = |change: Change| format!("{} {}", letter(change.kind), String::from_utf8_lossy(&change.path));
    changes.into_iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_changed_what_it_wrote_and_nothing_else() {
    if !is_root("a_container_has_changed_what_it_wrote_and_nothing_else") {
        return;
    }
    let node = Node::new();
    let image = pulled(&node, "base", vec![base(), Layer::new().file("upper", b"upper")]).await;
    let mount = overlay(&node.store.prepare("c", &image).unwrap());
    let changes = || lines(node.store.container_changes("c").unwrap());
    assert_eq!(changes(), Vec::<String>::new());
    // As a container does it, in an overlay; it goes with its namespace.
    let script = format!(
        "mount -t overlay -o lowerdir={},upperdir={},workdir={} x /mnt; cd /mnt
         echo after > etc/edited; rm etc/gone; echo new > etc/added; touch -r etc/kept etc/kept
         rm -r tree; mkdir -p deep/er; echo x > deep/er/x; ln -sf etc/edited link; chmod 700 still",
        mount.lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
        mount.upper.display(),
        mount.work.display()
    );
    let status = std::process::Command::new("unshare").args(["-m", "sh", "-ec", &script]).status().unwrap();
    assert!(status.success());
    let expected = [
        "A /deep",
        "A /deep/er",
        "A /deep/er/x",
        "C /etc",
        "A /etc/added",
        "C /etc/edited",
        "D /etc/gone",
        "C /link",
        "C /still",
        "D /tree",
    ];
    assert_eq!(changes(), expected);
    let error = node.store.container_changes("other").unwrap_err().to_string();
    assert_eq!(error, "container other: has no writable layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_compared_by_what_they_show() {
    if !is_root("images_are_compared_by_what_they_show") {
        return;
    }
    let node = Node::new();
    let old = pulled(&node, "old", vec![base()]).await;
    // The same again in other layers, but for what is said here; the edited file has the same length and time.
    let changed = Layer::new()
        .dir("etc/", 0o755)
        .file("etc/edited", b"beyond")
        .file("etc/kept", b"kept")
        .file("etc/.wh.gone", b"")
        .dir("tree/", 0o755)
        .file("tree/.wh..wh..opq", b"")
        .file("tree/other", b"other")
        .file("still", b"a file now")
        .dir("link/", 0o755)
        .file("link/inside", b"x");
    let new = pulled(&node, "new", vec![base(), changed]).await;
    let expected = [
        "C /etc",
        "C /etc/edited",
        "D /etc/gone",
        "C /link",
        "A /link/inside",
        "C /still",
        "C /tree",
        "D /tree/leaf",
        "A /tree/other",
    ];
    assert_eq!(lines(node.store.image_changes(&old, &new).unwrap()), expected);
    let back = lines(node.store.image_changes(&new, &old).unwrap());
    assert!(back.contains(&"A /etc/gone".to_owned()) && back.contains(&"A /still/same".to_owned()), "{back:?}");
    assert!(node.store.image_changes(&old, &old).unwrap().is_empty());
    let squashed = pulled(&node, "again", vec![base(), Layer::new().file("etc/kept", b"kept")]).await;
    // `etc` is described by the first layer and implied by the second: nothing of it is other.
    assert!(node.store.image_changes(&old, &squashed).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_has_changed_goes_into_an_archive_and_comes_out_of_it() {
    if !is_root("what_a_container_has_changed_goes_into_an_archive_and_comes_out_of_it") {
        return;
    }
    let node = Node::new();
    let image = pulled(&node, "base", vec![base().dir("tmp/", 0o1777)]).await;
    let mount = overlay(&node.store.prepare("c", &image).unwrap());
    let long = "long-name-".repeat(20);
    let script = format!(
        "mount -t overlay -o lowerdir={},upperdir={},workdir={} x /mnt; cd /mnt
         echo after > etc/edited; rm etc/gone; rm -r tree; mkdir tree; echo new > tree/new; ln tree/new tmp/second
         ln -s {long} link2; mkfifo -m 600 fifo; mkdir -p a/{long}; echo x > a/{long}/{long}; chown 7:8 etc/edited
         chmod 4755 tree/new; touch -d @1000 a",
        mount.lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
        mount.upper.display(),
        mount.work.display()
    );
    let status = std::process::Command::new("unshare").args(["-m", "sh", "-ec", &script]).status().unwrap();
    assert!(status.success());
    let edited = mount.upper.join("etc/edited");
    rustix::fs::setxattr(&edited, "trusted.kept", b"a\0b", rustix::fs::XattrFlags::empty()).unwrap();

    let mut archive = Vec::new();
    let deleted = node.store.write_changes("c", &mut archive).unwrap();
    assert_eq!(deleted, [&b"/etc/gone"[..], b"/tree/leaf"]);
    let copy = overlay(&node.store.prepare("d", &image).unwrap());
    node.store.apply_changes("d", &*gzip(&archive), &deleted).unwrap();
    let changes = |container| lines(node.store.container_changes(container).unwrap());
    assert_eq!(changes("d"), changes("c"));
    let [listing, other] = [&mount.upper, &copy.upper].map(|root| {
        let found =
            std::process::Command::new("find").arg(root).args(["-printf", "%P %y %m %U:%G %s %l %T@\n"]).output();
        let mut lines: Vec<_> = String::from_utf8(found.unwrap().stdout).unwrap().lines().map(str::to_string).collect();
        // Whole directories' sizes and times of whiteouts are the file system's own affair.
        lines.retain(|line| !line.contains(" d ") && !line.contains(" c "));
        lines.iter_mut().for_each(|line| line.truncate(line.rfind('.').unwrap()));
        lines.sort();
        lines
    });
    assert_eq!(listing, other);
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(copy.upper.join(path)).unwrap());
    assert_eq!(inode("tree/new"), inode("tmp/second"), "two names of one file");
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(copy.upper.join("etc/edited"), "trusted.kept", &mut value).unwrap();
    assert_eq!(&value[..length], b"a\0b");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(copy.upper.join("tmp")).unwrap());
    assert_eq!(mode & 0o7777, 0o1777);

    let wrong = node.store.apply_changes("none", &*archive, &[]).unwrap_err().to_string();
    assert_eq!(wrong, "container none: has no writable layer");
}
