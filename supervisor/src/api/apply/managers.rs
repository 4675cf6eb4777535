//! Who manages which fields: `metadata.managedFields`.

use serde_json::{Value, json};
use wharf_specs::schema::Shape;

use super::field_set::{FieldSet, compare};
use crate::api::kinds::text;
use crate::api::objects::now;

/// Who is taken to have written what was there before anybody applied.
pub(super) const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Managers of updates beyond this many are summed up as one.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Longest name of a manager, in bytes; Kubernetes' own limit.
pub const MAX_MANAGER_BYTES: usize = 128;

/// Fields that say which object it is, or that the server writes: nobody manages them.
const NOBODYS: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:deletionGracePeriodSeconds"],
    &["f:metadata", "f:deletionTimestamp"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    pub(super) subresource: String,
    pub(super) api_version: String,
    time: String,
    pub(super) fields: FieldSet,
}

/// Name of a writer, and the sub-resource it writes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    pub manager: String,
    pub subresource: &'static str,
}

impl Writer {
    /// The node itself: its controllers.
    pub fn node() -> Self {
        Self { manager: "wharfd".into(), subresource: "" }
    }
}

/// Every entry of `managedFields`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managers(pub(super) Vec<Manager>);

impl Managers {
    /// Reads an object's managers; `None` where the field is not what it should be.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let Some(entries) = object.pointer("/metadata/managedFields").filter(|entries| !entries.is_null()) else {
            return Some(Self::default());
        };
        let read = |entry: &Value| {
            Some(Manager {
                name: text(entry, "/manager").to_owned(),
                operation: match text(entry, "/operation") {
                    "Apply" => Operation::Apply,
                    "Update" => Operation::Update,
                    _ => return None,
                },
                subresource: text(entry, "/subresource").to_owned(),
                api_version: text(entry, "/apiVersion").to_owned(),
                time: text(entry, "/time").to_owned(),
                fields: FieldSet::from_json(entry.get("fieldsV1")?)?,
            })
        };
        entries.as_array()?.iter().map(read).collect::<Option<_>>().map(Self)
    }

    pub(super) fn write_to(&self, object: &mut Value) {
        let entry = |manager: &Manager| {
            let mut entry = json!({
                "manager": manager.name, "apiVersion": manager.api_version, "time": manager.time,
                "operation": match manager.operation { Operation::Apply => "Apply", Operation::Update => "Update" },
                "fieldsType": "FieldsV1", "fieldsV1": manager.fields.to_json(),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = manager.subresource.as_str().into();
            }
            entry
        };
        match self.0.is_empty() {
            true => {
                object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
            }
            false => object["metadata"]["managedFields"] = self.0.iter().map(entry).collect(),
        }
    }

    pub(super) fn position(&self, writer: &Writer, operation: Operation, api_version: &str) -> Option<usize> {
        self.0.iter().position(|manager| {
            manager.name == writer.manager
                && manager.operation == operation
                && manager.subresource == writer.subresource
                && manager.api_version == api_version
        })
    }

    /// Gives `writer` exactly `fields`; the time moves on only where that changes something.
    pub(super) fn set(&mut self, writer: &Writer, operation: Operation, api_version: &str, fields: FieldSet) {
        match self.position(writer, operation, api_version) {
            Some(index) if fields.is_empty() => drop(self.0.remove(index)),
            Some(index) if self.0[index].fields != fields => {
                self.0[index].fields = fields;
                self.0[index].time = now();
            }
            None if !fields.is_empty() => self.0.push(Manager {
                name: writer.manager.clone(),
                operation,
                subresource: writer.subresource.to_owned(),
                api_version: api_version.to_owned(),
                time: now(),
                fields,
            }),
            _ => {}
        }
    }

    /// Takes `fields` from everybody except the entry at `spared`.
    pub(super) fn take(&mut self, fields: &FieldSet, spared: Option<usize>) {
        for (index, manager) in self.0.iter_mut().enumerate() {
            if Some(index) != spared {
                let rest = manager.fields.difference(fields);
                if rest != manager.fields {
                    manager.fields = rest;
                }
            }
        }
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|manager| !manager.fields.is_empty());
    }

    fn bound(&mut self) {
        let is_update = |manager: &&Manager| manager.operation == Operation::Update;
        while self.0.iter().filter(is_update).count() > MAX_UPDATE_MANAGERS {
            let mut updates: Vec<usize> =
                (0..self.0.len()).filter(|&index| self.0[index].operation == Operation::Update).collect();
            updates.sort_by(|&a, &b| self.0[a].time.cmp(&self.0[b].time));
            let (into, from) = (updates[0].min(updates[1]), updates[0].max(updates[1]));
            let old = self.0.remove(from);
            let sum = &mut self.0[into];
            sum.fields = std::mem::take(&mut sum.fields).union(&old.fields);
            sum.name = ANCIENT.into();
            sum.subresource = String::new();
        }
    }
}

