//! What a client wants back: the object, its row in a table, or its metadata alone.

use std::sync::Arc;

use http::header;
use http::request::Parts;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::query::Query;
use super::status::ApiError;
use super::table::{self, RowObject};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Object,
    /// `meta.k8s.io/v1` Table.
    Table(RowObject),
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

/// The form that the request's `Accept` asks for.
pub fn form(parts: &Parts, query: &Query) -> Result<Form, ApiError> {
    for range in ranges(parts) {
        match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
            (None, _, _) => return Ok(Form::Object),
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => return Ok(Form::Table(RowObject::of(query)?)),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// Whether the client prefers `as` of that group and version to the plain answer.
pub fn prefers(parts: &Parts, name: &str, group: &str, version: &str) -> Result<bool, ApiError> {
    for range in ranges(parts) {
        match range.parameter("as") {
            None => return Ok(false),
            Some(wanted) => {
                if wanted == name && range.parameter("g") == Some(group) && range.parameter("v") == Some(version) {
                    return Ok(true);
                }
            }
        }
    }
    Err(not_acceptable())
}

fn not_acceptable() -> ApiError {
    ApiError::NotAcceptable { accepted: "application/json" }
}

struct Range<'a> {
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }
}

/// The media ranges of `Accept` that JSON fulfils, as they stand; everything, where there is no header.
fn ranges(parts: &Parts) -> Vec<Range<'_>> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return vec![Range { parameters: Vec::new() }];
    }
    let ranges = accept.split(',').filter_map(|range| {
        let mut pieces = range.split(';').map(str::trim);
        let fits = matches!(pieces.next()?, "application/json" | "application/*" | "*/*");
        let parameters = pieces.filter_map(|piece| piece.split_once('='));
        fits.then(|| Range { parameters: parameters.map(|(name, value)| (name.trim(), value.trim())).collect() })
    });
    ranges.collect()
}

impl Form {
    /// One object.
    pub fn show(self, kind: &Kind, object: &Arc<Value>, version: u64) -> Value {
        match self {
            Self::Object => Value::clone(object),
            Self::Table(rows) => table::table(kind, std::slice::from_ref(object), version, rows),
            Self::Metadata => metadata_of(object),
        }
    }

    /// A list of them; `continued` where there are more: a token for the next part and their number.
    pub fn list(
        self,
        kind: &Kind,
        objects: &[Arc<Value>],
        version: u64,
        continued: Option<(String, Option<usize>)>,
    ) -> Value {
        let mut list = match self {
            Self::Table(rows) => table::table(kind, objects, version, rows),
            Self::Object => json!({
                "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                "items": objects.iter().map(|object| &**object).collect::<Vec<_>>(),
            }),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "items": objects.iter().map(|object| metadata_of(object)).collect::<Vec<_>>(),
            }),
        };
        list["metadata"] = json!({"resourceVersion": version.to_string()});
        if let Some((token, remaining)) = continued {
            list["metadata"]["continue"] = token.into();
            if let Some(remaining) = remaining {
                list["metadata"]["remainingItemCount"] = remaining.into();
            }
        }
        list
    }
}

/// The metadata of an object as an object of its own.
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &str) -> Result<Form, u16> {
        let request = http::Request::builder().header("accept", accept).body(()).unwrap();
        form(&request.into_parts().0, &Query::default()).map_err(|error| error.code().as_u16())
    }

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        let table = Form::Table(RowObject::Metadata);
        for (accept, expected) in [
            ("", Ok(Form::Object)),
            ("*/*", Ok(Form::Object)),
            ("application/json", Ok(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Ok(table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Ok(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Ok(Form::Object)),
            ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Ok(Form::Metadata)),
            ("application/vnd.kubernetes.protobuf", Err(406)),
            ("text/html", Err(406)),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", Err(406)),
        ] {
            assert_eq!(accepted(accept), expected, "{accept}");
        }
    }
}
