//! What clients send, as functions of bytes: what a fuzz target and the test here call. None of it may panic or take
//! long, whatever the bytes are. Not part of the interface.

use serde_json::{Value, json};

use super::apply::{self, Writer, record_update};
use super::body::read_json;
use super::kinds::{KINDS, pod};
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

/// An object: read, defaulted and held against each kind, and applied. True if it is a valid one of some kind.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(read) = read_json(bytes) else { return false };
    let writer = Writer { manager: "fuzz".into(), subresource: "" };
    if let Ok(applied) = apply::apply(&pod::KIND, &object(), &read.value, &writer, true) {
        // Applying again finds everything as it is wanted.
        let again = apply::apply(&pod::KIND, &applied, &read.value, &writer, true);
        assert_eq!(again.ok().as_ref(), Some(&applied));
    }
    let mut valid = false;
    for kind in KINDS {
        if let Ok(mut typed) = super::update::typed(kind, read.value.clone()) {
            (kind.set_defaults)(&mut typed);
            valid |= (kind.validate)(&typed).is_empty();
        }
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCHES: [&str; 3] = [
        r#"[{"op": "copy", "from": "/spec/containers/0", "path": "/spec/containers/-"}, {"op": "remove", "path": "/spec/volumes"}]"#,
        r#"{"spec": {"containers": [{"name": "c", "env": [{"name": "A", "$patch": "delete"}]}], "$setElementOrder/containers": [{"name": "d"}, {"name": "c"}]}}"#,
        r#"{"metadata": {"managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}}}}}}], "$deleteFromPrimitiveList/finalizers": ["a/b"]}}"#,
    ];

    fn every_slip(seed: &[u8], call: fn(&[u8]) -> bool) {
        for at in 0..seed.len() {
            call(&seed[..at]);
            for byte in *b"\"{}[]0-,:$\\\xff" {
                let mut slip = seed.to_vec();
                slip[at] = byte;
                call(&slip);
                slip.insert(at, byte);
                call(&slip);
            }
        }
    }

    #[test]
    fn no_patch_that_is_almost_right_breaks_anything() {
        for seed in PATCHES {
            assert!(patch(seed.as_bytes()), "{seed}");
            every_slip(seed.as_bytes(), patch);
        }
    }

    #[test]
    fn no_manifest_that_is_almost_right_breaks_anything() {
        let seed = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;
        assert!(manifest(seed.as_bytes()));
        every_slip(seed.as_bytes(), manifest);
        let map = br#"{"metadata":{"name":"a"},"data":{"k":"v"},"immutable":true}"#;
        assert!(manifest(map));
        every_slip(map, manifest);
    }
}
