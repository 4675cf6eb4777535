//! `v1` Event: what happened to an object. Events are kept for an hour, and only so many of them (`controller/event`).

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, integer, text};
use crate::api::status::Cause;
use crate::api::table::age;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate,
    validate_update: |_, _| Vec::new(),
    columns: &[
        Column { name: "Last Seen", data_type: "string", priority: 0, cell: |o| age(last_seen(o)).into() },
        Column { name: "Type", data_type: "string", priority: 0, cell: |o| text(o, "/type").into() },
        Column { name: "Reason", data_type: "string", priority: 0, cell: |o| text(o, "/reason").into() },
        Column { name: "Object", data_type: "string", priority: 0, cell: object_cell },
        Column {
            name: "Subobject",
            data_type: "string",
            priority: 1,
            cell: |o| text(o, "/involvedObject/fieldPath").into(),
        },
        Column { name: "Source", data_type: "string", priority: 1, cell: source_cell },
        Column { name: "Message", data_type: "string", priority: 0, cell: |o| text(o, "/message").trim().into() },
        Column { name: "First Seen", data_type: "string", priority: 1, cell: |o| age(first_seen(o)).into() },
        Column { name: "Count", data_type: "integer", priority: 1, cell: |o| count(o).into() },
        Column { name: "Name", data_type: "string", priority: 1, cell: |o| text(o, "/metadata/name").into() },
    ],
};

/// The first of `pointers` that says something.
fn first_text<'a>(object: &'a Value, pointers: &[&str]) -> &'a str {
    pointers.iter().map(|pointer| text(object, pointer)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn first_seen(event: &Value) -> &str {
    first_text(event, &["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"])
}

/// When it happened last (RFC 3339).
pub fn last_seen(event: &Value) -> &str {
    match first_text(event, &["/series/lastObservedTime", "/lastTimestamp"]) {
        "" => first_seen(event),
        time => time,
    }
}

fn count(event: &Value) -> i64 {
    [integer(event, "/series/count"), integer(event, "/count"), 1].into_iter().find(|count| *count > 0).unwrap_or(1)
}

fn object_cell(event: &Value) -> Value {
    let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    format!("{}/{name}", kind.to_lowercase()).into()
}

fn source_cell(event: &Value) -> Value {
    let component = first_text(event, &["/source/component", "/reportingComponent"]);
    let host = first_text(event, &["/source/host", "/reportingInstance"]);
    let parts: Vec<&str> = [component, host].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ").into()
}

/// An event lies where its object does; that of an object without a namespace in `default`.
fn validate(event: &Value) -> Vec<Cause> {
    let involved = text(event, "/involvedObject/namespace");
    let own = text(event, "/metadata/namespace");
    if involved == own || involved.is_empty() && matches!(own, "default" | "kube-system") {
        return Vec::new();
    }
    let message = "does not match event.namespace";
    vec![Cause::invalid("involvedObject.namespace", format_args!("{involved:?}"), message)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_shown_with_its_object_and_count() {
        let event = json!({
            "metadata": {"name": "a.1", "namespace": "x"}, "type": "Warning", "reason": "BackOff", "message": " no ",
            "involvedObject": {"kind": "Pod", "namespace": "x", "name": "a"}, "count": 3,
            "source": {"component": "wharfd", "host": "n"}, "lastTimestamp": "2026-01-01T00:00:00Z",
        });
        let cells: Vec<Value> = KIND.columns[1..].iter().map(|column| (column.cell)(&event)).collect();
        let expected = json!(["Warning", "BackOff", "pod/a", "", "wharfd, n", "no", "<unknown>", 3, "a.1"]);
        assert_eq!(json!(cells), expected);
        assert_eq!(validate(&event), []);
    }

    #[test]
    fn an_event_lies_where_its_object_does() {
        let event = |own: &str, involved: &str| json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": involved}});
        assert_eq!(validate(&event("default", "")), []);
        assert_eq!(validate(&event("x", "y"))[0].field, "involvedObject.namespace");
        assert_eq!(validate(&event("x", "")).len(), 1);
    }
}
