//! Archives that are no images, from their bytes to what they mean.

use serde_json::{Value, json};
use tar::EntryType;
use wharf_images::Digest;

use crate::check;
use crate::fixture::{Layer, Node, chain, gzip, is_root, zstd};

type Case = (&'static str, Vec<u8>, Vec<&'static str>);

fn layer() -> Vec<u8> {
    Layer::new().dir("etc", 0o755).file("etc/motd", &[b'x'; 700]).tar()
}

fn config(diff_ids: Value) -> Vec<u8> {
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into()
}

/// `docker save`'s form: `manifest` over a good configuration and layer.
fn docker(manifest: Value) -> Vec<u8> {
    let config = config(json!([Digest::of(&layer())]));
    Layer::new().file("c", &config).file("l", &layer()).file("manifest.json", manifest.to_string().as_bytes()).tar()
}

/// An image with one layer, which is `content`.
fn with_layer(content: Vec<u8>) -> Vec<u8> {
    let config = config(json!([Digest::of(&content)]));
    let manifest = br#"[{"Config":"c","Layers":["l"]}]"#;
    Layer::new().file("c", &config).file("l", &content).file("manifest.json", manifest).tar()
}

/// An image layout: `index.json` and blobs under their digests.
fn oci(index: Value, blobs: &[&[u8]]) -> Vec<u8> {
    let mut archive = Layer::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for blob in blobs {
        archive = archive.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    archive.file("index.json", index.to_string().as_bytes()).tar()
}

fn entry(blob: &[u8]) -> Value {
    json!({"schemaVersion": 2, "manifests": [{"digest": Digest::of(blob), "size": blob.len()}]})
}

fn member(name: &str, kind: EntryType, link: &str) -> Vec<u8> {
    Layer::new().raw(Layer::header(kind, 0o644), name.as_bytes(), link.as_bytes(), b"").tar()
}

fn framing() -> Vec<Case> {
    let whole = docker(json!([{"Config": "c", "Layers": ["l"]}]));
    let mut sum = whole.clone();
    sum[0] ^= 1;
    let mut kind = Layer::new().file("a", b"").tar();
    kind[156] = b'?';
    let recount = |mut tar: Vec<u8>| {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&tar[..512]);
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        tar
    };
    let mut octal = Layer::new().file("a", b"").tar();
    octal[124..136].copy_from_slice(b"zzzzzzzzzzz\0");
    let mut extension = Layer::new().file("a", b"").tar();
    extension[156] = b'x';
    extension[124..136].copy_from_slice(b"00100000000\0");
    vec![
        ("text", b"text".to_vec(), vec!["ends in the middle of a header"]),
        ("zeros with a tail", [vec![0; 512], vec![7; 300]].concat(), vec!["neither index.json nor manifest.json"]),
        ("noise", vec![b'x'; 2000], vec!["archive header at byte 0", "no tar archive"]),
        ("checksum", sum, vec!["archive header at byte 0", "checksum"]),
        ("type", recount(kind), vec!["archive header at byte 0: member `a`: type '?' is not known"]),
        ("size", recount(octal), vec!["archive header at byte 0"]),
        ("extension", recount(extension), vec!["extension of 16777216 bytes, at most 1048576 are taken"]),
        ("half", whole[..1300].to_vec(), vec!["archive ends in the middle of"]),
        ("half gzip", gzip(&whole)[..300].to_vec(), vec!["read archive"]),
        ("half zstd", zstd(&whole)[..200].to_vec(), vec!["read archive"]),
        ("nothing", Vec::new(), vec!["is no image archive, it has neither index.json nor manifest.json"]),
        ("a layer", layer(), vec!["is no image archive, it has neither index.json nor manifest.json"]),
        ("a directory", Layer::new().dir("index.json", 0o755).tar(), vec!["neither index.json nor manifest.json"]),
        ("a link nowhere", member("manifest.json", EntryType::Symlink, "/etc/passwd"), vec!["neither index.json nor"]),
    ]
}

