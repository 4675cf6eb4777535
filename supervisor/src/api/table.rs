//! The `meta.k8s.io/v1` Table form of objects: what `kubectl get` and `wharf get` print.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::accept::{ListMetadata, META_VERSION, PartialMetadata, Shown};
use super::kinds::Kind;
use super::query::Query;
use super::status::ApiError;

/// What each row says of its object beside the cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowObject {
    None,
    Metadata,
    Object,
}

impl RowObject {
    pub fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("includeObject") {
            Some("None") => Ok(Self::None),
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("Object") => Ok(Self::Object),
            Some(other) => {
                Err(ApiError::BadRequest(format!("includeObject: {other:?} is not None, Metadata or Object")))
            }
        }
    }
}

/// The `meta.k8s.io/v1` Table of some objects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: ListMetadata,
    column_definitions: Vec<ColumnDefinition>,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct ColumnDefinition {
    name: &'static str,
    r#type: &'static str,
    format: &'static str,
    description: &'static str,
    priority: u8,
}

#[derive(Serialize)]
struct Row<'a> {
    cells: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Shown<'a>>,
}

impl<'a> Table<'a> {
    pub fn of(kind: &Kind, objects: &'a [Arc<Value>], metadata: ListMetadata, row_object: RowObject) -> Self {
        let columns = kind.columns.iter().map(|column| ColumnDefinition {
            name: column.name,
            r#type: column.data_type,
            format: if column.name == "Name" { "name" } else { "" },
            description: "",
            priority: column.priority,
        });
        let rows = objects.iter().map(|object| Row {
            cells: kind.columns.iter().map(|column| (column.cell)(object)).collect(),
            object: match row_object {
                RowObject::None => None,
                RowObject::Metadata => Some(Shown::Metadata(PartialMetadata::of(object))),
                RowObject::Object => Some(Shown::Object(object)),
            },
        });
        Self {
            kind: "Table",
            api_version: META_VERSION,
            metadata,
            column_definitions: columns.collect(),
            rows: rows.collect(),
        }
    }
}

/// How long ago an RFC 3339 time was, in kubectl's short form.
pub fn age(timestamp: &str) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => short_duration(Timestamp::now().as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// Seconds in kubectl's short form: `5s`, `2m10s`, `3h`, `4d`.
pub fn short_duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        172_800..63_072_000 => format!("{days}d"),
        _ => format!("{}y{}d", days / 365, days % 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, expected) in
            [(-3, "0s"), (5, "5s"), (119, "119s"), (130, "2m10s"), (600, "10m"), (11_000, "3h3m"), (172_800, "2d")]
        {
            assert_eq!(short_duration(seconds), expected);
        }
    }
}
