//! Registries that are down, refuse, lie or cut: one clear line each, and the store as it was before.

mod fixture;

use fixture::fake::{FakeRegistry, Reply, Request, honest};
use fixture::{Layer, Node, TestImage, chain, gzip, index, is_root};
use serde_json::json;
use wharf_images::{Digest, Limits, PullOptions, Store, StoreOptions};

/// What the registry makes of the layer's (or manifest's) honest reply.
type Spoil = fn(&TestImage, Reply) -> Reply;

async fn refusal(image: TestImage, spoil: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> String {
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| spoil(request, honest(&served, request))).await;
    let node = Node::new();
    // What is there already must survive.
    let before = node.state();
    let reference = registry.reference("team/app:v1");
    let error = node.store.pull(&reference, PullOptions::default()).await.expect_err("the pull went through");
    assert_eq!(node.state(), before);
    assert!(node.store.images().unwrap().is_empty());
    let line = chain(&*error);
    assert!(!line.contains('\n'), "{line}");
    assert!(line.contains(&reference.to_string()), "{line}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_status_and_remedy() {
    for (status, part) in [
        (401, "HTTP 401 unauthorized: it wants a login"),
        (403, "HTTP 403 unauthorized"),
        (404, "HTTP 404 not found: there is no such repository, tag or digest"),
        (429, "HTTP 429 too many requests"),
        (500, "HTTP 500 server error"),
        (302, "HTTP 302"),
        (204, "HTTP 204"),
    ] {
        let line = refusal(TestImage::small("x"), move |_, _| {
            Reply::new(status, r#"{"errors":[{"code":"X","message":"because"}]}"#)
        })
        .await;
        assert!(line.contains(part) && line.contains("manifests/v1"), "{line}");
        assert!(status == 204 || line.contains("because"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_named() {
    let registry = FakeRegistry::start(|_| Reply::new(200, "")).await;
    let reference = registry.reference("a");
    drop(registry);
    // Its port is free again once the task is gone.
    let node = Node::new();
    let before = node.state();
    let error = loop {
        let error = node.store.pull(&reference, PullOptions::default()).await.unwrap_err();
        if chain(&*error).contains("refused") {
            break error;
        }
    };
    let line = chain(&*error);
    assert!(line.contains("cannot connect; is the registry running"), "{line}");
    assert_eq!(node.state(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_layers_are_refused_with_their_digest() {
    if !is_root("broken_layers_are_refused_with_their_digest") {
        return;
    }
    let table: &[(&str, Spoil, &[&str])] = &[
        (
            "corrupt",
            |_, mut reply| {
                let middle = reply.body.len() / 2;
                reply.body[middle] ^= 1;
                reply
            },
            &["content has the digest"],
        ),
        (
            "other content of the same length",
            |_, mut reply| {
                reply.body.fill(b'x');
                reply
            },
            &["content has the digest"],
        ),
        (
            "cut",
            |_, mut reply| {
                reply.claimed_length = Some(reply.body.len());
                reply.body.truncate(0);
                reply
            },
            &["transfer was cut off"],
        ),
        (
            "short, and says so",
            |_, mut reply| {
                reply.body.truncate(40);
                reply
            },
            &["registry sends 40 bytes, expected"],
        ),
        (
            "long",
            |_, mut reply| {
                reply.body.push(0);
                reply
            },
            &["registry sends", "expected"],
        ),
        ("gone", |_, _| Reply::new(404, ""), &["HTTP 404"]),
        ("empty", |_, _| Reply::new(200, ""), &["registry sends 0 bytes"]),
    ];
    for (what, spoil, parts) in table {
        let image = TestImage::small("some text that gzip keeps");
        let layer = image.blobs[1].0.to_string();
        let (spoiled, wanted, spoil) = (image.clone(), layer.clone(), *spoil);
        let line = refusal(image, move |request, reply| match request.path.ends_with(&wanted) {
            true => spoil(&spoiled, reply),
            false => reply,
        })
        .await;
        assert!(line.contains(&layer), "{what}: {line}");
        for part in *parts {
            assert!(line.contains(part), "{what}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_lie_are_refused() {
    let tar = Layer::new().file("a", b"a").tar();
    let wrong = Digest::of(b"wrong");
    let lying = TestImage::with_diff_ids(&[(tar.clone(), gzip(&tar))], json!({}), vec![wrong]);
    let line = refusal(lying, |_, reply| reply).await;
    if is_root("documents_that_lie_are_refused") {
        assert!(line.contains(&format!("diff id {}", Digest::of(&tar))), "{line}");
        assert!(line.contains(&wrong.to_string()), "{line}");
    }

    let uneven = TestImage::with_diff_ids(&[(tar.clone(), gzip(&tar))], json!({}), vec![]);
    let line = refusal(uneven, |_, reply| reply).await;
    assert!(line.contains("0 diff ids for 1 layers"), "{line}");

    let manifest = |text: &'static str, part: &'static str| async move {
        let line = refusal(TestImage::small("x"), move |request, reply| match request.path.contains("/manifests/") {
            true => Reply::new(200, text),
            false => reply,
        })
        .await;
        assert!(line.contains(part), "{line}");
    };
    manifest("<html>", "no valid JSON").await;
    manifest("{}", "schema version 0").await;
    manifest(r#"{"schemaVersion":2}"#, "neither `layers` nor `manifests`").await;
    manifest(r#"{"schemaVersion":2,"manifests":[]}"#, "has no image for linux/").await;

    let line = refusal(TestImage::small("x"), |request, mut reply| {
        if request.path.contains("/manifests/") {
            reply.headers.clear();
            reply.headers.push(("docker-content-digest".into(), Digest::of(b"x").to_string()));
        }
        reply
    })
    .await;
    assert!(line.contains("content has the digest") && line.contains("expected"), "{line}");

    let config = TestImage::small("x");
    let id = config.id().to_string();
    let wanted = id.clone();
    let line = refusal(config, move |request, mut reply| {
        if request.path.ends_with(&wanted) {
            reply.body[0] ^= 1;
        }
        reply
    })
    .await;
    assert!(line.contains(&id) && line.contains("content has the digest"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_manifest_is_cut_short() {
    let line = refusal(TestImage::small("x"), |request, reply| match request.path.contains("/manifests/") {
        true => Reply::new(200, vec![b' '; 5 << 20]),
        false => reply,
    })
    .await;
    assert!(line.contains("is longer than 4194304 bytes"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_indexes_is_refused() {
    let inner = index(&[]);
    let outer = index(&[json!({"mediaType": fixture::OCI_INDEX, "digest": Digest::of(&inner), "size": inner.len(),
        "platform": {"os": "linux", "architecture": "amd64"}})]);
    let line = refusal(TestImage::small("x"), move |request, _| match request.path.ends_with("/v1") {
        true => Reply::new(200, outer.clone()),
        false => Reply::new(200, inner.clone()),
    })
    .await;
    if cfg!(target_arch = "x86_64") {
        assert!(line.contains("leads to another index"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_refused_at_the_limit() {
    if !is_root("a_bomb_is_refused_at_the_limit") {
        return;
    }
    let large = Layer::new().file("zeros", &vec![0; 8 << 20]).tar();
    let mut many = Layer::new();
    for number in 0..200 {
        many = many.file(&format!("f{number}"), b"");
    }
    let many = many.tar();
    for (tar, part) in [(large, "more than 4194304 bytes"), (many, "more than 100 members")] {
        let image = TestImage::new(&[(tar.clone(), gzip(&tar))], json!({}));
        let served = image.clone();
        let registry = FakeRegistry::start(move |request| honest(&served, request)).await;
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { layer_bytes: 4 << 20, layer_members: 100 };
        let options = StoreOptions { limits, ..StoreOptions::default() };
        let store = Store::open_with(dir.path(), options).unwrap();
        let error = store.pull(&registry.reference("a"), PullOptions::default()).await.unwrap_err();
        let line = chain(&*error);
        assert!(line.contains(part) && line.contains(&image.blobs[1].0.to_string()), "{line}");
        assert!(store.images().unwrap().is_empty());
    }
}
