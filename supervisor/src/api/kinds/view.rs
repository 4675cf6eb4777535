//! Kinds whose objects are those of another kind, under other names of fields.

use std::sync::Arc;

use serde_json::Value;

use super::{Kind, event, regarding_event};
use crate::api::status::Cause;

struct View {
    kind: &'static Kind,
    stored: &'static Kind,
    /// Fields of the kind, and what they are called where they are stored.
    names: &'static [(&'static str, &'static str)],
    /// What is wrong with a new object, as it is stored, beyond what is wrong with any.
    new_causes: fn(&Value) -> Vec<Cause>,
}

static VIEWS: [View; 1] = [View {
    kind: &regarding_event::KIND,
    stored: &event::KIND,
    names: regarding_event::STORED_NAMES,
    new_causes: regarding_event::new_causes,
}];

/// Every kind that is another one's.
pub(super) fn kinds() -> impl Iterator<Item = &'static Kind> {
    VIEWS.iter().map(|view| view.kind)
}

impl Kind {
    fn view(&self) -> Option<&'static View> {
        VIEWS.iter().find(|view| std::ptr::eq(view.kind, self))
    }

    /// The kind as which its objects are stored: most often itself.
    pub fn stored(&'static self) -> &'static Kind {
        self.view().map_or(self, |view| view.stored)
    }

    /// Name of the store's table: `deployments.apps`, `pods`.
    pub fn resource(&self) -> String {
        let stored = self.view().map_or(self, |view| view.stored);
        match stored.group {
            "" => stored.plural.into(),
            group => format!("{}.{group}", stored.plural),
        }
    }

    /// Everything wrong with an object that is to be made, as it will be stored.
    pub fn new_causes(&self, object: &Value) -> Vec<Cause> {
        let mut causes = (self.validate)(object);
        causes.extend(self.view().into_iter().flat_map(|view| (view.new_causes)(object)));
        causes
    }

    /// An object of this kind as it is stored.
    pub fn to_stored(&self, object: Value) -> Value {
        match self.view() {
            Some(view) => renamed(object, view.stored, view.names.iter().copied()),
            None => object,
        }
    }

    /// A stored object as one of this kind.
    pub fn of_stored(&self, object: Value) -> Value {
        match self.view() {
            Some(view) => renamed(object, view.kind, view.names.iter().map(|(own, stored)| (*stored, *own))),
            None => object,
        }
    }

    /// As [`Kind::of_stored`], of an object that others have too.
    pub fn show(&self, object: Arc<Value>) -> Arc<Value> {
        match self.view() {
            Some(_) => Arc::new(self.of_stored(Value::clone(&object))),
            None => object,
        }
    }
}

fn renamed(mut object: Value, kind: &Kind, names: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    let Some(fields) = object.as_object_mut() else { return object };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
    fields.insert("apiVersion".into(), kind.api_version().into());
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_stored_once_and_has_both_forms() {
        let kind = &regarding_event::KIND;
        let own = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "note": "n", "action": "A",
            "regarding": {"kind": "Pod"}, "reportingController": "x.y/z", "series": {"count": 2}, "deprecatedCount": 3,
        });
        let stored = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "message": "n", "action": "A",
            "involvedObject": {"kind": "Pod"}, "reportingComponent": "x.y/z", "series": {"count": 2}, "count": 3,
        });
        assert_eq!(kind.to_stored(own.clone()), stored);
        assert_eq!(kind.of_stored(stored.clone()), own);
        assert_eq!((kind.resource(), event::KIND.resource()), ("events".into(), "events".into()));
        assert_eq!(event::KIND.of_stored(stored.clone()), stored);
        assert!(std::ptr::eq(kind.stored(), &event::KIND) && std::ptr::eq(event::KIND.stored(), &event::KIND));
    }
}
