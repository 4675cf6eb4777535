//! `v1` Event: what happened to an object. Events are kept for an hour, and only so many of them (`controller/event`).

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, integer, is_qualified_name, text};
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
    validate: causes,
    validate_update: |_, _| Vec::new(),
    columns: COLUMNS,
};

/// Of an event in either of its forms ([`super::regarding_event`]).
pub(super) const COLUMNS: &[Column] = &[
    Column { name: "Last Seen", data_type: "string", priority: 0, cell: |o| age(last_seen(o)).into() },
    Column { name: "Type", data_type: "string", priority: 0, cell: |o| text(o, "/type").into() },
    Column { name: "Reason", data_type: "string", priority: 0, cell: |o| text(o, "/reason").into() },
    Column { name: "Object", data_type: "string", priority: 0, cell: object_cell },
    Column { name: "Subobject", data_type: "string", priority: 1, cell: |o| involved(o, "fieldPath").into() },
    Column { name: "Source", data_type: "string", priority: 1, cell: source_cell },
    Column {
        name: "Message",
        data_type: "string",
        priority: 0,
        cell: |o| first_text(o, &["/message", "/note"]).trim().into(),
    },
    Column { name: "First Seen", data_type: "string", priority: 1, cell: |o| age(first_seen(o)).into() },
    Column { name: "Count", data_type: "integer", priority: 1, cell: |o| count(o).into() },
    Column { name: "Name", data_type: "string", priority: 1, cell: |o| text(o, "/metadata/name").into() },
];

/// Kubernetes' own bounds, in bytes.
const MAX_NAME_BYTES: usize = 128;
const MAX_MESSAGE_BYTES: usize = 1024;

/// The first of `pointers` that says something.
fn first_text<'a>(object: &'a Value, pointers: &[&str]) -> &'a str {
    pointers.iter().map(|pointer| text(object, pointer)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn first_seen(event: &Value) -> &str {
    first_text(event, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime", "/metadata/creationTimestamp"])
}

/// When it happened last (RFC 3339).
pub fn last_seen(event: &Value) -> &str {
    match first_text(event, &["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]) {
        "" => first_seen(event),
        time => time,
    }
}

fn count(event: &Value) -> i64 {
    let counts = ["/series/count", "/count", "/deprecatedCount"].map(|pointer| integer(event, pointer));
    counts.into_iter().find(|count| *count > 0).unwrap_or(1)
}

fn involved<'a>(event: &'a Value, field: &str) -> &'a str {
    first_text(event, &[&format!("/involvedObject/{field}"), &format!("/regarding/{field}")])
}

fn object_cell(event: &Value) -> Value {
    format!("{}/{}", involved(event, "kind").to_lowercase(), involved(event, "name")).into()
}

fn source_cell(event: &Value) -> Value {
    let component = ["/source/component", "/deprecatedSource/component", "/reportingComponent", "/reportingController"];
    let host = ["/source/host", "/deprecatedSource/host", "/reportingInstance"];
    let parts = [first_text(event, &component), first_text(event, &host)];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ").into()
}

/// An event lies where its object does, that of an object without a namespace in `default`; one that says when it
/// happened says also who reports it.
pub(super) fn causes(event: &Value) -> Vec<Cause> {
    let involved = text(event, "/involvedObject/namespace");
    let own = text(event, "/metadata/namespace");
    let is_timed = !text(event, "/eventTime").is_empty();
    let mut causes = Vec::new();
    let lies_right = match (involved, own) {
        ("", "default") => true,
        ("", "kube-system") => is_timed,
        // Who says when it happened may tell of any object.
        (involved, own) => !involved.is_empty() && (is_timed || involved == own),
    };
    if !lies_right {
        let message = "does not match event.namespace";
        causes.push(Cause::invalid("involvedObject.namespace", format_args!("{involved:?}"), message));
    }
    if !is_timed {
        return causes;
    }
    let (reporter, instance) = (text(event, "/reportingComponent"), text(event, "/reportingInstance"));
    let said = [
        ("reportingController", reporter, usize::MAX),
        ("reportingInstance", instance, MAX_NAME_BYTES),
        ("action", text(event, "/action"), MAX_NAME_BYTES),
        ("reason", text(event, "/reason"), MAX_NAME_BYTES),
    ];
    for (field, value, most) in said {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
        if value.len() > most {
            causes.push(Cause::invalid(field, "\"\"", &format!("can have at most {most} characters")));
        }
    }
    if !reporter.is_empty() && !is_qualified_name(reporter) {
        let message = "must be a qualified name: an optional DNS subdomain and /, then letters, digits, -, _ and .";
        causes.push(Cause::invalid("reportingController", format_args!("{reporter:?}"), message));
    }
    if text(event, "/message").len() > MAX_MESSAGE_BYTES {
        let message = format!("can have at most {MAX_MESSAGE_BYTES} characters");
        causes.push(Cause::invalid("message", "\"\"", &message));
    }
    causes
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
        assert_eq!(causes(&event), []);
        let other = super::super::regarding_event::KIND.of_stored(event);
        let cells: Vec<Value> = COLUMNS[1..].iter().map(|column| (column.cell)(&other)).collect();
        assert_eq!(json!(cells), expected);
    }

    #[test]
    fn an_event_lies_where_its_object_does() {
        let event = |own: &str, involved: &str| json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": involved}});
        assert_eq!(causes(&event("default", "")), []);
        assert_eq!(causes(&event("x", "y"))[0].field, "involvedObject.namespace");
        assert_eq!(causes(&event("x", "")).len(), 1);
        assert_eq!(causes(&event("kube-system", "")).len(), 1);
    }
}
