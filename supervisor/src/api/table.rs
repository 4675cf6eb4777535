//! The `meta.k8s.io/v1` Table form of objects: what `kubectl get` and `wharf get` print.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::metadata_of;
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

/// A table of `objects`.
pub fn table(kind: &Kind, objects: &[Arc<Value>], version: u64, row_object: RowObject) -> Value {
    let columns: Vec<Value> = kind
        .columns
        .iter()
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({"name": c.name, "type": c.data_type, "format": format, "description": "", "priority": c.priority})
        })
        .collect();
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, row_object)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version.to_string()},
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(kind: &Kind, object: &Value, row_object: RowObject) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|column| (column.cell)(object)).collect();
    match row_object {
        RowObject::None => json!({"cells": cells}),
        RowObject::Metadata => json!({"cells": cells, "object": metadata_of(object)}),
        RowObject::Object => json!({"cells": cells, "object": object}),
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
