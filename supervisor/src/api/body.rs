//! What requests carry: media types, sizes, objects and their unknown fields.

use axum::body::Body;
use http::header;
use http::request::Parts;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use wharf_specs::schema::{Shape, protobuf, unknown_fields};

use super::kinds::Kind;
use super::query::Query;
use super::status::ApiError;

/// Largest request body, in bytes; Kubernetes' own limit.
pub(super) const MAX_BODY_BYTES: usize = 3 << 20;
pub(super) const PROTOBUF_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Media types of objects.
const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// Fields that a warning or refusal names at most.
const MAX_NAMED_FIELDS: usize = 32;

/// The media type of the body, without parameters.
pub(super) fn content_type(parts: &Parts) -> &str {
    let value = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

pub(super) async fn read_body(body: Body) -> Result<bytes::Bytes, ApiError> {
    axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| ApiError::TooLarge { limit: MAX_BODY_BYTES })
}

/// A value, and the fields of it that were read and yet are not in it: "duplicate field \"a\"".
pub(super) struct Read {
    pub(super) value: Value,
    pub(super) odd_fields: Vec<String>,
}

/// Reads the whole of a body as its media type says.
pub(super) async fn read_value(parts: &Parts, body: Body) -> Result<Read, ApiError> {
    parse_value(content_type(parts), &read_body(body).await?)
}

/// Reads JSON, YAML or Kubernetes' protobuf.
pub(super) fn parse_value(media_type: &str, bytes: &[u8]) -> Result<Read, ApiError> {
    match media_type {
        "" | "application/json" => {
            read_json(bytes).map_err(|error| ApiError::BadRequest(format!("body is not JSON: {error}")))
        }
        "application/yaml" => read_yaml(bytes),
        PROTOBUF_TYPE => read_protobuf(bytes),
        other => Err(ApiError::UnsupportedMediaType { found: other.into(), accepted: MEDIA_TYPES }),
    }
}

/// Kubernetes' protobuf, whose unknown fields have numbers only.
fn read_protobuf(bytes: &[u8]) -> Result<Read, ApiError> {
    let decoded = protobuf::decode(bytes)
        .map_err(|error| ApiError::BadRequest(format!("body is not Kubernetes' protobuf: {error}")))?;
    let odd_fields = decoded.duplicates.iter().map(|field| duplicate(field));
    let odd_fields = odd_fields.chain(decoded.unknown.iter().map(|field| unknown(field))).collect();
    Ok(Read { value: decoded.object, odd_fields })
}

fn duplicate(field: &str) -> String {
    format!("duplicate field \"{field}\"")
}

fn unknown(field: &str) -> String {
    format!("unknown field \"{field}\"")
}

/// YAML, which has no fields twice.
pub(super) fn read_yaml(bytes: &[u8]) -> Result<Read, ApiError> {
    match serde_yaml_ng::from_slice(bytes) {
        Ok(value) => Ok(Read { value, odd_fields: Vec::new() }),
        Err(error) => Err(ApiError::BadRequest(format!("body is not YAML: {error}"))),
    }
}

/// Reads JSON and notices fields that stand twice in an object; the last one counts.
pub(super) fn read_json(bytes: &[u8]) -> serde_json::Result<Read> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Noticing { path: String::new(), duplicates: &mut duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Read { value, odd_fields: duplicates.iter().map(|field| duplicate(field)).collect() })
}

struct Noticing<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Noticing<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noticing<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match access.next_element_seed(Noticing { path, duplicates: &mut *self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if fields.contains_key(&name) && self.duplicates.len() < MAX_NAMED_FIELDS {
                self.duplicates.push(path.clone());
            }
            let value = access.next_value_seed(Noticing { path, duplicates: &mut *self.duplicates })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

/// What becomes of fields that a kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(super) fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("fieldValidation") {
            Some("Ignore") => Ok(Self::Ignore),
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => {
                Err(ApiError::BadRequest(format!("fieldValidation: {other:?} is not Ignore, Warn or Strict")))
            }
        }
    }

    /// Warnings about fields of `object` that its kind does not have, or a refusal. `odd_fields` are those that were
    /// noticed when it was read.
    pub(super) fn check(
        self,
        kind: &str,
        api_version: &str,
        object: &Value,
        odd_fields: &[String],
    ) -> Result<Vec<String>, ApiError> {
        if self == Self::Ignore {
            return Ok(Vec::new());
        }
        let others = Shape::of_kind(api_version, kind).map(|shape| unknown_fields(shape, object)).unwrap_or_default();
        let others = others.iter().map(|field| unknown(field));
        let named: Vec<String> = odd_fields.iter().cloned().chain(others).take(MAX_NAMED_FIELDS).collect();
        match self {
            Self::Strict if !named.is_empty() => {
                Err(ApiError::BadRequest(format!("strict decoding error: {}", named.join(", "))))
            }
            _ => Ok(named),
        }
    }
}

/// Reads an object and names the fields that its kind does not have: refused or warned about, as the client asked.
pub(super) async fn read_object(
    parts: &Parts,
    body: Body,
    kind: &Kind,
    query: &Query,
) -> Result<(Value, Vec<String>), ApiError> {
    let validation = FieldValidation::of(query)?;
    let read = read_value(parts, body).await?;
    let warnings = validation.check(kind.kind, &kind.api_version(), &read.value, &read.odd_fields)?;
    Ok((read.value, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_stand_twice_are_noticed() {
        let read = read_json(br#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": 3.5}"#).unwrap();
        assert_eq!(read.value, json!({"a": 3.5, "b": [{"c": 2}]}));
        assert_eq!(read.odd_fields, ["duplicate field \"b[0].c\"", "duplicate field \"a\""]);
        assert!(read_json(b"{} x").is_err() && read_json(&[b'['; 1000]).is_err());
    }

    #[test]
    fn unknown_fields_are_ignored_named_or_refused() {
        let pod = json!({"spec": {"containers": [{"imagge": ""}]}, "x": {}});
        let check = |validation: FieldValidation| validation.check("Pod", "v1", &pod, &[duplicate("a.b")]);
        assert_eq!(check(FieldValidation::Ignore).unwrap(), Vec::<String>::new());
        let named = ["duplicate field \"a.b\"", "unknown field \"spec.containers[0].imagge\"", "unknown field \"x\""];
        assert_eq!(check(FieldValidation::Warn).unwrap(), named);
        let refusal = check(FieldValidation::Strict).unwrap_err().to_string();
        assert_eq!(refusal, format!("strict decoding error: {}", named.join(", ")));
    }
}
