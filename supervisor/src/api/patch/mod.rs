//! Patches: changes to an object in one of the forms that clients send.

mod strategic;

use std::collections::{HashMap, HashSet};

use json_patch::PatchOperation;
use json_patch::jsonptr::resolve::Resolve;
use serde_json::Value;
use wharf_specs::schema::Shape;

use super::body::MAX_BODY_BYTES;
use super::kinds::{Kind, text};
use super::status::ApiError;

/// Media types of patches, except that of server-side apply.
pub const MEDIA_TYPES: &str = "application/json-patch+json, application/merge-patch+json, \
                               application/strategic-merge-patch+json, application/apply-patch+yaml";
/// Operations that one JSON patch may have; Kubernetes' own limit.
const MAX_OPERATIONS: usize = 10_000;
/// Deepest place that an operation names, and deepest value that it takes from elsewhere.
const MAX_DEPTH: usize = 128;

pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// A merge patch that merges lists by key.
    Strategic(Value),
    /// The whole object.
    Replace(Value),
}

impl Patch {
    /// Reads a patch of that media type; `None` for a type that is none of ours.
    pub fn parse(media_type: &str, body: &[u8]) -> Option<Result<Self, ApiError>> {
        let bad = |error: serde_json::Error| ApiError::BadRequest(format!("patch: {error}"));
        let object = || match serde_json::from_slice::<Value>(body) {
            Ok(patch) if patch.is_object() => Ok(patch),
            Ok(_) => Err(ApiError::BadRequest("patch: must be an object".into())),
            Err(error) => Err(bad(error)),
        };
        Some(match media_type {
            "application/json-patch+json" => match serde_json::from_slice::<json_patch::Patch>(body) {
                Ok(patch) if patch.0.len() > MAX_OPERATIONS => {
                    Err(ApiError::BadRequest(format!("patch: more than {MAX_OPERATIONS} operations")))
                }
                parsed => parsed.map(Self::Json).map_err(bad),
            },
            "application/merge-patch+json" => object().map(Self::Merge),
            "application/strategic-merge-patch+json" => object().map(Self::Strategic),
            _ => return None,
        })
    }

    /// `object`, of that kind, with the patch applied.
    pub fn apply(&self, kind: &str, api_version: &str, mut object: Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(patch) => {
                let mut copied = 0;
                for operation in &patch.0 {
                    bound_growth(&object, operation, &mut copied)?;
                    if tests_for_absence(&object, operation) {
                        continue;
                    }
                    json_patch::patch(&mut object, std::slice::from_ref(operation)).map_err(|error| {
                        let cause = super::status::Cause::invalid("patch", operation, &error.to_string());
                        let name = text(&object, "/metadata/name").into();
                        ApiError::Invalid { kind: kind.into(), name, causes: vec![cause] }
                    })?;
                }
            }
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => {
                let shape = Shape::of_kind(api_version, kind);
                object = strategic::apply(shape, &object, patch)
                    .map_err(|error| ApiError::BadRequest(format!("patch: {error}")))?;
            }
            Self::Replace(new) => return Ok(new.clone()),
        }
        Ok(object)
    }

    /// As [`Patch::apply`], to an object of `kind`.
    pub fn apply_to(&self, kind: &Kind, object: Value) -> Result<Value, ApiError> {
        self.apply(kind.kind, &kind.api_version(), object)
    }
}

/// Whether a test for null is met by a field that is not there. RFC 6902 has no such test; Kubernetes does, and
/// controllers ask by it that nobody else has set a field meanwhile.
fn tests_for_absence(object: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let parent = test.path.parent().and_then(|parent| object.resolve(parent).ok());
    test.value.is_null() && parent.is_some_and(Value::is_object) && object.resolve(&test.path).is_err()
}

/// Copies within an object can make it grow without end, and moves can make it deep: what they take is bounded.
fn bound_growth(object: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), ApiError> {
    let limit = MAX_BODY_BYTES;
    let from = match operation {
        PatchOperation::Copy(copy) => &copy.from,
        PatchOperation::Move(moved) => &moved.from,
        _ => return check_path(operation.path().tokens().count()),
    };
    check_path(operation.path().tokens().count())?;
    let Ok(source) = object.resolve(from) else { return Ok(()) };
    check_path(depth(source))?;
    if matches!(operation, PatchOperation::Copy(_)) {
        *copied += source.to_string().len();
        if *copied > limit {
            return Err(ApiError::TooLarge { limit });
        }
    }
    Ok(())
}

