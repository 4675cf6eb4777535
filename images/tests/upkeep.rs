//! Pins, pruning, repair and what the store says it takes.

mod fixture;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fixture::fake::{FakeRegistry, honest};
use fixture::{Layer, Node, OCI_INDEX, TestImage, chain, gzip, index, is_root, noise};
use serde_json::json;
use wharf_images::{Digest, Image, PullOptions, Store, StoreError};

async fn serving(image: &TestImage) -> FakeRegistry {
    let image = image.clone();
    FakeRegistry::start(move |request| honest(&image, request)).await
}

async fn pulled(node: &Node, name: &str, image: &TestImage) -> (Image, FakeRegistry) {
    let registry = serving(image).await;
    let pulled = node.store.pull(&registry.reference(name), PullOptions::default()).await.unwrap();
    (pulled, registry)
}

fn image(layers: usize) -> TestImage {
    let layer = |number: usize| {
        let tar = Layer::new().dir("./", 0o755).file(&format!("file-{number}"), &noise(number as u64 + 1, 5000)).tar();
        (tar.clone(), gzip(&tar))
    };
    TestImage::new(&(0..layers).map(layer).collect::<Vec<_>>(), json!({}))
}

fn blob(node: &Node, digest: &Digest) -> PathBuf {
    node.store.image_layout().join("blobs/sha256").join(digest.hex())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_stays_until_it_is_given_free() {
    if !is_root("a_pinned_image_stays_until_it_is_given_free") {
        return;
    }
    let node = Node::new();
    let (image, registry) = pulled(&node, "app:1", &TestImage::small("one")).await;
    let name = registry.reference("app:1").to_string();
    assert!(!image.is_pinned && node.store.set_pinned(&name, true).unwrap().is_pinned);
    for word in [&name, &image.id.to_string()] {
        let refused = node.store.remove(word);
        assert!(matches!(&refused, Err(StoreError::Pinned { .. })), "{refused:?}");
    }
    assert!(node.store.prune(true).unwrap().images.is_empty());
    // Other names of it are free, and another process knows.
    node.store.tag(&name, &"other:1".parse().unwrap()).unwrap();
    assert_eq!(node.store.remove("other:1").unwrap().deleted, None);
    let again = Store::open(node.dir.path()).unwrap();
    assert!(again.resolve(&name).unwrap().unwrap().is_pinned);
    // Pulled again, it stays pinned; when the name moves on, so does the pin.
    node.store.pull(&registry.reference("app:1"), PullOptions::default()).await.unwrap();
    let (other, _other) = pulled(&node, "new:1", &TestImage::small("two")).await;
    let moved = node.store.tag(&other.id.to_string(), &name.parse().unwrap()).unwrap();
    assert!(moved.is_pinned && !node.store.resolve(&image.id.to_string()).unwrap().unwrap().is_pinned);
    assert!(!node.store.set_pinned(&name, false).unwrap().is_pinned);
    node.store.remove(&name).unwrap();
    assert!(matches!(node.store.set_pinned("nothing", true), Err(StoreError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_takes_what_nobody_uses() {
    if !is_root("pruning_takes_what_nobody_uses") {
        return;
    }
    let node = Node::new();
    let (kept, _one) = pulled(&node, "kept:1", &TestImage::small("kept")).await;
    let (used, _two) = pulled(&node, "used:1", &TestImage::small("used")).await;
    let (volume, _three) = pulled(&node, "volume:1", &TestImage::small("volume")).await;
    let untagged = TestImage::small("untagged");
    let registry = serving(&untagged).await;
    let by_digest = registry.reference(&format!("untagged@{}", untagged.digest()));
    let untagged = node.store.pull(&by_digest, PullOptions::default()).await.unwrap();
    // As an interrupted pull leaves it.
    let left = Digest::of(b"left");
    fs::write(blob(&node, &left), "left").unwrap();
    node.store.prepare("c", &used).unwrap();
    node.store.image_volume("c", &volume, "").unwrap();

    let pruned = node.store.prune(false).unwrap();
    let deleted = |pruned: &wharf_images::Pruned| -> Vec<Digest> {
        pruned.images.iter().filter_map(|removed| removed.deleted).collect()
    };
    assert_eq!(deleted(&pruned), [untagged.id]);
    assert_eq!(pruned.images[0].untagged, [by_digest.to_string()]);
    assert!(pruned.bytes >= untagged.size && !blob(&node, &left).exists());
    assert_eq!(node.store.images().unwrap().len(), 3);
    assert_eq!(deleted(&node.store.prune(true).unwrap()), [kept.id]);
    assert!(node.store.verify(Default::default()).unwrap().damages.is_empty());
    node.store.remove_snapshot("c").unwrap();
    assert_eq!(node.store.prune(true).unwrap().images.len(), 2);
    assert_eq!(node.store.usage().unwrap(), wharf_images::Usage::default());
    assert_eq!(node.store.prune(true).unwrap(), wharf_images::Pruned::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_under_way_survives_pruning() {
    if !is_root("a_pull_that_is_under_way_survives_pruning") {
        return;
    }
    let image = image(3);
    let node = Node::new();
    // It counts on a layer that is here, and that goes before it is done.
    let shared = image.blobs[1].clone();
    fs::write(blob(&node, &shared.0), &shared.1).unwrap();
    let (store, last) = (node.store.clone(), image.blobs[3].0.to_string());
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| {
        if request.path.ends_with(&last) {
            tokio::task::block_in_place(|| store.prune(true)).unwrap();
        }
        honest(&served, request)
    })
    .await;
    let pulled = node.store.pull(&registry.reference("app:1"), PullOptions::default()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert!(node.store.verify(Default::default()).unwrap().damages.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_damaged_is_fetched_again() {
    if !is_root("only_what_is_damaged_is_fetched_again") {
        return;
    }
    let image = image(3);
    let node = Node::new();
    let (_, registry) = pulled(&node, "app:1", &image).await;
    let (manifest, config, layer) = (image.digest(), image.id(), image.blobs[2].0);
    let snapshot = |number: usize| node.dir.path().join("snapshots").join(image.diff_ids[number].hex());
    registry.take_requests();
    let spoil = |digest: &Digest| {
        let mut bytes = fs::read(blob(&node, digest)).unwrap();
        bytes[10] ^= 1;
        fs::write(blob(&node, digest), bytes).unwrap();
    };
    type Case<'c> = (&'c str, &'c dyn Fn(), Vec<String>, usize);
    let cases: [Case<'_>; 7] = [
        ("layer", &|| spoil(&layer), vec![format!("GET /v2/app/blobs/{layer}")], 0),
        ("missing", &|| fs::remove_file(blob(&node, &layer)).unwrap(), vec![format!("GET /v2/app/blobs/{layer}")], 0),
        ("config", &|| spoil(&config), vec![format!("GET /v2/app/blobs/{config}")], 0),
        ("manifest", &|| spoil(&manifest), vec![format!("GET /v2/app/manifests/{manifest}")], 0),
        (
            "no manifest",
            &|| fs::remove_file(blob(&node, &manifest)).unwrap(),
            vec![format!("GET /v2/app/manifests/{manifest}")],
            0,
        ),
        ("snapshot", &|| fs::remove_dir_all(snapshot(1)).unwrap(), vec![], 1),
        ("record", &|| fs::remove_file(snapshot(2).join("record.json")).unwrap(), vec![], 1),
    ];
    for (case, damage, requests, unpacked) in cases {
        damage();
        // As after a restart: nothing of it is remembered.
        let store = Store::open(node.dir.path()).unwrap();
        assert!(!store.verify(Default::default()).unwrap().damages.is_empty(), "{case}");
        let repaired = store.repair(Default::default(), false).await.unwrap();
        assert!(repaired.left.is_empty() && repaired.failures.is_empty(), "{case}: {repaired:?}");
        assert_eq!(registry.take_requests(), requests, "{case}");
        assert_eq!((repaired.fetched.len(), repaired.unpacked.len()), (requests.len(), unpacked), "{case}");
        assert!(snapshot(1).join("fs/file-1").exists() && snapshot(2).join("fs/file-2").exists(), "{case}");
        store.idle().await;
    }
    assert!(
        registry.take_requests().is_empty()
            && node.store.repair(Default::default(), false).await.unwrap().fetched.is_empty()
    );

    // What cannot be had is told, and the rest is mended all the same.
    spoil(&layer);
    spoil(&config);
    let served = image.clone();
    let refused = config.to_string();
    drop(registry);
    let registry = FakeRegistry::start(move |request| match request.path.ends_with(&refused) {
        true => fixture::fake::Reply::new(404, ""),
        false => honest(&served, request),
    })
    .await;
    let index = node.store.image_layout().join("index.json");
    let text = fs::read_to_string(&index).unwrap();
    let old = text.split("ref.name\":\"").nth(1).unwrap().split('/').next().unwrap().to_owned();
    fs::write(&index, text.replace(&old, &registry.address)).unwrap();
    let store = Store::open(node.dir.path()).unwrap();
    let repaired = store.repair(Default::default(), false).await.unwrap();
    assert_eq!(repaired.fetched, [layer]);
    assert!(repaired.failures.iter().any(|(digest, error)| *digest == config && chain(error).contains("HTTP 404")));
    assert!(!repaired.left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_mended_with_all_its_platforms() {
    if !is_root("an_index_is_mended_with_all_its_platforms") {
        return;
    }
    let (amd64, arm64) = (TestImage::small("amd64"), TestImage::small("arm64"));
    let both = index(&[amd64.index_entry("linux", "amd64"), arm64.index_entry("linux", "arm64")]);
    let (one, two, whole) = (amd64.clone(), arm64.clone(), both.clone());
    let registry = FakeRegistry::start(move |request| {
        let of = |image: &TestImage| {
            let parts = image.blobs.iter().map(|(digest, _)| *digest).chain([image.digest()]);
            parts.into_iter().any(|digest| request.path.ends_with(&digest.to_string()))
        };
        match (of(&one), of(&two)) {
            (true, _) => honest(&one, request),
            (_, true) => honest(&two, request),
            _ => fixture::fake::Reply::new(200, whole.clone()).header("content-type", OCI_INDEX),
        }
    })
    .await;
    let node = Node::new();
    let options =
        PullOptions { all_platforms: true, platform: Some("linux/amd64".parse().unwrap()), ..PullOptions::default() };
    node.store.pull(&registry.reference("multi"), options).await.unwrap();
    for digest in [Digest::of(&both), arm64.digest(), arm64.blobs[1].0] {
        fs::write(blob(&node, &digest), "{").unwrap();
    }
    let store = Store::open(node.dir.path()).unwrap();
    let repaired = store.repair(Default::default(), false).await.unwrap();
    assert!(repaired.left.is_empty(), "{repaired:?}");
    assert_eq!(repaired.fetched.len(), 3);
    assert_eq!(fs::read(blob(&node, &Digest::of(&both))).unwrap(), both);
}

/// What `du` finds: bytes of blocks, each file once.
fn du(path: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes, mut seen) = (0, 0, std::collections::HashSet::new());
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if !seen.insert(metadata.ino()) {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_those_on_disk() {
    if !is_root("sizes_are_those_on_disk") {
        return;
    }
    let many = (0..200).fold(Layer::new().dir("./", 0o755), |layer, number| {
        layer.file(&format!("file-{number}"), &noise(number + 1, 3000 + number as usize * 50))
    });
    let tar = many.hard_link("again", "file-199").symlink("link", "file-0").tar();
    let image = TestImage::new(&[(tar.clone(), gzip(&tar))], json!({}));
    let node = Node::new();
    let (pulled, _registry) = pulled(&node, "app:1", &image).await;
    let usage = node.store.usage().unwrap();
    let (blobs, blob_count) = du(&node.store.image_layout().join("blobs/sha256"));
    let (snapshots, inodes) = du(&node.dir.path().join("snapshots"));
    let found = blobs + snapshots;
    // Directories and records are not counted: a few blocks.
    assert!(usage.bytes <= found && found - usage.bytes < 64 << 10, "{usage:?} {found}");
    assert!(usage.inodes.abs_diff(blob_count + inodes) < 8, "{usage:?} {blob_count} {inodes}");
    let on_disk: u64 = image.blobs.iter().map(|(digest, _)| fs::metadata(blob(&node, digest)).unwrap().len()).sum();
    assert_eq!(pulled.size, on_disk);
    let layer = &node.store.layers_of(&pulled).unwrap()[0];
    assert_eq!(layer.size, image.blobs[1].1.len() as u64);
    assert!(layer.unpacked.unwrap().bytes.abs_diff(snapshots) < 64 << 10);
}