impl Operation {
    pub(super) fn is_update(self) -> bool {
        self == Self::Update
    }
}

impl Manager {
    /// As messages of conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut shown = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            shown += &format!(" with subresource {:?}", self.subresource);
        }
        shown += &format!(" using {}", self.api_version);
        if self.operation.is_update() {
            shown += &format!(" at {}", self.time);
        }
        shown
    }
}

/// Without what nobody manages; a status belongs to those who write through the sub-resource.
pub(super) fn manageable(mut fields: FieldSet, subresource: &str) -> FieldSet {
    NOBODYS.iter().for_each(|path| fields.remove(path));
    match subresource {
        "status" => ["f:spec", "f:data", "f:metadata"].iter().for_each(|half| fields.remove(&[half])),
        _ => fields.remove(&["f:status"]),
    }
    fields
}

/// Notes that `writer` changed an object from `old` (null where it is new) to `new`.
pub fn record_update(api_version: &str, kind: &str, old: &Value, new: &mut Value, writer: &Writer) {
    let shape = Shape::of_kind(api_version, kind);
    // A client may rewrite the list of managers; what cannot be read stays as it was.
    let emptied = new.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|entries| {
        entries.is_empty() || entries.iter().all(|entry| entry.as_object().is_some_and(|entry| entry.is_empty()))
    });
    let mut managers = match new.pointer("/metadata/managedFields") {
        _ if emptied => Managers::default(),
        Some(_) => Managers::of(new).or_else(|| Managers::of(old)).unwrap_or_default(),
        None => Managers::of(old).unwrap_or_default(),
    };
    let empty = json!({});
    let difference = compare(shape, if old.is_null() { &empty } else { old }, new);
    let changed = manageable(difference.changed, writer.subresource);
    let removed = manageable(difference.removed, writer.subresource);
    let own = managers.position(writer, Operation::Update, api_version);
    managers.take(&changed, own);
    managers.take(&removed, None);
    let before = own.map(|index| managers.0[index].fields.clone()).unwrap_or_default();
    if !changed.is_empty() {
        managers.set(writer, Operation::Update, api_version, before.union(&changed));
    }
    managers.drop_empty();
    managers.bound();
    managers.write_to(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(manager: &str) -> Writer {
        Writer { manager: manager.into(), subresource: "" }
    }

    #[test]
    fn who_changes_a_field_manages_it_from_then_on() {
        let mut first = json!({"metadata": {"name": "a"}, "data": {"x": "1", "y": "1"}});
        record_update("v1", "ConfigMap", &Value::Null, &mut first, &writer("one"));
        let mut second = first.clone();
        second["data"] = json!({"x": "2"});
        record_update("v1", "ConfigMap", &first, &mut second, &writer("two"));
        let managers = Managers::of(&second).unwrap();
        let shown: Vec<_> = managers.0.iter().map(|m| (m.name.as_str(), m.fields.paths())).collect();
        assert_eq!(shown, [("one", vec![".data".to_owned()]), ("two", vec![".data.x".to_owned()])]);
    }

    #[test]
    fn many_managers_become_one() {
        let mut object = json!({"metadata": {"name": "a"}, "data": {}});
        for number in 0..30 {
            let mut next = object.clone();
            next["data"][format!("k{number}")] = "v".into();
            record_update("v1", "ConfigMap", &object, &mut next, &writer(&format!("m{number}")));
            object = next;
        }
        let managers = Managers::of(&object).unwrap();
        assert_eq!(managers.0.len(), MAX_UPDATE_MANAGERS);
        let fields: usize = managers.0.iter().map(|manager| manager.fields.paths().len()).sum();
        assert_eq!(fields, 30);
    }

    #[test]
    fn an_emptied_list_of_managers_starts_anew() {
        let mut object = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
        record_update("v1", "ConfigMap", &Value::Null, &mut object, &writer("one"));
        let mut emptied = object.clone();
        emptied["metadata"]["managedFields"] = json!([{}]);
        record_update("v1", "ConfigMap", &object, &mut emptied, &writer("two"));
        assert_eq!(Managers::of(&emptied), Some(Managers::default()));
    }
}
