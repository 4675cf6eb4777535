//! Pushing to Debian's docker-registry, through a network that breaks, and to a scripted registry.

mod fixture;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fixture::fake::{FakeRegistry, Reply, Request, honest};
use fixture::flaky::{Fault, FlakyProxy, Seen};
use fixture::{DebianRegistry, Layer, Node, OCI_INDEX, QUICK, TestImage, chain, gzip, index, is_root, noise, zstd};
use serde_json::{Value, json};
use wharf_images::{Credentials, Digest, Platforms, PullOptions, PushOptions, Reference, Transfers};

/// An image of a gzip, a zstd and a plain layer; the last has `length` bytes that do not compress.
fn image(length: usize) -> TestImage {
    let tar = |name: &str, data: &[u8]| Layer::new().dir("./", 0o755).file(name, data).tar();
    let (one, two, three) = (tar("one", b"1"), tar("two", b"2"), tar("three", &noise(3, length)));
    let layers = [(one.clone(), gzip(&one)), (two.clone(), zstd(&two)), (three.clone(), three)];
    TestImage::new(&layers, json!({"Cmd": ["/one"], "Env": ["A=b"]}))
}

/// Puts `image` into the node's store as `repository:1` of a registry that is gone by then.
async fn have(node: &Node, repository: &str, image: &TestImage) -> Reference {
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
    let reference = registry.reference(&format!("{repository}:1"));
    node.store.pull(&reference, PullOptions::default()).await.unwrap();
    reference
}

async fn push(node: &Node, name: &Reference, to: &Reference) -> Result<Digest, String> {
    let pushed = node.store.push(&name.to_string(), to, PushOptions::default()).await;
    pushed.map(|pushed| pushed.digest).map_err(|error| chain(&error))
}

async fn get(registry: &DebianRegistry, path: &str) -> Vec<u8> {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("http://{}/v2/{path}", registry.address));
    let answer = request.header("accept", format!("{OCI_INDEX}, {}", fixture::OCI_MANIFEST)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.bytes().await.unwrap().to_vec()
}

