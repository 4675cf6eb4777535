//! Pulling from Debian's docker-registry and from a scripted one.

mod fixture;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fixture::fake::{FakeRegistry, Reply, honest};
use fixture::{
    DebianRegistry, Layer, Node, OCI_INDEX, OCI_MANIFEST, TestImage, gzip, index, is_root, overlay, read, zstd,
};
use serde_json::json;
use wharf_images::{Credentials, LayerState, PullOptions, Store};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    fixture::install_tls();
    let test = "an_image_is_pulled_by_tag_and_by_digest";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else {
        return;
    };
    let layers: Vec<(Vec<u8>, Vec<u8>)> = [gzip as fn(&[u8]) -> Vec<u8>, zstd, <[u8]>::to_vec]
        .iter()
        .enumerate()
        .map(|(number, compress)| {
            let tar = Layer::new()
                .dir("./", 0o755)
                .file(&format!("file-{number}"), number.to_string().as_bytes())
                .file("last", number.to_string().as_bytes())
                .tar();
            let blob = compress(&tar);
            (tar, blob)
        })
        .collect();
    let config =
        json!({"Entrypoint": ["/bin/app"], "Cmd": ["-v"], "Env": ["A=b"], "User": "7", "StopSignal": "SIGINT"});
    let image = TestImage::new(&layers, config);
    registry.push("team/app", "v1", &image).await;

    let node = Node::new();
    let reference = registry.reference("team/app:v1");
    let pulled = node.store.pull(&reference, PullOptions::default()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(pulled.manifest_digest, image.digest());
    assert_eq!(pulled.repo_tags, [reference.to_string()]);
    let by_digest = format!("{}/team/app@{}", registry.address, image.digest());
    assert_eq!(pulled.repo_digests.join(" "), by_digest);
    assert_eq!(pulled.config.entrypoint, ["/bin/app"]);
    assert_eq!(pulled.config.stop_signal, "SIGINT");
    assert_eq!(pulled.diff_ids, image.diff_ids);
    assert_eq!(pulled.size, image.blobs.iter().map(|(_, blob)| blob.len() as u64).sum::<u64>());

    let mount = overlay(&node.store.prepare("c1", &pulled).unwrap());
    assert_eq!(mount.lower.len(), 3);
    assert_eq!(read(mount.lower[0].join("last")), "2");
    assert_eq!(read(mount.lower[2].join("file-0")), "0");
    node.store.remove_snapshot("c1").unwrap();

    let other = Node::new();
    let reference = by_digest.parse().unwrap();
    let pulled = other.store.pull(&reference, PullOptions::default()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(pulled.repo_digests.join(" "), by_digest);
    assert!(pulled.repo_tags.is_empty());
    for name in [by_digest, image.id().to_string(), image.id().hex(), image.id().hex()[..12].into()] {
        let found = other.store.resolve(&name).unwrap();
        assert_eq!(found.map(|found| found.id), Some(image.id()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_is_chosen_from_an_index() {
    fixture::install_tls();
    let test = "the_platform_is_chosen_from_an_index";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else {
        return;
    };
    let (amd64, arm64) = (TestImage::small("amd64"), TestImage::small("arm64"));
    registry.push("multi", "amd64", &amd64).await;
    registry.push("multi", "arm64", &arm64).await;
    let both = index(&[amd64.index_entry("linux", "amd64"), arm64.index_entry("linux", "arm64")]);
    registry.push_manifest("multi", "latest", OCI_INDEX, &both).await;

    let node = Node::new();
    let reference = registry.reference("multi");
    for (platform, image) in [("linux/amd64", &amd64), ("linux/arm64", &arm64)] {
        let options = PullOptions { platform: Some(platform.parse().unwrap()), ..PullOptions::default() };
        let pulled = node.store.pull(&reference, options).await.unwrap();
        assert_eq!(pulled.id, image.id(), "{platform}");
        let digest = wharf_images::Digest::of(&both);
        assert_eq!(pulled.repo_digests, [format!("{}/multi@{digest}", registry.address)]);
    }
    let options = PullOptions { platform: Some("linux/s390x".parse().unwrap()), ..PullOptions::default() };
    let before = node.state();
    let error = node.store.pull(&reference, options).await.unwrap_err().to_string();
    assert!(error.contains("linux/s390x") && error.contains("linux/amd64, linux/arm64"), "{error}");
    assert_eq!(node.state(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_present_image_costs_one_head_request() {
    if !is_root("a_present_image_costs_one_head_request") {
        return;
    }
    let image = TestImage::small("x");
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
    let node = Node::new();
    let reference = registry.reference("a:1");
    node.store.pull(&reference, PullOptions::default()).await.unwrap();
    assert_eq!(registry.take_requests().len(), 3);
    let again = node.store.pull(&reference, PullOptions::default()).await.unwrap();
    assert_eq!(registry.take_requests(), ["HEAD /v2/a/manifests/1"]);
    assert_eq!(again.id, image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_pulls_transfer_once() {
    if !is_root("simultaneous_pulls_transfer_once") {
        return;
    }
    let image = TestImage::small("x");
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
    let node = Node::new();
    let reference = registry.reference("a:1");
    let pulls = (0..10).map(|_| node.store.pull(&reference, PullOptions::default()));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().id, image.id());
    }
    let blobs = registry.take_requests().iter().filter(|request| request.contains("/blobs/")).count();
    assert_eq!(blobs, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_directory_see_each_other() {
    if !is_root("two_stores_on_one_directory_see_each_other") {
        return;
    }
    let image = TestImage::small("x");
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
    let node = Node::new();
    let other = Store::open(node.dir.path()).unwrap();
    let (one, two) = (registry.reference("a:1"), registry.reference("a:2"));
    let (first, second) = futures_util::future::join(
        node.store.pull(&one, PullOptions::default()),
        other.pull(&two, PullOptions::default()),
    )
    .await;
    first.unwrap();
    second.unwrap();
    for store in [&node.store, &other] {
        let images = store.images().unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].repo_tags, [one.to_string(), two.to_string()]);
    }
    other.remove(&image.id().to_string()).unwrap();
    assert!(node.store.images().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_tells_every_layer_to_its_end() {
    if !is_root("progress_tells_every_layer_to_its_end") {
        return;
    }
    let image = TestImage::small(&"x".repeat(100_000));
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let options =
        PullOptions { progress: Some(Arc::new(move |step| log.lock().unwrap().push(step))), ..PullOptions::default() };
    let node = Node::new();
    node.store.pull(&registry.reference("a"), options).await.unwrap();
    let seen = seen.lock().unwrap();
    let (layer, blob) = &image.blobs[1];
    assert!(seen.iter().all(|step| step.layer == *layer && step.total == blob.len() as u64));
    assert_eq!(seen.first().unwrap().state, LayerState::Waiting);
    assert_eq!(seen.last().unwrap().state, LayerState::Complete);
    assert_eq!(seen.last().unwrap().done, blob.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_is_taken_up_where_it_broke() {
    if !is_root("a_cut_transfer_is_taken_up_where_it_broke") {
        return;
    }
    let image = TestImage::small("some text");
    let (served, layer) = (image.clone(), image.blobs[1].0.to_string());
    let tries = AtomicU64::new(0);
    let registry = FakeRegistry::start(move |request| {
        let mut reply = honest(&served, request);
        if request.path.ends_with(&layer) && tries.fetch_add(1, Ordering::Relaxed) < 2 {
            reply.claimed_length = Some(reply.body.len());
            reply.body.truncate(reply.body.len() / 2);
        }
        reply
    })
    .await;
    let node = Node::new();
    let pulled = node.store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap();
    assert_eq!(pulled.id, image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_and_bearer_logins_are_answered() {
    if !is_root("basic_and_bearer_logins_are_answered") {
        return;
    }
    let image = TestImage::small("x");
    for scheme in ["basic", "bearer"] {
        let served = image.clone();
        let registry = FakeRegistry::start(move |request| {
            let shown = request.headers.get("authorization").map(String::as_str);
            // me:secret
            let basic = Some("Basic bWU6c2VjcmV0");
            let host = &request.headers["host"];
            match (request.path.split('?').next(), scheme, shown) {
                (Some("/token"), _, shown) if shown == basic => {
                    assert!(request.path.contains("scope=repository%3Aa%3Apull"), "{}", request.path);
                    Reply::new(200, r#"{"token":"t0k3n","expires_in":300}"#)
                }
                (Some("/token"), ..) => Reply::new(401, ""),
                (_, "basic", shown) if shown == basic => honest(&served, request),
                (_, "bearer", Some("Bearer t0k3n")) => honest(&served, request),
                (_, "basic", _) => Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""),
                _ => Reply::new(401, "").header(
                    "www-authenticate",
                    format!("Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:a:pull\""),
                ),
            }
        })
        .await;
        let node = Node::new();
        let login = |password: &str| PullOptions {
            credentials: Some(Credentials::Basic { username: "me".into(), password: password.into() }),
            ..PullOptions::default()
        };
        let reference = registry.reference("a");
        let anonymous = node.store.pull(&reference, PullOptions::default()).await.unwrap_err().to_string();
        assert!(anonymous.contains("HTTP 401") && anonymous.contains("wants a login"), "{anonymous}");
        let wrong = node.store.pull(&reference, login("guess")).await.unwrap_err().to_string();
        assert!(wrong.contains("HTTP 401") && wrong.contains("credentials are wrong"), "{wrong}");
        let pulled = node.store.pull(&reference, login("secret")).await.unwrap();
        assert_eq!(pulled.id, image.id(), "{scheme}");
        registry.take_requests();
        // The token is kept: still one request.
        node.store.pull(&reference, login("secret")).await.unwrap();
        assert_eq!(registry.take_requests(), ["HEAD /v2/a/manifests/latest"]);
        // Who has no credentials gets no image on someone else's.
        node.store.pull(&reference, PullOptions::default()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_nothing() {
    let image = TestImage::small("x");
    let (served, layer) = (image.clone(), image.blobs[1].0.to_string());
    let (reached, wait) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let registry = FakeRegistry::start(move |request| {
        if request.path.ends_with(&layer) {
            reached.send(()).unwrap();
            // Not on the only worker of a machine with one processor.
            let _ = tokio::task::block_in_place(|| released.lock().unwrap().recv());
        }
        honest(&served, request)
    })
    .await;
    let node = Node::new();
    let before = node.state();
    let (store, reference) = (node.store.clone(), registry.reference("a"));
    let pull = tokio::spawn(async move { store.pull(&reference, PullOptions::default()).await });
    tokio::task::spawn_blocking(move || wait.recv()).await.unwrap().unwrap();
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    drop(release);
    // The unpacking thread ends by itself, and the session with it.
    while node.state() != before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_our_layout() {
    fixture::install_tls();
    let test = "skopeo_reads_our_layout";
    if !is_root(test) || !fixture::is_installed("skopeo", test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else {
        return;
    };
    let image = TestImage::small("for skopeo");
    registry.push("a/b", "1", &image).await;
    let entry = image.index_entry("linux", "amd64");
    registry.push_manifest("a/b", "multi", OCI_INDEX, &index(&[entry])).await;
    registry.push_manifest("a/b", "again", OCI_MANIFEST, &image.manifest).await;
    let node = Node::new();
    for tag in ["1", "multi"] {
        let reference = registry.reference(&format!("a/b:{tag}"));
        node.store.pull(&reference, PullOptions::default()).await.unwrap();
        let copy = node.dir.path().join(format!("copy-{tag}"));
        let from = format!("oci:{}:{reference}", node.store.image_layout().display());
        let to = format!("dir:{}", copy.display());
        let output = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--preserve-digests", &from, &to])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read(copy.join("manifest.json")).unwrap(), image.manifest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_skopeo_copied_is_equal_and_is_taken_back() {
    fixture::install_tls();
    let test = "a_store_that_skopeo_copied_is_equal_and_is_taken_back";
    if !is_root(test) || !fixture::is_installed("skopeo", test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else {
        return;
    };
    let image = TestImage::small("for a copy");
    registry.push("a", "1", &image).await;
    let (node, other) = (Node::new(), Node::new());
    let reference = registry.reference("a:1");
    node.store.pull(&reference, PullOptions::default()).await.unwrap();
    let (layout, back) = (other.dir.path().join("copy"), other.dir.path().join("back.tar"));
    let copied = |from: String, to: String| {
        let output = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--preserve-digests", &from, &to])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let here = format!("oci:{}:{reference}", node.store.image_layout().display());
    copied(here, format!("oci:{}:{reference}", layout.display()));
    copied(format!("oci:{}:{reference}", layout.display()), format!("oci-archive:{}:{reference}", back.display()));
    let blobs = |layout: &std::path::Path| -> std::collections::BTreeMap<_, _> {
        let entries = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
    };
    assert_eq!(blobs(&layout), blobs(&node.store.image_layout()));
    let loaded = other.store.load(&back, None).await.unwrap().remove(0);
    assert_eq!((loaded.manifest_digest, loaded.id), (image.digest(), image.id()));
    assert_eq!(blobs(&other.store.image_layout()), blobs(&node.store.image_layout()));
}
