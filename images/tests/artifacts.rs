//! OCI artifacts: pulled as files, mounted as volumes, pushed as they are.

mod fixture;

use std::fs;

use fixture::fake::{FakeRegistry, honest};
use fixture::{DebianRegistry, Node, TestImage, chain, is_root, read};
use serde_json::json;
use wharf_images::{Digest, ImageVolume, PullOptions, PushOptions, Store};

const TITLE: &str = "org.opencontainers.image.title";

/// An artifact whose blobs have these titles and contents.
fn artifact(files: &[(Option<&str>, &str)]) -> TestImage {
    let config = b"{}".to_vec();
    let blob = |(title, content): &(Option<&str>, &str)| {
        let annotations = title.map_or(json!({}), |title| json!({TITLE: title}));
        json!({"mediaType": "text/plain", "digest": Digest::of(content.as_bytes()), "size": content.len(), "annotations": annotations})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": fixture::OCI_MANIFEST, "artifactType": "application/vnd.example.model",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(&config), "size": 2},
        "layers": files.iter().map(blob).collect::<Vec<_>>(),
    });
    let mut blobs = vec![(Digest::of(&config), config)];
    blobs.extend(files.iter().map(|(_, content)| (Digest::of(content.as_bytes()), content.as_bytes().to_vec())));
    TestImage { manifest: manifest.to_string().into_bytes(), blobs, diff_ids: Vec::new() }
}

async fn serving(artifact: &TestImage) -> FakeRegistry {
    let artifact = artifact.clone();
    FakeRegistry::start(move |request| honest(&artifact, request)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifacts_blobs_are_files_of_a_volume() {
    let test = "an_artifacts_blobs_are_files_of_a_volume";
    if !is_root(test) {
        return;
    }
    let artifact = artifact(&[(Some("model.bin"), "weights"), (Some("docs/a/read.me"), "words"), (None, "untitled")]);
    let registry = serving(&artifact).await;
    let (node, reference) = (Node::new(), registry.reference("model:1"));
    let pulled = node.store.pull(&reference, PullOptions::default()).await.unwrap();
    // Its config says nothing: many artifacts have the same.
    assert_eq!((pulled.id, pulled.manifest_digest), (artifact.digest(), artifact.digest()));
    registry.take_requests();
    node.store.pull(&reference, PullOptions::default()).await.unwrap();
    assert_eq!(registry.take_requests(), ["HEAD /v2/model/manifests/1"]);

    let image = TestImage::small("container");
    let other = serving(&image).await;
    let own = node.store.pull(&other.reference("own"), PullOptions::default()).await.unwrap();
    node.store.prepare("c", &own).unwrap();
    let place = |sub_path: &str| match node.store.image_volume("c", &pulled, sub_path) {
        Ok(ImageVolume::Bind(path)) => path,
        other => panic!("{sub_path}: {other:?}"),
    };
    assert_eq!(read(place("").join("docs/a/read.me")), "words");
    assert_eq!(read(place("docs/a").join("read.me")), "words");
    assert_eq!(read(place("model.bin")), "weights");
    assert_eq!(read(place(&Digest::of(b"untitled").hex())), "untitled");
    // Not a byte was copied, and it stays as long as its container.
    let (blob, file) =
        (node.store.image_layout().join("blobs/sha256").join(Digest::of(b"weights").hex()), place("model.bin"));
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    assert_eq!(inode(&blob), inode(&file));
    assert!(node.store.remove(&reference.to_string()).is_err());

    // Another process reads it, checks it, mends it.
    let again = Store::open(node.dir.path()).unwrap();
    assert_eq!(again.resolve(&reference.to_string()).unwrap().unwrap().id, artifact.digest());
    assert!(again.verify(Default::default()).unwrap().damages.is_empty());
    fs::remove_dir_all(node.dir.path().join("snapshots").join(artifact.digest().hex())).unwrap();
    let repaired = again.repair(Default::default(), false).await.unwrap();
    assert_eq!((repaired.unpacked.len(), repaired.left.len()), (1, 0), "{repaired:?}");
    assert_eq!(read(place("model.bin")), "weights");

    if let Some(debian) = DebianRegistry::start(test) {
        let to = debian.reference("model:1");
        let pushed = node.store.push(&reference.to_string(), &to, PushOptions::default()).await.unwrap();
        assert_eq!(pushed.digest, artifact.digest());
        let back = Node::new();
        assert_eq!(back.store.pull(&to, PullOptions::default()).await.unwrap().id, artifact.digest());
    }
    node.store.remove_snapshot("c").unwrap();
    node.store.prune(true).unwrap();
    assert_eq!(node.store.usage().unwrap(), wharf_images::Usage::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn titles_that_are_no_file_names_are_refused() {
    if !is_root("titles_that_are_no_file_names_are_refused") {
        return;
    }
    let long = "a/".repeat(3000) + "b";
    for (titles, part) in [
        (vec!["../out"], "title `../out`: expected a relative path"),
        (vec!["/etc/passwd"], "expected a relative path"),
        (vec!["a//b"], "expected a relative path"),
        (vec!["a/./b"], "expected a relative path"),
        (vec![""], "expected a relative path"),
        (vec!["a\0b"], "expected a relative path"),
        (vec![&long], "expected a relative path"),
        (vec!["same", "same"], "title `same`: another blob has it too"),
        (vec!["a", "a/b"], "title `a/b`: a part of it is another blob's file"),
        (vec!["a/b", "a"], "title `a`: is a directory of other blobs"),
    ] {
        let contents: Vec<String> = (0..titles.len()).map(|number| format!("content {number}")).collect();
        let files: Vec<_> =
            titles.iter().zip(&contents).map(|(title, content)| (Some(*title), content.as_str())).collect();
        let registry = serving(&artifact(&files)).await;
        let node = Node::new();
        let before = node.state();
        let error = node.store.pull(&registry.reference("model"), PullOptions::default()).await.unwrap_err();
        let line = chain(&*error);
        assert!(
            line.contains(part) && line.contains("blob sha256:") && line.lines().count() == 1,
            "{titles:?}: {line}"
        );
        assert_eq!(node.state(), before, "{titles:?}");
    }
}