/// The registry has it, byte for byte.
async fn has(registry: &DebianRegistry, repository: &str, key: &str, image: &TestImage) {
    assert_eq!(get(registry, &format!("{repository}/manifests/{key}")).await, image.manifest);
    for (digest, blob) in &image.blobs {
        assert!(get(registry, &format!("{repository}/blobs/{digest}")).await == *blob, "{digest}");
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Silence that is meant is waited for, and shall be short; no other silence shall count.
fn watching_for(fault: &Fault) -> Transfers {
    match fault {
        Fault::StallRequest(_) => Transfers { silence: Duration::from_secs(2), ..QUICK },
        _ => QUICK,
    }
}

fn count(seen: &[Seen], method: &str, part: &str) -> usize {
    seen.iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_read_identically_by_skopeo_and_podman() {
    fixture::install_tls();
    let test = "what_is_pushed_is_read_identically_by_skopeo_and_podman";
    if !is_root(test) || !fixture::is_installed("skopeo", test) || !fixture::is_installed("podman", test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let (node, image) = (Node::new(), image(100_000));
    let name = have(&node, "app", &image).await;
    let to = registry.reference("team/app:v1");
    assert_eq!(push(&node, &name, &to).await.unwrap(), image.digest());
    has(&registry, "team/app", "v1", &image).await;

    let folder = tempfile::tempdir().unwrap();
    let (copy, back) = (folder.path().join("copy"), folder.path().join("back"));
    let docker = format!("docker://{to}");
    let skopeo = ["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests", &docker];
    run("skopeo", &[&skopeo[..], &[&format!("dir:{}", copy.display())]].concat());
    assert_eq!(std::fs::read(copy.join("manifest.json")).unwrap(), image.manifest);
    // The store, copied by skopeo, is the same image too.
    let store = format!("oci:{}:{name}", node.store.image_layout().display());
    run("skopeo", &["--insecure-policy", "copy", "--preserve-digests", &store, &format!("oci:{}:x", back.display())]);
    for (digest, blob) in &image.blobs {
        assert!(std::fs::read(copy.join(digest.hex())).unwrap() == *blob);
        assert!(std::fs::read(back.join("blobs/sha256").join(digest.hex())).unwrap() == *blob);
    }

    let (root, state) = (folder.path().join("root"), folder.path().join("state"));
    let podman = ["--root", root.to_str().unwrap(), "--runroot", state.to_str().unwrap(), "--storage-driver", "vfs"];
    run("podman", &[&podman[..], &["pull", "--quiet", "--tls-verify=false", &to.to_string()]].concat());
    let shown: Value =
        serde_json::from_str(&run("podman", &[&podman[..], &["inspect", &to.to_string()]].concat())).unwrap();
    assert_eq!(shown[0]["Id"], image.id().hex());
    assert_eq!(shown[0]["Digest"], image.digest().to_string());
    assert_eq!(shown[0]["RootFS"]["Layers"], json!(image.diff_ids));
    run("podman", &[&podman[..], &["rmi", "--all", "--force"]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pushed_by_digest_and_one_that_is_there_costs_one_head_request() {
    let test = "an_image_is_pushed_by_digest_and_one_that_is_there_costs_one_head_request";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let proxy = FlakyProxy::start(&registry.address, |_, _| Fault::None).await;
    let (node, image) = (Node::new(), image(1000));
    let name = have(&node, "app", &image).await;
    let to: Reference = format!("{}/app@{}", proxy.address, image.digest()).parse().unwrap();
    push(&node, &name, &to).await.unwrap();
    has(&registry, "app", &image.digest().to_string(), &image).await;
    proxy.take_seen();
    push(&node, &name, &to).await.unwrap();
    let seen = proxy.take_seen();
    assert_eq!((seen.len(), count(&seen, "HEAD", "/v2/app/manifests/sha256:")), (1, 1), "{seen:?}");
    let other: Reference = format!("{}/app:2@{}", proxy.address, Digest::of(b"")).parse().unwrap();
    let line = push(&node, &name, &other).await.unwrap_err();
    assert!(line.contains(&format!("has the digest {}, expected {}", image.digest(), Digest::of(b""))), "{line}");
    assert!(proxy.take_seen().is_empty());

    // What is pushed under its own name is known by its digest there, and then there is nothing to pull.
    let tag = proxy.reference("own/app:3");
    node.store.tag(&name.to_string(), &tag).unwrap();
    push(&node, &tag, &tag).await.unwrap();
    let known = node.store.resolve(&tag.to_string()).unwrap().unwrap().repo_digests;
    assert!(known.contains(&tag.with_digest(image.digest()).to_string()), "{known:?}");
    proxy.take_seen();
    node.store.pull(&tag, PullOptions::default()).await.unwrap();
    assert_eq!(proxy.take_seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_pushed_whole_or_in_part_as_asked() {
    fixture::install_tls();
    let test = "an_index_is_pushed_whole_or_in_part_as_asked";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let (amd64, arm64) = (TestImage::small("amd64"), TestImage::small("arm64"));
    registry.push("multi", "amd64", &amd64).await;
    registry.push("multi", "arm64", &arm64).await;
    let both = index(&[amd64.index_entry("linux", "amd64"), arm64.index_entry("linux", "arm64")]);
    registry.push_manifest("multi", "latest", OCI_INDEX, &both).await;
    let from = registry.reference("multi");
    let to = DebianRegistry::start(test).unwrap();
    let push = async |node: &Node, tag: &str, platforms: Platforms| {
        let options = PushOptions { platforms, ..PushOptions::default() };
        let pushed = node.store.push(&from.to_string(), &to.reference(&format!("copy:{tag}")), options).await;
        pushed.map(|pushed| (pushed.digest, pushed.is_part)).map_err(|error| chain(&error))
    };
    let one = |platform: &str| Platforms::One(platform.parse().unwrap());

    let part = Node::new();
    let platform = Some("linux/amd64".parse().unwrap());
    part.store.pull(&from, PullOptions { platform, ..PullOptions::default() }).await.unwrap();
    assert_eq!(push(&part, "part", Platforms::Present).await, Ok((amd64.digest(), true)));
    has(&to, "copy", "part", &amd64).await;
    assert_eq!(push(&part, "one", one("linux/amd64")).await, Ok((amd64.digest(), false)));
    let line = push(&part, "all", Platforms::All).await.unwrap_err();
    assert!(line.contains(&arm64.digest().to_string()) && line.contains("--all-platforms"), "{line}");
    let line = push(&part, "arm64", one("linux/arm64")).await.unwrap_err();
    assert!(line.contains(&arm64.digest().to_string()) && line.contains("is not here"), "{line}");
    let line = push(&part, "s390x", one("linux/s390x")).await.unwrap_err();
    assert!(line.contains("is not for linux/s390x, it is for linux/amd64, linux/arm64"), "{line}");

    // What is missing is fetched, and only that; then it can be pushed, also under another name.
    let all =
        PullOptions { platform: Some("linux/amd64".parse().unwrap()), all_platforms: true, ..PullOptions::default() };
    part.store.pull(&from, all.clone()).await.unwrap();
    let layer = part.store.image_layout().join("blobs/sha256").join(arm64.blobs[1].0.hex());
    assert!(layer.exists());
    let whole = Digest::of(&both);
    assert_eq!(push(&part, "all", Platforms::All).await, Ok((whole, false)));
    part.store.tag(&from.to_string(), &"wharf.test/multi:2".parse().unwrap()).unwrap();
    let options = PushOptions::default();
    let pushed = part.store.push("wharf.test/multi:2", &to.reference("copy:again"), options).await.unwrap();
    assert_eq!((pushed.digest, pushed.is_part), (whole, false));
    for tag in ["all", "again"] {
        assert_eq!(get(&to, &format!("copy/manifests/{tag}")).await, both);
    }
    has(&to, "copy", &arm64.digest().to_string(), &arm64).await;
    assert_eq!(push(&part, "arm64", one("linux/arm64")).await, Ok((arm64.digest(), false)));
    has(&to, "copy", "arm64", &arm64).await;
    // Removing another image leaves the other platforms here; removing the index takes them too.
    let other = have(&part, "other", &image(10)).await;
    part.store.remove(&other.to_string()).unwrap();
    assert!(layer.exists());
    part.store.remove(&amd64.id().to_string()).unwrap();
    assert!(!layer.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_from_another_repository_of_the_registry() {
    let test = "blobs_are_mounted_from_another_repository_of_the_registry";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let proxy = FlakyProxy::start(&registry.address, |_, _| Fault::None).await;
    let (node, image) = (Node::new(), image(200_000));
    let name = have(&node, "app", &image).await;
    // Known to be there by the name it was pushed under.
    let first = proxy.reference("first/app:1");
    node.store.tag(&name.to_string(), &first).unwrap();
    push(&node, &first, &first).await.unwrap();
    proxy.take_seen();
    push(&node, &first, &proxy.reference("second/app:1")).await.unwrap();
    has(&registry, "second/app", "1", &image).await;
    let seen = proxy.take_seen();
    assert_eq!(count(&seen, "POST", "from=first%2Fapp"), image.blobs.len(), "{seen:?}");
    assert_eq!((count(&seen, "PATCH", ""), count(&seen, "PUT", "/blobs/")), (0, 0), "{seen:?}");

    // A registry that says no is sent the blob.
    let deaf = FlakyProxy::start(&registry.address, |request, _| match request.contains("mount=") {
        true => Fault::Status(405, ""),
        false => Fault::None,
    })
    .await;
    let known = deaf.reference("first/app:1");
    node.store.tag(&name.to_string(), &known).unwrap();
    push(&node, &known, &deaf.reference("third/app:1")).await.unwrap();
    has(&registry, "third/app", "1", &image).await;
    assert!(count(&deaf.take_seen(), "PATCH", "third/app") > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_are_sent_in_pieces_and_small_ones_at_once() {
    let test = "large_blobs_are_sent_in_pieces_and_small_ones_at_once";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let proxy = FlakyProxy::start(&registry.address, |_, _| Fault::None).await;
    let node = Node::with(Transfers { piece: 100_000, ..QUICK });
    let image = image(250_000);
    let name = have(&node, "app", &image).await;
    push(&node, &name, &proxy.reference("app:1")).await.unwrap();
    has(&registry, "app", "1", &image).await;
    let seen = proxy.take_seen();
    let mut pieces: Vec<usize> = seen.iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.length).collect();
    pieces.sort_unstable();
    let whole = image.blobs[3].1.len();
    assert_eq!(pieces, [whole - 200_000, 100_000, 100_000]);
    assert_eq!(count(&seen, "PUT", "/blobs/uploads/"), image.blobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_gets_through_a_network_that_breaks() {
    let test = "a_push_gets_through_a_network_that_breaks";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    let image = image(300_000);
    let faults: [(&str, Fault); 9] = [
        ("PATCH", Fault::CutRequest(30_000)),
        ("PATCH", Fault::LoseAnswer),
        ("PATCH", Fault::StallRequest(10_000)),
        ("PATCH", Fault::Status(503, "")),
        ("PUT", Fault::LoseAnswer),
        ("PUT", Fault::Status(429, "retry-after: 0\r\n")),
        ("PUT", Fault::CutRequest(0)),
        ("POST", Fault::Reset(0)),
        ("HEAD", Fault::Status(500, "")),
    ];
    for (number, (method, fault)) in faults.into_iter().enumerate() {
        let hits = AtomicUsize::new(0);
        // The second request of this kind, and the fourth.
        let chosen = fault.clone();
        let proxy = FlakyProxy::start(&registry.address, move |request, _| {
            let is_hit = request.starts_with(method) && [1, 3].contains(&hits.fetch_add(1, Ordering::SeqCst));
            if is_hit { chosen.clone() } else { Fault::None }
        })
        .await;
        let node = Node::with(watching_for(&fault));
        let name = have(&node, "app", &image).await;
        let repository = format!("app-{number}");
        let pushed = push(&node, &name, &proxy.reference(&format!("{repository}:1"))).await;
        assert_eq!(pushed, Ok(image.digest()), "{method} {fault:?}");
        has(&registry, &repository, "1", &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_stays_broken_ends_a_push_with_its_fault() {
    let image = image(300_000);
    let test = "a_network_that_stays_broken_ends_a_push_with_its_fault";
    if !is_root(test) {
        return;
    }
    let Some(registry) = DebianRegistry::start(test) else { return };
    for (fault, says) in [
        (Fault::CutRequest(10_000), "transfer was cut off"),
        (Fault::StallRequest(10_000), "no answer in time"),
        (Fault::Status(500, ""), "HTTP 500 server error"),
        (Fault::Status(403, ""), "HTTP 403 unauthorized"),
    ] {
        let bounds = Transfers { retries: 1, ..watching_for(&fault) };
        let proxy = FlakyProxy::start(&registry.address, move |request, _| match request.starts_with("PATCH") {
            true => fault.clone(),
            false => Fault::None,
        })
        .await;
        let node = Node::with(bounds);
        let name = have(&node, "app", &image).await;
        let line = push(&node, &name, &proxy.reference("app:1")).await.unwrap_err();
        let object = format!("push {}/app:1: registry {}: blobs/{}", proxy.address, proxy.address, image.blobs[3].0);
        assert!(line.starts_with(&object) && line.contains(says), "{line}");
        // Nothing of it is held any more.
        node.store.idle().await;
        assert_eq!(std::fs::read_dir(node.dir.path().join("tmp")).unwrap().count(), 0);
    }
}

/// A registry that has nothing, and takes uploads as `answer` says.
async fn scripted(answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> FakeRegistry {
    FakeRegistry::start(move |request| {
        answer(request).unwrap_or_else(|| match (request.method.as_str(), request.path.as_str()) {
            ("HEAD", _) => Reply::new(404, ""),
            ("POST", _) => Reply::new(202, "").header("location", "/v2/app/blobs/uploads/one?state=x"),
            _ => Reply::new(201, ""),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_goes_on_where_the_registry_says() {
    if !is_root("an_upload_that_breaks_goes_on_where_the_registry_says") {
        return;
    }
    let image = image(200_000);
    let blob = image.blobs[3].1.clone();
    let received = std::sync::Arc::new(Mutex::new(Vec::new()));
    let (taken, patches) = (received.clone(), AtomicUsize::new(0));
    let total = blob.len();
    let registry = scripted(move |request| {
        let mut taken = taken.lock().unwrap();
        let here = |taken: &[u8]| format!("0-{}", taken.len() - 1);
        match request.method.as_str() {
            "PATCH" => {
                let range = format!("{}-{}", taken.len(), (taken.len() + request.body.len() - 1).min(total));
                assert_eq!(request.headers["content-range"], range);
                // Of the second piece, 1000 bytes arrive; of the third, the answer says so.
                match patches.fetch_add(1, Ordering::SeqCst) {
                    1 => {
                        taken.extend_from_slice(&request.body[..1000]);
                        return Some(Reply::new(500, ""));
                    }
                    2 => taken.extend_from_slice(&request.body[..2000]),
                    _ => taken.extend_from_slice(&request.body),
                }
                let next = format!("/v2/app/blobs/uploads/one?at={}", taken.len());
                Some(Reply::new(202, "").header("location", next).header("range", here(&taken)))
            }
            "GET" => Some(Reply::new(204, "").header("range", here(&taken))),
            _ => None,
        }
    })
    .await;
    let node = Node::new();
    let name = have(&node, "app", &image).await;
    push(&node, &name, &registry.reference("app:1")).await.unwrap();
    assert!(*received.lock().unwrap() == blob);
    let asked = registry.take_requests();
    assert!(asked.iter().any(|request| request.starts_with("PUT") && request.contains(&format!("at={total}&digest="))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_pieces_gets_the_blob_at_once_and_one_with_large_ones_those() {
    if !is_root("a_registry_without_pieces_gets_the_blob_at_once_and_one_with_large_ones_those") {
        return;
    }
    let image = image(200_000);
    let size = image.blobs[3].1.len();
    let registry = scripted(|request| (request.method == "PATCH").then(|| Reply::new(405, ""))).await;
    let node = Node::new();
    let name = have(&node, "app", &image).await;
    push(&node, &name, &registry.reference("app:1")).await.unwrap();
    let asked = registry.take_requests();
    let digest = image.blobs[3].0.to_string().replace(':', "%3A");
    assert!(asked.iter().any(|request| request.starts_with("PUT") && request.ends_with(&digest)), "{asked:?}");

    let pieces = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = pieces.clone();
    let registry = scripted(move |request| match request.method.as_str() {
        "POST" => Some(
            Reply::new(202, "").header("location", "/v2/app/blobs/uploads/one").header("oci-chunk-min-length", 150_000),
        ),
        "PATCH" => {
            seen.lock().unwrap().push(request.body.len());
            Some(Reply::new(202, "").header("location", "/v2/app/blobs/uploads/one"))
        }
        _ => None,
    })
    .await;
    push(&node, &name, &registry.reference("app:1")).await.unwrap();
    assert_eq!(*pieces.lock().unwrap(), [150_000, size - 150_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_pushing_is_asked_for() {
    if !is_root("a_token_for_pushing_is_asked_for") {
        return;
    }
    let image = TestImage::small("x");
    let registry = scripted(|request| {
        let host = &request.headers["host"];
        let shown = request.headers.get("authorization").map(String::as_str);
        match (request.path.split('?').next(), shown) {
            // me:secret
            (Some("/token"), Some("Basic bWU6c2VjcmV0")) => {
                assert!(request.path.contains("scope=repository%3Aapp%3Apull%2Cpush"), "{}", request.path);
                Some(Reply::new(200, r#"{"token":"t0k3n","expires_in":300}"#))
            }
            (Some("/token"), _) => Some(Reply::new(401, "")),
            (_, Some("Bearer t0k3n")) => None,
            _ => Some(Reply::new(401, "").header("www-authenticate", format!("Bearer realm=\"http://{host}/token\""))),
        }
    })
    .await;
    let node = Node::new();
    let name = have(&node, "app", &image).await.to_string();
    let to = registry.reference("app:1");
    let line = chain(&node.store.push(&name, &to, PushOptions::default()).await.unwrap_err());
    assert!(line.starts_with(&format!("push {to}: ")) && line.contains("wants a login"), "{line}");
    let login = |password: &str| PushOptions {
        credentials: Some(Credentials::Basic { username: "me".into(), password: password.into() }),
        ..PushOptions::default()
    };
    let line = chain(&node.store.push(&name, &to, login("guess")).await.unwrap_err());
    assert!(line.contains("credentials are wrong") && !line.contains("guess"), "{line}");
    node.store.push(&name, &to, login("secret")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pushed_is_named() {
    if !is_root("what_cannot_be_pushed_is_named") {
        return;
    }
    let image = image(1000);
    let node = Node::new();
    let name = have(&node, "app", &image).await;
    let config = image.id();
    for (case, answer, says) in [
        ("no location", Reply::new(202, ""), "blobs/uploads/: registry does not say where to send the blob".to_owned()),
        ("bad location", Reply::new(202, "").header("location", "ftp://x/"), "redirects from http to ftp".into()),
        ("refused", Reply::new(400, r#"{"errors":[{"message":"no"}]}"#), "HTTP 400 (registry says: no)".into()),
        ("denied", Reply::new(403, ""), "HTTP 403 unauthorized".into()),
    ] {
        let registry = scripted(move |request| (request.method == "POST").then(|| answer.clone())).await;
        let line = push(&node, &name, &registry.reference("app:1")).await.unwrap_err();
        assert!(line.contains(&says) && line.lines().count() == 1, "{case}: {line}");
    }
    let other = Digest::of(b"");
    let registry = scripted(move |request| {
        let is_manifest = request.method == "PUT" && request.path.contains("/manifests/");
        is_manifest.then(|| Reply::new(201, "").header("docker-content-digest", other))
    })
    .await;
    let line = push(&node, &name, &registry.reference("app:1")).await.unwrap_err();
    assert!(
        line.contains(&format!("manifests/1: content has the digest {other}, expected {}", image.digest())),
        "{line}"
    );
    let line = push(&node, &"nothing:1".parse().unwrap(), &registry.reference("app:1")).await.unwrap_err();
    assert!(line.ends_with("image `docker.io/library/nothing:1`: not in the store"), "{line}");

    let blob = |digest: &Digest| node.store.image_layout().join("blobs/sha256").join(digest.hex());
    std::fs::write(blob(&config), vec![b' '; image.blobs[0].1.len()]).unwrap();
    let line = push(&node, &name, &registry.reference("app:1")).await.unwrap_err();
    assert!(line.contains(&format!("blob {config} is damaged")), "{line}");
    std::fs::remove_file(blob(&image.blobs[2].0)).unwrap();
    let line = push(&node, &name, &registry.reference("app:1")).await.unwrap_err();
    assert!(line.contains(&format!("{} of it is not here", image.blobs[2].0)), "{line}");
}
