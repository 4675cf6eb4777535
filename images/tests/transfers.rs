//! Transfers through a network that breaks, stalls, slows and spoils them, from Debian's docker-registry.

mod fixture;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::fake::{FakeRegistry, Reply, honest};
use fixture::flaky::{Fault, FlakyProxy};
use fixture::{DebianRegistry, Layer, Node, OCI_MANIFEST, QUICK, TestImage, chain, is_root, noise, overlay};
use serde_json::json;
use wharf_images::{LayerState, PullOptions, Transfers};

/// An image whose layers are files of noise, uncompressed.
fn image(layers: &[usize]) -> TestImage {
    let layer = |(number, length): (usize, &usize)| {
        let tar = Layer::new().file(&format!("file-{number}"), &noise(number as u64 + 1, *length)).tar();
        (tar.clone(), tar)
    };
    TestImage::new(&layers.iter().enumerate().map(layer).collect::<Vec<_>>(), json!({}))
}

/// A registry that has `image` as `team/app:1`, unless that cannot be tested here.
async fn registry_with(test: &str, image: &TestImage) -> Option<DebianRegistry> {
    fixture::install_tls();
    if !is_root(test) {
        return None;
    }
    let registry = DebianRegistry::start(test)?;
    registry.push("team/app", "1", image).await;
    Some(registry)
}

