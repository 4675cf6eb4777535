//! Manifests, indexes and configurations, as a registry serves them.

use serde_json::json;
use wharf_images::{Digest, PullOptions};

use crate::check;
use crate::fixture::fake::{FakeRegistry, Reply};
use crate::fixture::{Node, chain};

/// Serves `manifest` for every tag and `config` for every blob, and gives the line that a pull is refused with.
async fn refusal(case: &str, manifest: Vec<u8>, config: Vec<u8>) -> String {
    let registry = FakeRegistry::start(move |request| match request.path.contains("/manifests/") {
        true => Reply::new(200, manifest.clone()),
        false => Reply::new(200, config.clone()),
    })
    .await;
    let node = Node::new();
    let before = node.state();
    let reference = registry.reference("team/app:v1");
    let error = node.store.pull(&reference, PullOptions::default()).await.expect_err(case);
    assert_eq!(node.state(), before, "{case}");
    let line = chain(&*error);
    check(case, &line, &[&format!("pull {reference}: ")]);
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_indexes_are_refused_by_digest() {
    let d = Digest::of(b"x").to_string();
    let good = json!({"digest": d, "size": 1});
    let manifest = |config: serde_json::Value, layers: serde_json::Value| {
        json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string()
    };
    let config = |field: &str, value: serde_json::Value| {
        let mut config = good.clone();
        config[field] = value;
        manifest(config, json!([]))
    };
    let index = |entry: serde_json::Value| json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let no_json = "is no valid JSON document of its kind: ";
    let table: Vec<(String, Vec<&str>)> = vec![
        (String::new(), vec![no_json, "expected an object"]),
        ("<html>".into(), vec![no_json, "expected an object"]),
        ("null".into(), vec![no_json, "expected an object"]),
        ("[2, null, [], null]".into(), vec![no_json, "expected an object"]),
        ("{\"schemaVersion\":2,".into(), vec![no_json, "EOF while parsing"]),
        ("{\"schemaVersion\":2}x".into(), vec![no_json, "trailing characters"]),
        ("{\"a\":".repeat(300), vec![no_json]),
        ("{}".into(), vec!["schema version 0 is not supported, expected 2"]),
        (
            json!({"schemaVersion": 1, "fsLayers": []}).to_string(),
            vec!["schema version 1 is not supported, expected 2"],
        ),
        (json!({"schemaVersion": "2"}).to_string(), vec![no_json, "invalid type: string \"2\", expected u64"]),
        (json!({"schemaVersion": -2}).to_string(), vec![no_json, "invalid value: integer `-2`, expected u64"]),
        (json!({"schemaVersion": 2}).to_string(), vec!["has neither `layers` nor `manifests`"]),
        (json!({"schemaVersion": 2, "layers": null}).to_string(), vec!["has neither `layers` nor `manifests`"]),
        (
            json!({"schemaVersion": 2, "layers": [], "manifests": [], "config": good}).to_string(),
            vec!["has `layers` and `manifests`, expected one of them"],
        ),
        ("{\"schemaVersion\":2,\"layers\":[],\"layers\":[]}".into(), vec![no_json, "duplicate field `layers`"]),
        (json!({"schemaVersion": 2, "layers": []}).to_string(), vec![no_json, "missing field `config`"]),
        (manifest(good.clone(), json!({})), vec![no_json, "invalid type: map, expected a sequence"]),
        (manifest(json!([]), json!([])), vec![no_json, "expected struct Descriptor"]),
        (config("digest", json!(null)), vec![no_json, "invalid type: null, expected a string"]),
        (config("digest", json!("sha256:../../x")), vec![no_json, "digest `sha256:../../x`: expected 64"]),
        (config("digest", json!("sha512:00")), vec![no_json, "algorithm `sha512` is not supported"]),
        (config("size", json!(-1)), vec![no_json, "invalid value: integer `-1`, expected u64"]),
        (config("size", json!("1")), vec![no_json, "invalid type: string \"1\", expected u64"]),
        (config("size", json!(1.5)), vec![no_json, "invalid type: floating point `1.5`, expected u64"]),
        (manifest(json!({"digest": d}), json!([])), vec![no_json, "missing field `size`"]),
        (manifest(good.clone(), json!(vec![&good; 501])), vec!["has 501 layers, at most 500 can be stacked"]),
        (index(json!({"size": 1})), vec![no_json, "missing field `digest`"]),
        (index(json!("x")), vec![no_json, "expected struct Descriptor"]),
        (index(json!({"digest": d, "size": 1, "platform": "linux"})), vec![no_json, "expected struct Platform"]),
        (
            index(json!({"digest": d, "size": 1, "platform": {"os": "plan9", "architecture": "mips"}})),
            vec!["has no image for linux/", "it has plan9/mips"],
        ),
        (json!({"schemaVersion": 2, "manifests": []}).to_string(), vec!["has no image for linux/", "it has nothing"]),
    ];
    for (text, parts) in table {
        let case: String = text.chars().take(100).collect();
        let digest = Digest::of(text.as_bytes()).to_string();
        let line = refusal(&case, text.into_bytes(), b"x".to_vec()).await;
        check(&case, &line, &parts);
        assert!(line.contains("has no image") || line.contains(&digest), "{case}: {line}");
    }
    let line = refusal("no text", b"{\"\xff\":1}".to_vec(), Vec::new()).await;
    check("no text", &line, &[no_json]);
    let line = refusal("endless", vec![b'{'; (4 << 20) + 1], Vec::new()).await;
    check("endless", &line, &["manifests/v1: is longer than 4194304 bytes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_refused_by_digest() {
    let d = Digest::of(b"x").to_string();
    let invalid = "cannot be read: ";
    for (text, parts) in [
        ("", [invalid, "expected an object"]),
        ("[]", [invalid, "expected an object"]),
        ("{\"rootfs\":", [invalid, "EOF while parsing"]),
        ("{\"rootfs\":[]}", [invalid, "invalid type: sequence, expected a map"]),
        ("{\"rootfs\":{\"diff_ids\":[\"x\"]}}", [invalid, "digest `x`: expected `algorithm:hex`"]),
        ("{\"os\":7}", [invalid, "invalid type: integer `7`, expected a string"]),
        ("{\"config\":{\"Env\":\"A=b\"}}", [invalid, "invalid type: string \"A=b\", expected a sequence"]),
        ("{\"config\":{\"User\":0}}", [invalid, "invalid type: integer `0`, expected a string"]),
        ("{\"config\":{\"Volumes\":[\"/a\"]}}", [invalid, "invalid type: sequence, expected a map"]),
        ("{\"os\":\"linux\",\"os\":\"x\"}", [invalid, "duplicate field `os`"]),
        ("{}", ["manifest sha256:", "config names 0 diff ids for 1 layers"]),
    ] {
        let digest = Digest::of(text.as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": {"digest": digest, "size": text.len()},
            "layers": [{"digest": d, "size": 1}]});
        let line = refusal(text, manifest.to_string().into_bytes(), text.into()).await;
        check(text, &line, &parts);
        assert!(line.contains("diff ids") || line.contains(&digest.to_string()), "{text}: {line}");
    }
    for (size, parts) in [(1, ["is longer than 1 bytes", "blobs/"]), (3, ["registry sends 2 bytes", "expected 3"])] {
        let digest = Digest::of(b"{}");
        let manifest = json!({"schemaVersion": 2, "config": {"digest": digest, "size": size}, "layers": []});
        let line = refusal("size", manifest.to_string().into_bytes(), b"{}".to_vec()).await;
        check("size", &line, &parts);
        check("size", &line, &[&digest.to_string()]);
    }
}
