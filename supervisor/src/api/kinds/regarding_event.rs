//! `events.k8s.io/v1` Event: the same objects as `v1` Events, and stricter rules for who writes them.

use serde_json::{Value, json};

use super::{ALL_VERBS, Kind, event, integer, is_empty, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |event| set_default(event, "involvedObject", json!({})),
    validate: event::causes,
    validate_update,
    columns: event::COLUMNS,
};

/// What its fields are called in a `v1` Event.
pub(super) const STORED_NAMES: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

/// All but the series says what happened, once for all.
const IMMUTABLE: [&str; 13] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

/// What is wrong with a new event, beyond what is wrong with any.
pub(super) fn new_causes(event: &Value) -> Vec<Cause> {
    let mut causes = series_causes(event);
    if text(event, "/eventTime").is_empty() {
        causes.push(Cause::required("eventTime", ""));
    }
    let found = text(event, "/type");
    if !["Normal", "Warning"].contains(&found) {
        causes.push(Cause::invalid("type", "\"\"", &format!("has invalid value: {found}")));
    }
    // Of the old form, by which a `v1` Event counts.
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !is_empty(&event[field]) {
            causes.push(Cause::invalid(field, "\"\"", "needs to be unset"));
        }
    }
    causes
}

fn series_causes(event: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if event["series"].is_object() {
        if integer(event, "/series/count") < 2 {
            causes.push(Cause::invalid("series.count", "\"\"", "should be at least 2"));
        }
        if text(event, "/series/lastObservedTime").is_empty() {
            causes.push(Cause::required("series.lastObservedTime", ""));
        }
    }
    causes
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let differs = |field: &str| old[field] != new[field] && !(is_empty(&old[field]) && is_empty(&new[field]));
    let mut causes = if differs("series") { series_causes(new) } else { Vec::new() };
    let changed = IMMUTABLE.iter().filter(|field| differs(field));
    causes.extend(changed.map(|field| Cause::invalid(*field, &new[*field], "field is immutable")));
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Value {
        json!({
            "metadata": {"namespace": "x"}, "involvedObject": {"namespace": "x"}, "type": "Normal", "reason": "R",
            "message": "n", "action": "A", "reportingComponent": "x.y/z", "reportingInstance": "i",
            "eventTime": "2026-01-01T00:00:00.000000Z",
        })
    }

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn a_new_event_has_a_time_a_type_and_nothing_of_the_old_form() {
        let wrong = |field: &str, value: Value| {
            let mut event = event();
            event[field] = value;
            fields([event::causes(&event), new_causes(&event)].concat())
        };
        assert_eq!(wrong("related", json!({"name": "other"})), Vec::<String>::new());
        assert_eq!(
            wrong("series", json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:00Z"})),
            Vec::<String>::new()
        );
        assert_eq!(wrong("eventTime", Value::Null), ["eventTime"]);
        assert_eq!(wrong("type", json!("Loud")), ["type"]);
        assert_eq!(wrong("count", json!(1)), ["count"]);
        assert_eq!(wrong("source", json!({"component": "c"})), ["source"]);
        assert_eq!(wrong("firstTimestamp", json!("2026-01-01T00:00:00Z")), ["firstTimestamp"]);
        assert_eq!(wrong("series", json!({"count": 1})), ["series.count", "series.lastObservedTime"]);
        assert_eq!(wrong("action", json!("")), ["action"]);
        assert_eq!(wrong("reportingComponent", json!("a b")), ["reportingController"]);
        assert_eq!(wrong("reportingInstance", json!("i".repeat(129))), ["reportingInstance"]);
        assert_eq!(wrong("message", json!("n".repeat(1025))), ["message"]);
    }

    #[test]
    fn what_happened_stays_and_its_series_grows() {
        let old = event();
        let mut new = old.clone();
        new["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:00Z"});
        new["count"] = 0.into();
        assert_eq!(validate_update(&old, &new), []);
        new["message"] = "other".into();
        new["series"]["count"] = 0.into();
        assert_eq!(fields(validate_update(&old, &new)), ["series.count", "message"]);
    }
}