fn silent_for(silence: Duration) -> Transfers {
    Transfers { silence, ..QUICK }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_survives_whatever_happens_to_three_transfers_of_each_object() {
    let image = image(&[300_000, 1_000]);
    let Some(registry) =
        registry_with("a_pull_survives_whatever_happens_to_three_transfers_of_each_object", &image).await
    else {
        return;
    };
    for fault in [
        Fault::Status(429, "retry-after: 0\r\n"),
        Fault::Status(429, "retry-after: 86400\r\n"),
        Fault::Status(500, ""),
        Fault::Status(503, ""),
        Fault::Truncate(0),
        Fault::Truncate(700),
        Fault::Truncate(200_000),
        Fault::Reset(0),
        Fault::Reset(100_000),
        Fault::Slow(701),
        Fault::WithoutRange(Box::new(Fault::Truncate(700))),
    ] {
        let spoil = fault.clone();
        let proxy = FlakyProxy::start(&registry.address, move |_, number| match number {
            0..3 => spoil.clone(),
            _ => Fault::None,
        })
        .await;
        let node = Node::new();
        let pulled = node.store.pull(&proxy.reference("team/app:1"), PullOptions::default()).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{fault:?}: {}", chain(&*error)));
        assert_eq!(pulled.id, image.id(), "{fault:?}");
        let mount = overlay(&node.store.prepare("c", &pulled).unwrap());
        assert_eq!(std::fs::read(mount.lower[1].join("file-0")).unwrap(), noise(1, 300_000), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_goes_on_with_the_very_next_byte() {
    let image = image(&[500_000]);
    let Some(registry) = registry_with("a_broken_transfer_goes_on_with_the_very_next_byte", &image).await else {
        return;
    };
    let layer = image.blobs[1].0.to_string();
    let wanted = layer.clone();
    let proxy = FlakyProxy::start(&registry.address, move |path, number| match path.ends_with(&wanted) && number < 3 {
        true => Fault::Truncate(100_000),
        false => Fault::None,
    })
    .await;
    let node = Node::new();
    node.store.pull(&proxy.reference("team/app:1"), PullOptions::default()).await.unwrap();
    let seen = proxy.take_seen();
    let ranges: Vec<Option<&str>> =
        seen.iter().filter(|seen| seen.path.ends_with(&layer)).map(|seen| seen.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=200000-"), Some("bytes=300000-")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_not_asked_for_is_refused() {
    if !is_root("a_part_that_was_not_asked_for_is_refused") {
        return;
    }
    let image = image(&[10_000]);
    let (served, layer) = (image.clone(), image.blobs[1].0.to_string());
    let registry = FakeRegistry::start(move |request| {
        let mut reply = honest(&served, request);
        if request.path.ends_with(&layer) {
            match request.headers.contains_key("range") {
                true => reply.headers[0].1 = "bytes 4000-11775/11776".into(),
                false => {
                    reply.claimed_length = Some(reply.body.len());
                    reply.body.truncate(5000);
                }
            }
        }
        reply
    })
    .await;
    let node = Node::new();
    let before = node.state();
    let error = node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap_err();
    let line = chain(&*error);
    assert!(line.contains("registry sends `bytes 4000-11775/11776`, expected the bytes from 5000 on"), "{line}");
    assert_eq!(node.state(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_taken_for_a_broken_connection_wherever_it_begins() {
    let image = image(&[300_000]);
    let Some(registry) = registry_with("silence_is_taken_for_a_broken_connection_wherever_it_begins", &image).await
    else {
        return;
    };
    for count in [0, 1, 150_000] {
        let proxy = FlakyProxy::start(&registry.address, move |_, number| match number {
            0 => Fault::Stall(count),
            _ => Fault::None,
        })
        .await;
        let node = Node::with(silent_for(Duration::from_millis(300)));
        let pulled = node.store.pull(&proxy.reference("team/app:1"), PullOptions::default()).await.unwrap();
        assert_eq!(pulled.id, image.id());
    }
    let proxy = FlakyProxy::start(&registry.address, |_, _| Fault::Stall(0)).await;
    let node = Node::with(Transfers { retries: 1, ..silent_for(Duration::from_millis(50)) });
    let error = node.store.pull(&proxy.reference("team/app:1"), PullOptions::default()).await.unwrap_err();
    assert!(chain(&*error).contains("no answer in time"), "{}", chain(&*error));
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_content_is_fetched_once_more_and_then_refused() {
    let image = image(&[50_000, 20_000]);
    let Some(registry) = registry_with("spoiled_content_is_fetched_once_more_and_then_refused", &image).await else {
        return;
    };
    let layer = image.blobs[1].0.to_string();
    for (times, survives) in [(1, true), (usize::MAX, false)] {
        let wanted = layer.clone();
        let proxy =
            FlakyProxy::start(&registry.address, move |path, number| match path.ends_with(&wanted) && number < times {
                true => Fault::Corrupt(30_000),
                false => Fault::None,
            })
            .await;
        let node = Node::new();
        let before = node.state();
        let pulled = node.store.pull(&proxy.reference("team/app:1"), PullOptions::default()).await;
        match pulled {
            Ok(pulled) => assert!(survives && pulled.id == image.id()),
            Err(error) => {
                let line = chain(&*error);
                assert!(!survives && line.contains(&layer) && line.contains("content has the digest"), "{line}");
                // Not even the layer that was right: the image is not what it says.
                assert_eq!(node.state(), before);
            }
        }
        assert_eq!(proxy.take_seen().iter().filter(|seen| seen.path.ends_with(&layer)).count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_so_often_and_what_will_not_once() {
    for (status, tries) in [(429, 4), (500, 4), (503, 4), (599, 4), (404, 1), (400, 1), (403, 1)] {
        let registry = FakeRegistry::start(move |_| Reply::new(status, "")).await;
        let node = Node::with(Transfers { retries: 3, ..QUICK });
        let error = node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap_err();
        assert!(chain(&*error).contains(&format!("HTTP {status}")), "{}", chain(&*error));
        assert_eq!(registry.take_requests().len(), tries, "{status}");
    }
}

/// A registry that answers for a layer when `together` of them are asked for at the same time, and says how many
/// there were at most.
async fn gathering(image: &TestImage, together: usize) -> (FakeRegistry, Arc<AtomicUsize>) {
    let (image, most) = (image.clone(), Arc::new(AtomicUsize::new(0)));
    let (now, barrier) = (AtomicUsize::new(0), std::sync::Barrier::new(together));
    let seen = most.clone();
    let registry = FakeRegistry::start(move |request| {
        let is_layer = image.blobs[1..].iter().any(|(digest, _)| request.path.ends_with(&digest.to_string()));
        if is_layer {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::block_in_place(|| barrier.wait());
            now.fetch_sub(1, Ordering::SeqCst);
        }
        honest(&image, request)
    })
    .await;
    (registry, most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn so_many_layers_are_received_at_once_and_no_more() {
    if !is_root("so_many_layers_are_received_at_once_and_no_more") {
        return;
    }
    let image = image(&[1000, 2000, 3000, 4000]);
    for parallel in [1, 2] {
        let (registry, most) = gathering(&image, parallel).await;
        let node = Node::with(Transfers { parallel, ..QUICK });
        node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap();
        assert_eq!(most.load(Ordering::SeqCst), parallel);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_pulls_under_different_names_transfer_each_blob_once() {
    let image = image(&[200_000, 100_000, 1_000]);
    let Some(registry) = registry_with("ten_pulls_under_different_names_transfer_each_blob_once", &image).await else {
        return;
    };
    for tag in 2..=5 {
        registry.push_manifest("team/app", &tag.to_string(), OCI_MANIFEST, &image.manifest).await;
    }
    let proxy = FlakyProxy::start(&registry.address, |_, _| Fault::Slow(997)).await;
    let node = Node::new();
    let reference = |number: usize| proxy.reference(&format!("team/app:{}", number % 5 + 1));
    let references: Vec<_> = (0..10).map(reference).collect();
    let pulls = references.iter().map(|reference| node.store.pull(reference, PullOptions::default()));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().id, image.id());
    }
    assert_eq!(node.store.images().unwrap()[0].repo_tags.len(), 5);
    let mut blobs: BTreeMap<String, usize> = BTreeMap::new();
    for seen in proxy.take_seen().into_iter().filter(|seen| seen.path.contains("/blobs/")) {
        *blobs.entry(seen.path).or_default() += 1;
    }
    assert_eq!(blobs.into_values().collect::<Vec<_>>(), [1, 1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_keeps_whole_layers_and_nothing_else() {
    let image = image(&[40_000, 300_000]);
    let Some(registry) = registry_with("a_cancelled_pull_keeps_whole_layers_and_nothing_else", &image).await else {
        return;
    };
    let (whole, stuck) = (image.blobs[1].0, image.blobs[2].0);
    let proxy = FlakyProxy::start(&registry.address, move |path, _| match path.ends_with(&stuck.to_string()) {
        true => Fault::Stall(150_000),
        false => Fault::None,
    })
    .await;
    let node = Node::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let progress = move |step: wharf_images::LayerProgress| {
        if step.layer == whole && step.state == LayerState::Complete {
            tell.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    };
    let options = PullOptions { progress: Some(Arc::new(progress)), ..PullOptions::default() };
    let (store, reference) = (node.store.clone(), proxy.reference("team/app:1"));
    let pull = tokio::spawn(async move { store.pull(&reference, options).await });
    told.await.unwrap();
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    node.store.idle().await;
    let entries = |name: &str| -> Vec<String> {
        let all = std::fs::read_dir(node.dir.path().join(name)).unwrap();
        all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(entries("images/blobs/sha256"), [whole.hex()]);
    assert!(entries("tmp").is_empty() && entries("snapshots").is_empty());
    // The next pull has it already, and nobody else's image was touched.
    let open = FlakyProxy::start(&registry.address, |_, _| Fault::None).await;
    let pulled = node.store.pull(&open.reference("team/app:1"), PullOptions::default()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert!(open.take_seen().iter().all(|seen| !seen.path.ends_with(&whole.to_string())));
    node.store.remove(&image.id().to_string()).unwrap();
    assert!(entries("images/blobs/sha256").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_pull_kept_goes_with_the_next_removal() {
    let image = image(&[1000, 2000]);
    let Some(registry) = registry_with("what_an_interrupted_pull_kept_goes_with_the_next_removal", &image).await else {
        return;
    };
    let other = TestImage::small("another");
    registry.push("other", "1", &other).await;
    let (whole, stuck) = (image.blobs[1].0, image.blobs[2].0);
    // The second layer breaks, for good, when the first is whole: then nobody sends any more.
    let (complete, wait) = std::sync::mpsc::channel::<()>();
    let (complete, wait) = (Mutex::new(Some(complete)), Mutex::new(wait));
    let proxy = FlakyProxy::start(&registry.address, move |path, _| match path.ends_with(&stuck.to_string()) {
        true => {
            let _ = tokio::task::block_in_place(|| wait.lock().unwrap().recv());
            Fault::Reset(0)
        }
        false => Fault::None,
    })
    .await;
    let progress = move |step: wharf_images::LayerProgress| {
        if step.layer == whole && step.state == LayerState::Complete {
            complete.lock().unwrap().take();
        }
    };
    let options = PullOptions { progress: Some(Arc::new(progress)), ..PullOptions::default() };
    let node = Node::new();
    let error = node.store.pull(&proxy.reference("team/app:1"), options).await.unwrap_err();
    assert!(chain(&*error).contains("transfer was cut off"), "{}", chain(&*error));
    let blobs = || std::fs::read_dir(node.store.image_layout().join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs(), 1);
    assert!(node.store.images().unwrap().is_empty());
    node.store.pull(&proxy.reference("other:1"), PullOptions::default()).await.unwrap();
    node.store.remove(&other.id().to_string()).unwrap();
    assert_eq!(blobs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_transfer_a_layer_once() {
    let image = image(&[200_000, 100_000, 1_000]);
    let Some(registry) = registry_with("several_processes_transfer_a_layer_once", &image).await else { return };
    let proxy = FlakyProxy::start(&registry.address, |_, _| Fault::Slow(997)).await;
    let node = Node::new();
    // Locks are of open files: another handle is as another process.
    let open = || {
        let options = wharf_images::StoreOptions { transfers: QUICK, ..Default::default() };
        wharf_images::Store::open_with(node.dir.path(), options).unwrap()
    };
    let (reference, stores) = (proxy.reference("team/app:1"), [open(), open(), open()]);
    let pulls = stores.iter().map(|store| store.pull(&reference, PullOptions::default()));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().id, image.id());
    }
    for (layer, _) in &image.blobs[1..] {
        let path = layer.to_string();
        assert_eq!(proxy.seen_count(&path), 1, "{path}");
    }
    assert!(node.store.verify(Default::default()).unwrap().damages.is_empty());
    assert_eq!(std::fs::read_dir(node.dir.path().join("fetching")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_gets_nowhere_is_not_waited_for() {
    let image = image(&[100_000]);
    let Some(registry) = registry_with("a_process_that_gets_nowhere_is_not_waited_for", &image).await else { return };
    let layer = image.blobs[1].0.to_string();
    let (reached, told) = std::sync::mpsc::channel();
    let proxy = FlakyProxy::start(&registry.address, move |path, number| match path.ends_with(&layer) && number == 0 {
        true => {
            reached.send(()).unwrap();
            Fault::Stall(1000)
        }
        false => Fault::None,
    })
    .await;
    let node = Node::new();
    let (store, reference) = (node.store.clone(), proxy.reference("team/app:1"));
    let stuck = tokio::spawn(async move { store.pull(&reference, PullOptions::default()).await });
    tokio::task::spawn_blocking(move || told.recv()).await.unwrap().unwrap();
    let options =
        wharf_images::StoreOptions { transfers: silent_for(Duration::from_millis(200)), ..Default::default() };
    let other = wharf_images::Store::open_with(node.dir.path(), options).unwrap();
    let pulled = other.pull(&proxy.reference("team/app:1"), PullOptions::default()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    stuck.abort();
    assert!(stuck.await.unwrap_err().is_cancelled());
    node.store.idle().await;
    // A process that is killed leaves its note; the next one sweeps it.
    std::fs::write(node.dir.path().join("fetching/left"), "1-1").unwrap();
    wharf_images::Store::open(node.dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(node.dir.path().join("fetching")).unwrap().count(), 0);
}
