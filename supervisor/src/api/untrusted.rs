//! What clients send, as functions of bytes: what a fuzz target and the test here call. None of it may panic or take
//! long, whatever the bytes are. Not part of the interface.

use serde_json::{Value, json};

use super::apply::{self, Writer, record_update};
use super::body::{PROTOBUF_TYPE, parse_value, read_json, read_yaml};
use super::kinds::{pod, served};
use super::patch::Patch;

/// A pod with something of everything that patches merge.
fn object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"x": "1"}, "finalizers": ["a/b"]},
        "spec": {
            "containers": [{"name": "c", "image": "i:1", "command": ["x"], "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "1"}]}, {"name": "d", "image": "i:1"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    })
}

/// A patch, of each kind. True if one of them was taken and changed something.
pub fn patch(bytes: &[u8]) -> bool {
    let mut changed = false;
    for media_type in
        ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"]
    {
        let Some(Ok(patch)) = Patch::parse(media_type, bytes) else { continue };
        if let Ok(mut patched) = patch.apply("Pod", "v1", object()) {
            changed |= patched != object();
            let writer = Writer { manager: "fuzz".into(), subresource: "" };
            if patched["metadata"].is_object() {
                record_update("v1", "Pod", &object(), &mut patched, &writer);
            }
        }
    }
    changed
}

/// What a client applies. True if it could be; applying it again then finds everything as it is wanted.
pub fn apply(bytes: &[u8]) -> bool {
    let Ok(read) = read_yaml(bytes) else { return false };
    let writer = Writer { manager: "fuzz".into(), subresource: "" };
    let Ok(applied) = apply::apply(&pod::KIND, &object(), &read.value, &writer, true) else { return false };
    let again = apply::apply(&pod::KIND, &applied, &read.value, &writer, true);
    assert_eq!(again.ok().as_ref(), Some(&applied));
    true
}

/// A manifest's documents, and a body as JSON. True if one of them is a valid object of some kind.
pub fn manifest(bytes: &[u8]) -> bool {
    let manifests = std::str::from_utf8(bytes).ok().and_then(|text| wharf_specs::manifest::parse(text).ok());
    let mut objects: Vec<Value> = manifests.into_iter().flatten().map(|manifest| manifest.object).collect();
    objects.extend(read_json(bytes).ok().map(|read| read.value));
    objects.iter().any(is_valid)
}

/// A body in Kubernetes' protobuf. True if it is a valid object of some kind.
pub fn protobuf(bytes: &[u8]) -> bool {
    parse_value(PROTOBUF_TYPE, bytes).is_ok_and(|read| is_valid(&read.value))
}

/// Held against each kind with its defaults.
fn is_valid(object: &Value) -> bool {
    let mut valid = false;
    for kind in served() {
        if let Ok(mut typed) = super::update::typed(kind, object.clone()) {
            (kind.set_defaults)(&mut typed);
            valid |= (kind.validate)(&typed).is_empty();
        }
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each prefix of the seed, and the seed with each byte replaced or preceded by one that matters to its form.
    fn every_slip(seed: &[u8], slips: &[u8], call: fn(&[u8]) -> bool) {
        for at in 0..seed.len() {
            call(&seed[..at]);
            for byte in slips {
                let mut slip = seed.to_vec();
                slip[at] = *byte;
                call(&slip);
                slip.insert(at, *byte);
                call(&slip);
            }
        }
    }

    const JSON: &[u8] = b"\"{}[]0-,:$\\\xff";

    #[test]
    fn no_patch_that_is_almost_right_breaks_anything() {
        for seed in [
            &include_bytes!("../../../fuzz/seeds/patch/json.json")[..],
            include_bytes!("../../../fuzz/seeds/patch/strategic.json"),
            include_bytes!("../../../fuzz/seeds/patch/managers.json"),
        ] {
            assert!(patch(seed), "{}", String::from_utf8_lossy(seed));
            every_slip(seed, JSON, patch);
        }
    }

    #[test]
    fn nothing_applied_that_is_almost_right_breaks_anything() {
        let seed = include_bytes!("../../../fuzz/seeds/apply/pod.yaml");
        assert!(apply(seed));
        every_slip(seed, b"\"{}[]-,: \n&*\xff", apply);
    }

    #[test]
    fn no_manifest_that_is_almost_right_breaks_anything() {
        for seed in [
            &include_bytes!("../../../fuzz/seeds/manifest/pod.json")[..],
            include_bytes!("../../../fuzz/seeds/manifest/map.yaml"),
            include_bytes!("../../../fuzz/seeds/manifest/volumes.yaml"),
            include_bytes!("../../../fuzz/seeds/manifest/job.yaml"),
            include_bytes!("../../../fuzz/seeds/manifest/placement.json"),
        ] {
            assert!(manifest(seed), "{}", String::from_utf8_lossy(seed));
            every_slip(seed, JSON, manifest);
        }
    }

    #[test]
    fn no_protobuf_that_is_almost_right_breaks_anything() {
        for seed in [
            &include_bytes!("../../../fuzz/seeds/protobuf/deployment")[..],
            include_bytes!("../../../fuzz/seeds/protobuf/secret"),
        ] {
            assert!(protobuf(seed));
            every_slip(seed, &[0, 1, 8, 0x0a, 0x12, 0x7f, 0x80, 0xff], protobuf);
        }
    }
}
