//! What a client wants back: the object, its row in a table, or its metadata alone. Objects are written out of the store
//! as they are there: a list of hundreds is never copied.

use std::sync::Arc;

use http::header;
use http::request::Parts;
use serde::Serialize;
use serde_json::Value;

use super::kinds::Kind;
use super::query::Query;
use super::status::ApiError;
use super::table::{RowObject, Table};

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

/// One object in the form that was asked for.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Shown<'a> {
    Object(&'a Value),
    Table(Table<'a>),
    Metadata(PartialMetadata<'a>),
}

/// Objects in the form that was asked for.
#[derive(Serialize)]
#[serde(untagged)]
pub enum ShownList<'a> {
    Items(Items<'a>),
    Table(Table<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Items<'a> {
    kind: String,
    api_version: String,
    metadata: ListMetadata,
    items: Vec<Shown<'a>>,
}

/// `meta.k8s.io/v1` ListMeta.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    pub resource_version: String,
    /// The token for the next part, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#continue: Option<String>,
    /// How many more there are, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<usize>,
}

/// The metadata of an object as an object of its own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialMetadata<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: &'a Value,
}

impl<'a> PartialMetadata<'a> {
    pub fn of(object: &'a Value) -> Self {
        Self { kind: "PartialObjectMetadata", api_version: META_VERSION, metadata: &object["metadata"] }
    }
}

/// Of the forms that are not the object itself.
pub(super) const META_VERSION: &str = "meta.k8s.io/v1";

impl Form {
    /// One object.
    pub fn show<'a>(self, kind: &Kind, object: &'a Arc<Value>, version: u64) -> Shown<'a> {
        match self {
            Self::Object => Shown::Object(object),
            Self::Table(rows) => Shown::Table(Table::of(kind, std::slice::from_ref(object), at(version), rows)),
            Self::Metadata => Shown::Metadata(PartialMetadata::of(object)),
        }
    }

    /// A list of them; `continued` where there are more: a token for the next part and their number.
    pub fn list<'a>(
        self,
        kind: &Kind,
        objects: &'a [Arc<Value>],
        version: u64,
        continued: Option<(String, Option<usize>)>,
    ) -> ShownList<'a> {
        let mut metadata = at(version);
        if let Some((token, remaining)) = continued {
            metadata.r#continue = Some(token);
            metadata.remaining_item_count = remaining;
        }
        let items = match self {
            Self::Table(rows) => return ShownList::Table(Table::of(kind, objects, metadata, rows)),
            Self::Object => Items {
                kind: format!("{}List", kind.kind),
                api_version: kind.api_version(),
                metadata,
                items: objects.iter().map(|object| Shown::Object(object)).collect(),
            },
            Self::Metadata => Items {
                kind: "PartialObjectMetadataList".into(),
                api_version: META_VERSION.into(),
                metadata,
                items: objects.iter().map(|object| Shown::Metadata(PartialMetadata::of(object))).collect(),
            },
        };
        ShownList::Items(items)
    }
}

fn at(version: u64) -> ListMetadata {
    ListMetadata { resource_version: version.to_string(), ..ListMetadata::default() }
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
