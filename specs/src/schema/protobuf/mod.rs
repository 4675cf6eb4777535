//! Objects in Kubernetes' protobuf encoding (`application/vnd.kubernetes.protobuf`), turned into the JSON that says the
//! same: what its clients send that are made for one kind.
//!
//! | file | job |
//! |---|---|
//! | `wire.rs` | protobuf's wire format |
//! | `numbers.rs`, `field_numbers.txt` | which field has which number |
//!
//! The types of the fields are those of the schemas.

mod numbers;
mod wire;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Field, NODES, Node, Scalar, definition_name};
use numbers::{Numbered, message_of, numbers};
use wire::{Fields, WireValue};

/// What a body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Values that one object may have: some bytes of the body are enough for one, which takes far more room.
const MAX_VALUES: usize = 1 << 18;
/// How deep messages may nest; those of the kinds do half as much.
const MAX_DEPTH: usize = 64;
/// Unknown and repeated fields that are named at most.
const MAX_NAMED_FIELDS: usize = 32;
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// An object, and what was odd about it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded {
    pub object: Value,
    /// Fields with numbers that their message does not have: `spec.containers[0].<99>`.
    pub unknown: Vec<String>,
    /// Fields that stood there twice, though they are no lists; the last one counts.
    pub duplicates: Vec<String>,
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("does not begin with \"k8s\\0\"")]
    NoMagic,
    #[error("the envelope {0}")]
    Envelope(&'static str),
    #[error("{field} {found:?} is not supported")]
    Encoding { field: &'static str, found: String },
    #[error("no kind {kind:?} in apiVersion {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("{field}: {message}")]
    Field { field: String, message: &'static str },
}

/// Reads the envelope and the object in it.
pub fn decode(body: &[u8]) -> Result<Decoded, ProtobufError> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?)?;
    let Envelope { api_version, kind, raw } = envelope;
    let definition = match kind {
        // Every group has them.
        "DeleteOptions" => DELETE_OPTIONS.to_owned(),
        kind => definition_name(api_version, kind),
    };
    let Some(Node::Struct(fields)) = NODES.get(&definition) else {
        return Err(ProtobufError::UnknownKind { api_version: api_version.into(), kind: kind.into() });
    };
    let mut decoder = Decoder::default();
    let mut object = Map::from_iter([("apiVersion".into(), api_version.into()), ("kind".into(), kind.into())]);
    decoder
        .fields(message_of(&definition), fields, raw, &mut object, MAX_DEPTH)
        .map_err(|message| ProtobufError::Field { field: decoder.place(kind), message })?;
    Ok(Decoded { object: Value::Object(object), unknown: decoder.unknown, duplicates: decoder.duplicates })
}

/// `runtime.Unknown`: which kind the object is of, and its bytes.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Self::default();
        let mut outer = Fields::of(bytes);
        while let Some((number, value)) = outer.next().map_err(ProtobufError::Envelope)? {
            match (number, value) {
                (1, WireValue::Bytes(type_meta)) => envelope.read_type(type_meta).map_err(ProtobufError::Envelope)?,
                (2, WireValue::Bytes(raw)) => envelope.raw = raw,
                (3 | 4, value) => {
                    let field = if number == 3 { "contentEncoding" } else { "contentType" };
                    let found = text(value).map_err(ProtobufError::Envelope)?;
                    if !found.is_empty() && (number, found) != (4, "application/vnd.kubernetes.protobuf") {
                        return Err(ProtobufError::Encoding { field, found: found.into() });
                    }
                }
                _ => return Err(ProtobufError::Envelope("has a field that is not known")),
            }
        }
        Ok(envelope)
    }

    fn read_type(&mut self, type_meta: &'a [u8]) -> Result<(), &'static str> {
        let mut fields = Fields::of(type_meta);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.api_version = text(value)?,
                2 => self.kind = text(value)?,
                _ => return Err("has a field that is not known"),
            }
        }
        Ok(())
    }
}

/// The only message there is of another type than the one expected.
const WRONG_TYPE: &str = "has another type in its message";

#[derive(Default)]
struct Decoder {
    /// Where it is; where it stops, what is wrong.
    path: String,
    values: usize,
    unknown: Vec<String>,
    duplicates: Vec<String>,
}

