//! CNI, the Container Network Interface: what its configurations say and what its plugins answer.
//!
//! | file | section of the specification, 1.1.0 |
//! |---|---|
//! | [`version`] | "Version considerations" |
//! | [`list`] | 1, network configuration format |
//! | [`plugin`] | 1, plugin configuration objects |
//! | [`result`] | 5, results of ADD |
//! | [`answer`] | 5, errors and the answer to VERSION |
//!
//! What is not understood is refused by its place in the text; fields that only plugins know pass through unchanged.

pub mod answer;
pub mod list;
pub mod plugin;
pub mod result;
#[doc(hidden)]
pub mod untrusted;
pub mod version;

pub use answer::{PluginFailure, VersionAnswer};
pub use list::{NetworkList, PluginSource};
pub use plugin::PluginConfig;
pub use result::AddResult;
pub use version::Version;

use serde_json::{Map, Value};

/// A network configuration larger than this is refused: real ones have a few kilobytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Why a configuration or an answer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CniError {
    /// No JSON at all.
    #[error("line {line}, column {column}: {reason}")]
    Syntax { line: usize, column: usize, reason: String },
    /// `key` is the place in the text, such as `plugins[1].type`; `wanted` says what is allowed there.
    #[error("{key}: {found} {wanted}")]
    Value { key: String, found: String, wanted: String },
    #[error("{key} is missing: {wanted}")]
    Missing { key: String, wanted: String },
}

pub type Result<T, E = CniError> = std::result::Result<T, E>;

/// The text of a JSON object.
fn parse_object(text: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(unexpected("the text", &other, "is no JSON object")),
        Err(error) => {
            let reason = error.to_string();
            // The place is told once.
            let reason = reason.split(" at line ").next().unwrap_or_default().to_string();
            Err(CniError::Syntax { line: error.line(), column: error.column(), reason })
        }
    }
}

fn unexpected(key: impl Into<String>, found: &Value, wanted: impl Into<String>) -> CniError {
    CniError::Value { key: key.into(), found: shown(found), wanted: wanted.into() }
}

fn missing(key: impl Into<String>, wanted: impl Into<String>) -> CniError {
    CniError::Missing { key: key.into(), wanted: wanted.into() }
}

/// A value as it is told in one line, cut where it is long.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 64;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// The text at `key` of `object`, which is found at `place`; `None` where there is no such key.
fn text<'a>(object: &'a Map<String, Value>, place: &str, key: &str) -> Result<Option<&'a str>> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(unexpected(format!("{place}{key}"), other, "is no text")),
    }
}

/// True or false. Until 0.4.0 the specification gave flags as texts, so these are read too.
fn flag(object: &Map<String, Value>, place: &str, key: &str) -> Result<bool> {
    match object.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(unexpected(format!("{place}{key}"), other, "is neither true nor false")),
    }
}

/// A list at `key`; `None` where there is no such key.
fn list<'a>(object: &'a Map<String, Value>, place: &str, key: &str) -> Result<Option<&'a [Value]>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(values)) => Ok(Some(values)),
        Some(other) => Err(unexpected(format!("{place}{key}"), other, "is no list")),
    }
}

/// An object at `key`; `None` where there is no such key.
fn object<'a>(parent: &'a Map<String, Value>, place: &str, key: &str) -> Result<Option<&'a Map<String, Value>>> {
    match parent.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(unexpected(format!("{place}{key}"), other, "is no object")),
    }
}