fn meaning() -> Vec<Case> {
    let no_json = "is no valid JSON document of its kind: ";
    let raw = |text: &[u8]| Layer::new().file("manifest.json", text).tar();
    let inner = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let outer = json!({"schemaVersion": 2, "manifests": [{"digest": Digest::of(inner.as_bytes()), "size": inner.len(),
        "platform": {"os": "linux", "architecture": "amd64"}}, {"digest": Digest::of(b"x"), "size": 1,
        "platform": {"os": "linux", "architecture": "arm64"}}]})
    .to_string();
    let lonely =
        json!({"schemaVersion": 2, "config": {"digest": Digest::of(b"c"), "size": 1}, "layers": []}).to_string();
    let liar = Layer::new()
        .file(&format!("blobs/sha256/{}", Digest::of(b"right").hex()), b"wrong")
        .file("index.json", entry(b"right").to_string().as_bytes())
        .tar();
    vec![
        ("no JSON", raw(b"["), vec!["manifest.json is no valid JSON", "EOF while parsing"]),
        ("an object", raw(b"{}"), vec![no_json, "invalid type: map, expected a sequence"]),
        ("no config", raw(b"[{}]"), vec![no_json, "missing field `Config`"]),
        ("no layers", raw(br#"[{"Config":"c"}]"#), vec![no_json, "missing field `Layers`"]),
        ("odd layers", raw(br#"[{"Config":"c","Layers":"l"}]"#), vec![no_json, "invalid type: string \"l\""]),
        ("empty", raw(b"[]"), vec!["is no image archive"]),
        (
            "outside",
            docker(json!([{"Config": "../../etc/passwd", "Layers": []}])),
            vec!["../../etc/passwd is named but"],
        ),
        ("absolute", docker(json!([{"Config": "/etc/passwd", "Layers": []}])), vec!["/etc/passwd is named but not in"]),
        ("missing layer", docker(json!([{"Config": "c", "Layers": ["m"]}])), vec!["m is named but not in the archive"]),
        ("few layers", docker(json!([{"Config": "c", "Layers": []}])), vec!["config names 1 diff ids for 0 layers"]),
        ("layer as config", docker(json!([{"Config": "l", "Layers": ["l"]}])), vec!["config sha256:", no_json]),
        (
            "name",
            docker(json!([{"Config": "c", "Layers": ["l"], "RepoTags": ["A:b:c"]}])),
            vec!["image reference `A:b:c`: "],
        ),
        ("long", raw(&vec![b' '; (4 << 20) + 1]), vec!["manifest.json is longer than 4194304 bytes"]),
        ("index", oci(json!([]), &[]), vec!["index.json is no valid JSON", "expected an object"]),
        ("no blob", oci(entry(b"x"), &[]), vec!["a file with the digest sha256:", "is named but not in the archive"]),
        ("a lying name", liar, vec!["a file with the digest sha256:", "is named but not in the archive"]),
        ("no manifest", oci(entry(b"x"), &[b"x"]), vec!["manifest sha256:", no_json]),
        ("no config blob", oci(entry(lonely.as_bytes()), &[lonely.as_bytes()]), vec!["a file with the digest sha256:"]),
        (
            "index in index in index",
            oci(entry(outer.as_bytes()), &[outer.as_bytes(), inner.as_bytes()]),
            vec!["leads to another index, expected an image"],
        ),
    ]
}

/// Members of a layer.
fn members() -> Vec<Case> {
    let file = || Layer::header(EntryType::Regular, 0o644);
    let refused = |name: &'static str, content: Vec<u8>, part: &'static str| {
        (name, with_layer(content), vec!["layer sha256:", part])
    };
    vec![
        refused("no tar", b"text".to_vec(), "ends in the middle of a header"),
        refused("half a file", layer()[..1400].to_vec(), "archive ends in the middle of a file"),
        refused("up", Layer::new().raw(file(), b"a/../../b", b"", b"").tar(), "member `a/../../b`: "),
        refused("hard link up", member("a", EntryType::Link, "../etc/passwd"), "member `a`: hard link's target: "),
        refused("hard link nowhere", member("a", EntryType::Link, "b"), "`b` is no file of this layer"),
        refused("hard link to itself", member("a", EntryType::Link, "a"), "member `a`: "),
        refused("symlink nowhere", member("a", EntryType::Symlink, ""), "symlink's target is empty or has a NUL"),
        refused("whiteout of nothing", Layer::new().file(".wh.", b"").tar(), "is a whiteout of no file"),
        refused("device 0:0", member("a", EntryType::Char, ""), "a character device 0:0 would be taken for a whiteout"),
        refused("file over directory", Layer::new().dir("a", 0o755).file("a", b"").tar(), "would replace a directory"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_refused_by_file_and_member() {
    let mut cases = framing();
    cases.extend(meaning());
    if is_root("archives_are_refused_by_file_and_member") {
        cases.extend(members());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    for (case, bytes, parts) in cases {
        std::fs::write(&path, bytes).unwrap();
        let node = Node::new();
        let before = node.state();
        let error = node.store.load(&path, None).await.expect_err(case);
        let line = chain(&error);
        check(case, &line, &[&format!("load {}: ", path.display())]);
        check(case, &line, &parts);
        assert_eq!(node.state(), before, "{case}");
        assert!(node.store.images().unwrap().is_empty());
    }
}