impl Decoder {
    /// Where it is, as messages have it; `root` names the object as a whole.
    fn place(&self, root: &str) -> String {
        match self.path.strip_prefix('.') {
            Some(path) => path.into(),
            None => root.into(),
        }
    }

    /// Adds the fields of a message to `object`, whose definition has these `fields`.
    fn fields(
        &mut self,
        message: &str,
        fields: &'static BTreeMap<String, Field>,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), &'static str> {
        let depth = depth.checked_sub(1).ok_or("nests too deep")?;
        let numbers = numbers(message).ok_or("has no protobuf form")?;
        let mut reader = Fields::of(bytes);
        while let Some((number, value)) = reader.next()? {
            let length = self.path.len();
            let field = match numbers.get(&number) {
                Some(Numbered::Embedded { message }) => {
                    self.fields(message, fields, as_bytes(value)?, object, depth)?;
                    continue;
                }
                Some(Numbered::Field { name, keeps_empty }) => fields.get(*name).map(|f| (*name, *keeps_empty, f)),
                None => None,
            };
            let Some((name, keeps_empty, field)) = field else {
                if self.unknown.len() < MAX_NAMED_FIELDS {
                    self.path.push_str(&format!(".<{number}>"));
                    self.unknown.push(self.place(""));
                    self.path.truncate(length);
                }
                continue;
            };
            self.path.push('.');
            self.path.push_str(name);
            match resolved(&field.node) {
                Node::List(items) => self.item(items, value, object, name, depth)?,
                Node::Map(values) => self.entry(values, as_bytes(value)?, object, name, depth)?,
                node => {
                    let value = self.value(&field.node, node, value, depth)?;
                    if object.contains_key(name) && self.duplicates.len() < MAX_NAMED_FIELDS {
                        self.duplicates.push(self.place(""));
                    }
                    match value {
                        Value::Null => drop(object.remove(name)),
                        value if !keeps_empty && is_empty(&value) => drop(object.remove(name)),
                        value => drop(object.insert(name.into(), value)),
                    }
                }
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    /// Adds one item to the list `name`, or several numbers in one.
    fn item(
        &mut self,
        items: &'static Node,
        value: WireValue<'_>,
        object: &mut Map<String, Value>,
        name: &str,
        depth: usize,
    ) -> Result<(), &'static str> {
        let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(list) = list else { return Err(WRONG_TYPE) };
        let node = resolved(items);
        if let (Node::Scalar(Scalar::Integer | Scalar::Boolean), WireValue::Bytes(packed)) = (node, value) {
            let mut numbers = Fields::of(packed);
            while !numbers.is_empty() {
                list.push(self.value(items, node, WireValue::Varint(numbers.varint()?), depth)?);
            }
            return Ok(());
        }
        self.path.push_str(&format!("[{}]", list.len()));
        list.push(self.value(items, node, value, depth)?);
        Ok(())
    }

    /// Adds one entry to the map `name`: a message of key and value.
    fn entry(
        &mut self,
        values: &'static Node,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        name: &str,
        depth: usize,
    ) -> Result<(), &'static str> {
        let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(map) = map else { return Err(WRONG_TYPE) };
        let node = resolved(values);
        let (mut key, mut found) = ("", None);
        let mut reader = Fields::of(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => key = text(value)?,
                2 => found = Some(value),
                _ => return Err("has an entry with more than key and value"),
            }
        }
        self.path.push('.');
        self.path.push_str(key);
        let unset = match node {
            Node::Scalar(Scalar::Integer | Scalar::Boolean) => WireValue::Varint(0),
            _ => WireValue::Bytes(&[]),
        };
        let value = self.value(values, node, found.unwrap_or(unset), depth)?;
        map.insert(key.into(), value);
        Ok(())
    }

    /// A value of `node`, which is what `place` refers to.
    fn value(
        &mut self,
        place: &'static Node,
        node: &'static Node,
        value: WireValue<'_>,
        depth: usize,
    ) -> Result<Value, &'static str> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err("the object has too many values");
        }
        match node {
            Node::Scalar(scalar) => scalar_value(*scalar, value),
            Node::Struct(fields) => {
                let Node::Reference(definition) = place else { return Err("has no protobuf form") };
                let mut object = Map::new();
                self.fields(message_of(definition), fields, as_bytes(value)?, &mut object, depth)?;
                Ok(Value::Object(object))
            }
            // Lists that are values of a map stand in a message of their own.
            Node::List(items) => {
                let mut holder = Map::from_iter([("items".into(), Value::Array(Vec::new()))]);
                let mut reader = Fields::of(as_bytes(value)?);
                while let Some((number, value)) = reader.next()? {
                    match number {
                        1 => self.item(items, value, &mut holder, "items", depth)?,
                        _ => return Err("has a list with more than items"),
                    }
                }
                Ok(holder.remove("items").unwrap_or_default())
            }
            _ => Err("has no protobuf form"),
        }
    }
}