fn check_path(depth: usize) -> Result<(), ApiError> {
    match depth > MAX_DEPTH {
        true => Err(ApiError::BadRequest(format!("patch: nested deeper than {MAX_DEPTH}"))),
        false => Ok(()),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Two orders made one: `wanted` as it is; what only `current` has stays before what it stood before there, and what is
/// new comes after it.
pub fn interleave(current: &[String], wanted: &[String]) -> Vec<String> {
    let places: HashMap<&String, usize> = current.iter().enumerate().rev().map(|(index, name)| (name, index)).collect();
    let named: HashSet<&String> = wanted.iter().collect();
    let mut kept = current.iter().enumerate().filter(|(_, name)| !named.contains(name)).peekable();
    // For each of `wanted`, where it or the first after it that was there already stood.
    let mut next_places: Vec<usize> = wanted
        .iter()
        .rev()
        .scan(current.len(), |next, name| {
            *next = places.get(name).copied().unwrap_or(*next);
            Some(*next)
        })
        .collect();
    next_places.reverse();
    let mut merged = Vec::with_capacity(current.len() + wanted.len());
    for (name, next_place) in wanted.iter().zip(next_places) {
        while let Some((_, earlier)) = kept.next_if(|(index, _)| *index < next_place) {
            merged.push(earlier.clone());
        }
        merged.push(name.clone());
    }
    merged.extend(kept.map(|(_, name)| name.clone()));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_interleaved() {
        for (current, wanted, merged) in [
            ("abc", "", "abc"),
            ("", "ab", "ab"),
            ("abc", "cb", "acb"),
            ("abc", "xb", "axbc"),
            ("ab", "bx", "abx"),
            ("a", "x", "ax"),
        ] {
            let letters = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
            assert_eq!(interleave(&letters(current), &letters(wanted)).concat(), merged, "{current} {wanted}");
        }
    }

    #[test]
    fn a_wrong_patch_is_refused() {
        let code = |media_type, body: &str| match Patch::parse(media_type, body.as_bytes()) {
            None => 415,
            Some(Err(error)) => error.code().as_u16(),
            Some(Ok(patch)) => match patch.apply("Pod", "v1", serde_json::json!({"a": [1]})) {
                Err(error) => error.code().as_u16(),
                Ok(_) => 200,
            },
        };
        let json = "application/json-patch+json";
        for (media_type, body, expected) in [
            (json, r#"[{"op": "add", "path": "/b", "value": 1}]"#, 200),
            (json, r#"{"op": "add"}"#, 400),
            (json, r#"[{"op": "invent", "path": "/b"}]"#, 400),
            (json, r#"[{"op": "remove", "path": "/none"}]"#, 422),
            (json, r#"[{"op": "test", "path": "/a", "value": 2}]"#, 422),
            (json, r#"[{"op": "test", "path": "/a", "value": null}]"#, 422),
            (json, r#"[{"op": "test", "path": "/b", "value": null}, {"op": "add", "path": "/b", "value": 1}]"#, 200),
            (json, r#"[{"op": "test", "path": "/b", "value": 1}]"#, 422),
            (json, r#"[{"op": "test", "path": "/b/c", "value": null}]"#, 422),
            (json, r#"[{"op": "test", "path": "/a/7", "value": null}]"#, 422),
            ("application/merge-patch+json", r#"{"a": null}"#, 200),
            ("application/merge-patch+json", "[]", 400),
            ("application/merge-patch+json", "{", 400),
            ("application/strategic-merge-patch+json", r#"{"spec": {"containers": [{}]}}"#, 400),
            ("application/strategic-merge-patch+json", "7", 400),
            ("application/json", "{}", 415),
            ("", "{}", 415),
        ] {
            assert_eq!(code(media_type, body), expected, "{media_type} {body}");
        }
        let doubling = r#"{"op": "copy", "from": "/a", "path": "/a/-"}"#;
        let bomb = format!("[{}]", vec![doubling; 60].join(","));
        assert_eq!(code(json, &bomb), 413);
    }
}
