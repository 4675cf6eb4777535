//! Random trees in random layers: our overlay, mounted, shows what `umoci unpack` makes of the same image, and so does
//! our copy where there can be no overlay.

mod fixture;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, TestImage, gzip, is_installed, is_root, overlay};
use serde_json::json;
use tar::{EntryType, Header};
use wharf_images::{PullOptions, RootFs};

/// xorshift64: the same trees on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn header(&mut self, kind: EntryType) -> Header {
        let mode = [0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600][self.below(6) as usize];
        let mut header = Layer::header(kind, mode);
        header.set_uid(self.below(3) * 1000);
        header.set_gid(self.below(70_000));
        header.set_mtime(1_000_000_000 + self.below(100_000_000));
        header
    }
}

/// File capabilities as a pax record has them: cap_net_raw, permitted and effective (linux/capability.h, revision 2).
const CAPABILITIES: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One layer over the merged tree `below` (path to "is a directory"), which becomes the tree with it.
fn layer(random: &mut Random, below: &mut BTreeMap<String, bool>) -> Vec<u8> {
    let mut tar = Layer::new();
    let mut own: BTreeMap<String, bool> = BTreeMap::new();
    let mut hidden: Vec<String> = Vec::new();
    let root = random.header(EntryType::Directory);
    tar = tar.raw(root, b"./", b"", b"");
    for directory in ["a", "b", "a/c", "a/c/d"] {
        if random.below(4) == 0 || directory.rsplit_once('/').is_some_and(|(up, _)| !own.contains_key(up)) {
            continue;
        }
        let header = random.header(EntryType::Directory);
        if random.below(3) == 0 {
            tar = tar.pax(&[("SCHILY.xattr.user.place", directory.as_bytes())]);
        }
        tar = tar.raw(header, format!("{directory}/").as_bytes(), b"", b"");
        if random.below(6) == 0 {
            let opaque = format!("{directory}/.wh..wh..opq");
            tar = tar.file(&opaque, b"");
            let prefix = format!("{directory}/");
            below.retain(|path, _| !path.starts_with(&prefix));
        }
        own.insert(directory.into(), true);
    }
    let directories: Vec<String> = own.keys().cloned().collect();
    let mut files: Vec<String> = Vec::new();
    for _ in 0..random.below(12) {
        let place = match random.below(directories.len() as u64 + 1) as usize {
            0 => String::new(),
            at => format!("{}/", directories[at - 1]),
        };
        let name = format!("{place}f{}", random.below(5));
        if own.contains_key(&name) {
            continue;
        }
        own.insert(name.clone(), false);
        let bytes = name.as_bytes();
        match (random.below(6), files.last()) {
            (0, _) => {
                let header = random.header(EntryType::Symlink);
                tar = tar.raw(header, bytes, format!("../f{}", random.below(5)).as_bytes(), b"");
            }
            (1, Some(target)) => tar = tar.hard_link(&name, target),
            (2, _) => {
                let header = random.header(EntryType::Fifo);
                tar = tar.raw(header, bytes, b"", b"");
            }
            _ => {
                let header = random.header(EntryType::Regular);
                tar = match random.below(4) {
                    0 => tar.pax(&[("SCHILY.xattr.user.name", bytes), ("SCHILY.xattr.user.empty", b"")]),
                    1 => tar.pax(&[("SCHILY.xattr.security.capability", CAPABILITIES)]),
                    _ => tar,
                };
                let content = vec![b'x'; random.below(9000) as usize];
                tar = tar.raw(header, bytes, b"", &content);
                files.push(name);
            }
        }
    }
    for path in below.keys() {
        let up = path.rsplit_once('/').map_or("", |(up, _)| up);
        let reachable = up.is_empty() || own.get(up) == Some(&true);
        if reachable && !own.contains_key(path) && random.below(5) == 0 {
            hidden.push(path.clone());
        }
    }
    for path in &hidden {
        let whiteout = match path.rsplit_once('/') {
            Some((up, name)) => format!("{up}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        tar = tar.file(&whiteout, b"");
        let prefix = format!("{path}/");
        below.retain(|other, _| other != path && !other.starts_with(&prefix));
    }
    below.extend(own);
    tar.tar()
}

/// Prints the extended attributes of the files named on its input.
const XATTRS: &str = "import os, sys
for path in sys.stdin.read().splitlines():
    for name in sorted(os.listxattr(path)): print(path, name, os.getxattr(path, name).hex())";

/// Every name with type, mode, owner, size, link target, time (not of directories: umoci's own changes
/// show there), extended attributes and content. Link counts are left out: in an overlay they count hidden names of a layer too.
fn listing(root: &Path, mount: &str) -> String {
    let script = format!(
        "{mount} cd \"$0\" && find . ! -type d -printf '%P %y %m %U %G %s %l %T@\\n' -o -printf '%P %y %m %U %G\\n' \
         | LC_ALL=C sort && find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum && \
         find . ! -type l | LC_ALL=C sort | python3 -c '{XATTRS}'"
    );
    let output = Command::new("unshare").args(["-m", "sh", "-ec", &script]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_trees_are_those_of_umoci() {
    let test = "our_trees_are_those_of_umoci";
    if !is_root(test) || !is_installed("umoci", test) || !is_installed("skopeo", test) || !is_installed("python3", test)
    {
        return;
    }
    let mut attributes = 0;
    for seed in 1..=12 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut merged = BTreeMap::new();
        let layers: Vec<_> = (0..4)
            .map(|_| {
                let tar = layer(&mut random, &mut merged);
                (tar.clone(), gzip(&tar))
            })
            .collect();
        let image = TestImage::new(&layers, json!({}));
        let registry = FakeRegistry::start(move |request| honest(&image, request)).await;
        let node = Node::new();
        let reference = registry.reference("a");
        let pulled = node.store.pull(&reference, PullOptions::default()).await.unwrap();

        let elsewhere = Node::on_overlay();
        let copied = elsewhere.store.pull(&reference, PullOptions::default()).await.unwrap();

        let other = tempfile::tempdir().unwrap();
        let (layout, bundle) = (other.path().join("layout"), other.path().join("bundle"));
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let from = format!("oci:{}:{reference}", node.store.image_layout().display());
        run("skopeo", &["--insecure-policy", "copy", &from, &format!("oci:{}:x", layout.display())]);
        run("umoci", &["unpack", "--image", &format!("{}:x", layout.display()), &bundle.to_string_lossy()]);

        let mount = overlay(&node.store.prepare("c", &pulled).unwrap());
        let lower: Vec<_> = mount.lower.iter().map(|path| path.to_string_lossy()).collect();
        // Read-only, so without the upper directory.
        let options = format!("mount -t overlay overlay -o 'lowerdir={}' \"$0\" &&", lower.join(":"));
        let target = other.path().join("merged");
        std::fs::create_dir(&target).unwrap();
        let ours = listing(&target, &options);
        let theirs = listing(&bundle.join("rootfs"), "");
        assert!(ours.lines().count() > 5, "{ours}");
        assert_eq!(ours, theirs, "seed {seed}");
        let RootFs::Copy { root, .. } = elsewhere.store.prepare("c", &copied).unwrap() else {
            panic!("an overlay on an overlay");
        };
        assert_eq!(listing(&root, ""), theirs, "seed {seed}, copied");
        attributes += ours.matches(" user.").count() + ours.matches(" security.capability ").count();
    }
    assert!(attributes > 20, "{attributes}");
}