fn resolved(mut node: &'static Node) -> &'static Node {
    while let Node::Reference(name) = node {
        node = NODES.get(name).unwrap_or(&Node::Scalar(Scalar::Json));
    }
    node
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn as_bytes(value: WireValue<'_>) -> Result<&[u8], &'static str> {
    match value {
        WireValue::Bytes(bytes) => Ok(bytes),
        _ => Err(WRONG_TYPE),
    }
}

fn text(value: WireValue<'_>) -> Result<&str, &'static str> {
    std::str::from_utf8(as_bytes(value)?).map_err(|_| "is not UTF-8")
}

/// A scalar of JSON, which may be a message here. Null for a time that is not set.
fn scalar_value(scalar: Scalar, value: WireValue<'_>) -> Result<Value, &'static str> {
    let number = |value| match value {
        WireValue::Varint(number) => Ok(number.cast_signed()),
        _ => Err(WRONG_TYPE),
    };
    Ok(match scalar {
        Scalar::Text => text(value)?.into(),
        Scalar::Bytes => STANDARD.encode(as_bytes(value)?).into(),
        Scalar::Integer => number(value)?.into(),
        Scalar::Boolean => (number(value)? != 0).into(),
        Scalar::Time | Scalar::MicroTime => time(scalar, as_bytes(value)?)?,
        Scalar::Quantity => match members::<1>(value)?[0] {
            None | Some(WireValue::Bytes(b"")) => "0".into(),
            Some(quantity) => text(quantity)?.into(),
        },
        Scalar::IntOrString => {
            let [kind, integer, string] = members::<3>(value)?;
            match kind.map(number).transpose()?.unwrap_or(0) {
                0 => integer.map(number).transpose()?.unwrap_or(0).into(),
                1 => string.map(text).transpose()?.unwrap_or_default().into(),
                _ => return Err("is neither an integer nor a string"),
            }
        }
        Scalar::Json => match members::<1>(value)?[0] {
            None => Value::Object(Map::new()),
            Some(raw) => serde_json::from_slice(as_bytes(raw)?).map_err(|_| "does not hold JSON")?,
        },
    })
}

/// The first `N` fields of a small message by their numbers.
fn members<const N: usize>(value: WireValue<'_>) -> Result<[Option<WireValue<'_>>; N], &'static str> {
    let mut members = [None; N];
    let mut reader = Fields::of(as_bytes(value)?);
    while let Some((number, value)) = reader.next()? {
        let member = usize::try_from(number).ok().and_then(|number| members.get_mut(number - 1));
        *member.ok_or("has a field that is not known")? = Some(value);
    }
    Ok(members)
}

/// Seconds and nanoseconds since 1970 as text (RFC 3339).
fn time(scalar: Scalar, bytes: &[u8]) -> Result<Value, &'static str> {
    let number = |value: Option<WireValue<'_>>| match value {
        None => Ok(0),
        Some(WireValue::Varint(number)) => Ok(number.cast_signed()),
        Some(_) => Err(WRONG_TYPE),
    };
    let [seconds, nanoseconds] = members::<2>(WireValue::Bytes(bytes))?;
    let (seconds, nanoseconds) = (number(seconds)?, number(nanoseconds)?);
    if (seconds, nanoseconds) == (0, 0) {
        return Ok(Value::Null);
    }
    let nanoseconds = i32::try_from(nanoseconds).ok().filter(|nanoseconds| (0..1_000_000_000).contains(nanoseconds));
    let time = nanoseconds.and_then(|nanoseconds| Timestamp::new(seconds, nanoseconds).ok());
    let time = time.filter(|_| seconds >= FIRST_SECOND).ok_or("is not a time")?;
    let form = if scalar == Scalar::MicroTime { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(form).to_string().into())
}

/// The year 0: RFC 3339 has none before.
const FIRST_SECOND: i64 = -62_167_219_200;

#[cfg(test)]
mod tests;
