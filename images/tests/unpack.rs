//! What layers become on disk, and what they may not become.

mod fixture;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, TestImage, chain, gzip, is_root, overlay, read};
use serde_json::json;
use tar::EntryType;
use wharf_images::{Image, PullOptions};

async fn pull(node: &Node, layers: Vec<Vec<u8>>) -> Result<Image, String> {
    let layers: Vec<_> = layers.into_iter().map(|tar| (tar.clone(), gzip(&tar))).collect();
    let image = TestImage::new(&layers, json!({}));
    let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
    node.store.pull(&registry.reference("a"), PullOptions::default()).await.map_err(|error| chain(&*error))
}

/// The unpacked layer directories, base first.
async fn unpack(node: &Node, layers: Vec<Vec<u8>>) -> Vec<PathBuf> {
    let image = pull(node, layers).await.unwrap();
    let mut lower = overlay(&node.store.prepare("test", &image).unwrap()).lower;
    lower.reverse();
    lower
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_member_keeps_what_it_has() {
    if !is_root("every_kind_of_member_keeps_what_it_has") {
        return;
    }
    // VFS_CAP_REVISION_2 with cap_net_bind_service permitted and effective.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("long/{}/{}", "d".repeat(150), "f".repeat(200));
    let mut setuid = Layer::header(EntryType::Regular, 0o4755);
    setuid.set_uid(1234);
    setuid.set_gid(3_000_000);
    let mut owned = Layer::header(EntryType::Directory, 0o2750);
    owned.set_uid(7);
    let mut device = Layer::header(EntryType::Char, 0o666);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    let mut block = Layer::header(EntryType::Block, 0o660);
    block.set_device_major(7).unwrap();
    block.set_device_minor(300).unwrap();
    let mut long_header = Layer::header(EntryType::new(b'L'), 0);
    long_header.set_size(0);
    let tar = Layer::new()
        .dir("./", 0o711)
        .raw(setuid, b"su", b"", b"program")
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("mtime", b"1234567890.123456789")])
        .file("ping", b"p")
        .pax(&[("SCHILY.xattr.user.note", b"two\0parts"), ("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .dir("noted", 0o755)
        .raw(owned, b"owned/", b"", b"")
        .file("owned/inside", b"x")
        .raw(device, b"null", b"", b"")
        .raw(block, b"loop", b"", b"")
        .raw(Layer::header(EntryType::Fifo, 0o640), b"pipe", b"", b"")
        .symlink("link", "/etc/../anywhere")
        .hard_link("owned/hard", "su")
        .hard_link("hard-symlink", "./link")
        .raw(Layer::header(EntryType::Regular, 0o600), b"\xff\xfe name", b"", b"bytes")
        .raw(long_header, b"././@LongLink", b"", long.as_bytes())
        .file("short", b"long name")
        .pax(&[("path", b"pax/\xc3\xa4/file"), ("uid", b"4294967294")])
        .file("ignored", b"pax")
        .tar();
    let node = Node::new();
    let root = unpack(&node, vec![tar]).await.remove(0);
    let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();

    assert_eq!(stat("").mode() & 0o7777, 0o711);
    let su = stat("su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 1234, 3_000_000, 2));
    assert_eq!(su.mtime(), 1_000_000_000);
    assert_eq!(stat("owned/hard").ino(), su.ino());
    assert_eq!(xattr(&root.join("ping"), "security.capability").unwrap(), capability);
    assert_eq!((stat("ping").mtime(), stat("ping").mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(xattr(&root.join("noted"), "user.note").unwrap(), b"two\0parts");
    assert_eq!(xattr(&root.join("noted"), "trusted.overlay.opaque"), None);
    let owned = stat("owned");
    assert_eq!((owned.mode() & 0o7777, owned.uid(), owned.mtime()), (0o2750, 7, 1_000_000_000));
    assert!(stat("null").file_type().is_char_device());
    assert_eq!((stat("null").rdev(), stat("null").mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
    assert_eq!(stat("loop").rdev(), rustix::fs::makedev(7, 300));
    assert!(stat("pipe").file_type().is_fifo() && stat("pipe").mode() & 0o7777 == 0o640);
    assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("/etc/../anywhere"));
    assert_eq!(stat("hard-symlink").ino(), stat("link").ino());
    assert_eq!(stat("link").mtime(), 1_000_000_000);
    assert_eq!(read(root.join(OsStr::from_bytes(b"\xff\xfe name"))), "bytes");
    assert_eq!(read(root.join(&long)), "long name");
    assert_eq!(read(root.join("pax/ä/file")), "pax");
    assert_eq!(stat("pax/ä/file").uid(), 4_294_967_294);
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_take_the_form_of_overlayfs() {
    if !is_root("whiteouts_take_the_form_of_overlayfs") {
        return;
    }
    let base = Layer::new().dir("./", 0o755).dir("a", 0o755).file("a/x", b"").dir("b", 0o755).file("b/y", b"").tar();
    let top = Layer::new()
        .file("a/.wh.x", b"")
        .dir("b", 0o755)
        .file("b/.wh..wh..opq", b"")
        .file("b/new", b"")
        // Replaced: the old tree is hidden, the new one shows.
        .file(".wh.c", b"")
        .dir("c", 0o755)
        .file("c/new", b"")
        .dir("d", 0o755)
        .file(".wh.d", b"")
        .file("e", b"stays")
        .file(".wh.e", b"")
        .file(".wh.f", b"")
        .file("f/below", b"")
        .file(".wh..wh.plnk", b"")
        .tar();
    let node = Node::new();
    let layers = unpack(&node, vec![base, top]).await;
    let root = &layers[1];
    let hidden = std::fs::symlink_metadata(root.join("a/x")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    for opaque in ["b", "c", "d", "f"] {
        assert_eq!(xattr(&root.join(opaque), "trusted.overlay.opaque").unwrap(), b"y", "{opaque}");
    }
    assert_eq!(read(root.join("e")), "stays");
    assert!(root.join("b/new").exists() && root.join("c/new").exists() && root.join("f/below").exists());
    let names: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.as_bytes().starts_with(b".wh.")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn implied_directories_look_as_in_the_layer_below() {
    if !is_root("implied_directories_look_as_in_the_layer_below") {
        return;
    }
    let mut owned = Layer::header(EntryType::Directory, 0o750);
    owned.set_uid(33);
    let base = Layer::new().dir("./", 0o700).dir("tmp", 0o1777).raw(owned, b"srv", b"", b"").tar();
    let top = Layer::new().file("tmp/a", b"").file("srv/new/file", b"").tar();
    let node = Node::new();
    let layers = unpack(&node, vec![base, top]).await;
    let stat = |name: &str| std::fs::symlink_metadata(layers[1].join(name)).unwrap();
    assert_eq!(stat("").mode() & 0o7777, 0o700);
    assert_eq!((stat("tmp").mode() & 0o7777, stat("tmp").mtime()), (0o1777, 1_000_000_000));
    assert_eq!((stat("srv").mode() & 0o7777, stat("srv").uid()), (0o750, 33));
    assert_eq!(stat("srv/new").mode() & 0o7777, 0o755);
    let upper = overlay(&node.store.snapshot("test").unwrap().unwrap()).upper;
    assert_eq!(std::fs::metadata(upper).unwrap().mode() & 0o7777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn sparse_files_stay_sparse() {
    if !is_root("sparse_files_stay_sparse") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("sparse")).unwrap();
    for piece in 0..60u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", piece << 20).unwrap();
    }
    file.set_len(100 << 20).unwrap();
    for format in ["gnu", "posix"] {
        let versions: &[&str] = if format == "gnu" { &["0.0"] } else { &["0.0", "0.1", "1.0"] };
        for version in versions {
            let output = std::process::Command::new("tar")
                .args(["-c", "-S", "--format", format, "--sparse-version", version, "-C"])
                .arg(dir.path())
                .arg("sparse")
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let node = Node::new();
            let root = unpack(&node, vec![output.stdout]).await.remove(0);
            let unpacked = root.join("sparse");
            let same = std::process::Command::new("cmp").arg(dir.path().join("sparse")).arg(&unpacked).status();
            assert!(same.unwrap().success(), "{format} {version}");
            assert!(unpacked.metadata().unwrap().blocks() * 512 < 4 << 20, "{format} {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_members_are_refused_by_name_or_stay_inside() {
    if !is_root("hostile_members_are_refused_by_name_or_stay_inside") {
        return;
    }
    let zero_device = || Layer::header(EntryType::Char, 0o666);
    let mut huge_uid = Layer::header(EntryType::Regular, 0o644);
    huge_uid.set_uid(u64::from(u32::MAX));
    let deep = vec![b'a'; 300];
    let nul_link: &[(&str, &[u8])] = &[("linkpath", b"a\0b")];
    let refused: Vec<(&str, Layer, &str)> = vec![
        ("dotdot", Layer::new().file("../escape", b"x"), "`../escape`: name has `..`"),
        ("dotdot inside", Layer::new().file("a/../../escape", b"x"), "has `..`"),
        ("dotdot last", Layer::new().dir("a/..", 0o777), "has `..`"),
        ("hard link out", Layer::new().hard_link("l", "../../etc/passwd"), "hard link's target: name has `..`"),
        ("hard link to host", Layer::new().hard_link("l", "/etc/passwd"), "no file of this layer"),
        (
            "hard link through symlink",
            Layer::new().symlink("s", "/").hard_link("l", "s/etc/passwd"),
            "no file of this layer",
        ),
        ("hard link to a directory", Layer::new().dir("d", 0o755).hard_link("l", "d"), "no file of this layer"),
        ("hard link to itself", Layer::new().file("a", b"").hard_link("a", "a"), "link to itself"),
        ("hard link to a whiteout", Layer::new().file(".wh.w", b"").hard_link("l", "w"), "no file of this layer"),
        ("below a file", Layer::new().file("f", b"").file("f/x", b""), "below something that is no directory"),
        ("below a dangling link", Layer::new().symlink("s", "nowhere").file("s/x", b""), "leads nowhere"),
        ("below a link loop", Layer::new().symlink("s", "s").file("s/x", b""), "leads nowhere"),
        ("file over a directory", Layer::new().dir("d", 0o755).file("d/x", b"").file("d", b""), "replace a directory"),
        (
            "symlink over a directory",
            Layer::new().dir("d", 0o755).symlink("d", "/etc").file("d/passwd", b"x"),
            "replace a directory",
        ),
        ("whiteout device", Layer::new().raw(zero_device(), b"w", b"", b""), "taken for a whiteout"),
        ("whiteout of nothing", Layer::new().file(".wh.", b""), "whiteout of no file"),
        ("whiteout of the parent", Layer::new().file("a/.wh...", b""), "whiteout of no file"),
        ("file as root", Layer::new().file("./", b""), "name"),
        ("symlink as root", Layer::new().symlink("/", "/etc"), "root must be a directory"),
        ("no name", Layer::new().file("", b""), "has no name"),
        ("long component", Layer::new().pax(&[("path", &deep)]).file("x", b""), "longer than 255"),
        ("symlink to nothing", Layer::new().symlink("s", ""), "target is empty"),
        ("NUL in a target", Layer::new().pax(nul_link).symlink("s", "x"), "NUL"),
        ("uid that is none", Layer::new().raw(huge_uid, b"u", b"", b""), "no 32-bit id"),
        ("uid beyond", Layer::new().pax(&[("uid", b"4294967296")]).file("u", b""), "no 32-bit id"),
        ("uid below", Layer::new().pax(&[("uid", b"-1")]).file("u", b""), "is no number"),
        ("type", Layer::new().raw(Layer::header(EntryType::new(b'M'), 0o644), b"m", b"", b""), "type 'M' is not known"),
    ];
    for (what, layer, part) in refused {
        let node = Node::new();
        let before = node.state();
        match pull(&node, vec![layer.tar()]).await {
            Ok(_) => assert_eq!(what, "file as root", "{what} was taken"),
            Err(line) => assert!(line.contains(part) && line.contains("sha256:"), "{what}: {line}"),
        }
        if what != "file as root" {
            assert_eq!(node.state(), before, "{what}");
        }
    }

    let outside = tempfile::tempdir().unwrap();
    let absolute = outside.path().to_str().unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    let layer = Layer::new()
        .file(&format!("{absolute}/absolute"), b"x")
        .symlink("out", absolute)
        .file("out/through-symlink", b"x")
        .symlink("up", "../../../../../../../../../../../..")
        .file("up/at-the-root", b"x")
        .symlink("over", absolute)
        .file("over", b"a file now")
        .symlink("proc", "/proc/self/root")
        .symlink("f", &format!("{absolute}/f"))
        .file("f", b"x");
    let node = Node::new();
    let root = unpack(&node, vec![layer.tar()]).await.remove(0);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(root.join("tmp").join(name).join("absolute").exists());
    assert!(root.join("tmp").join(name).join("through-symlink").exists());
    assert!(root.join("at-the-root").exists());
    assert_eq!(read(root.join("over")), "a file now");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_archives_inside_a_right_blob_are_refused() {
    if !is_root("truncated_archives_inside_a_right_blob_are_refused") {
        return;
    }
    let whole = Layer::new().file("a", &[7; 5000]).tar();
    for (cut, part) in [(100, "middle of a header"), (2000, "middle of a file")] {
        let node = Node::new();
        let before = node.state();
        let line = pull(&node, vec![whole[..cut].to_vec()]).await.unwrap_err();
        assert!(line.contains(part), "{line}");
        assert_eq!(node.state(), before);
    }
}
