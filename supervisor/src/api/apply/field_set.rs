//! Sets of fields, as `metadata.managedFields` has them (FieldsV1).
//!
//! A step of a path is a text: `f:NAME` a field, `k:{"name":"web"}` an item by its keys, `v:"a"` an item of a set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use wharf_specs::schema::{ListType, Shape, key_default};

/// How deep fields that a client declares may nest; the deepest of the kinds has half of it.
const MAX_DEPTH: usize = 64;

/// A set of paths into an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path up to here is itself in the set.
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

/// What differs between two objects.
#[derive(Debug, Default)]
pub struct Difference {
    /// Added, or another value.
    pub changed: FieldSet,
    pub removed: FieldSet,
}

impl FieldSet {
    fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// The way to a struct, and nothing of it.
    pub fn of_struct(step: &str) -> Self {
        Self { member: false, children: BTreeMap::from([(step.to_owned(), Self::default())]) }
    }

    /// Every field that `value` sets.
    pub fn of(shape: Option<Shape>, value: &Value) -> Self {
        let Some(shape) = shape.filter(|shape| !shape.is_atomic()) else { return Self::leaf() };
        let mut set = Self::default();
        match value {
            Value::Object(fields) if !shape.is_list() => {
                for (name, value) in fields {
                    let mut child = Self::of(shape.field(name), value);
                    let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    child.member |= is_empty || !shape.is_struct();
                    set.children.insert(format!("f:{name}"), child);
                }
            }
            Value::Array(items) if shape.is_list() => {
                for item in items {
                    let Some(step) = item_step(shape, item) else { return Self::leaf() };
                    let mut child = Self::of(shape.items(), item);
                    child.member = true;
                    set.children.insert(step, child);
                }
            }
            _ => return Self::leaf(),
        }
        set
    }

    /// As [`FieldSet::of`] for something that was not there before: a map is itself new then.
    fn of_new(shape: Option<Shape>, value: &Value) -> Self {
        let mut set = Self::of(shape, value);
        set.member |= shape.is_some_and(Shape::is_map);
        set
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    pub fn child(&self, step: &str) -> Option<&Self> {
        self.children.get(step)
    }

    pub fn children(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.children.iter().map(|(step, child)| (step.as_str(), child))
    }

    pub fn union(mut self, other: &Self) -> Self {
        self.member |= other.member;
        for (step, child) in &other.children {
            let mine = self.children.remove(step).unwrap_or_default();
            self.children.insert(step.clone(), mine.union(child));
        }
        self
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let both = |(step, child): (&String, &Self)| {
            let common = child.intersection(other.children.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        };
        Self { member: self.member && other.member, children: self.children.iter().filter_map(both).collect() }
    }

    /// What is in this set alone.
    pub fn difference(&self, other: &Self) -> Self {
        let rest = |(step, child): (&String, &Self)| {
            let rest = other.children.get(step).map_or_else(|| child.clone(), |other| child.difference(other));
            (!rest.is_empty()).then(|| (step.clone(), rest))
        };
        Self { member: self.member && !other.member, children: self.children.iter().filter_map(rest).collect() }
    }

    /// Takes out the field at `path` with everything beneath.
    pub fn remove(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => drop(self.children.remove(*last)),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.remove(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// Paths as people read them: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, path: &str, paths: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            paths.push(path.to_owned());
        }
        for (step, child) in &self.children {
            child.collect_paths(&format!("{path}{}", shown(step)), paths);
        }
    }

    pub fn to_json(&self) -> Value {
        let mut fields: Map<String, Value> =
            self.children.iter().map(|(step, child)| (step.clone(), child.to_json())).collect();
        if self.member && !fields.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        Value::Object(fields)
    }

    /// Reads FieldsV1; `None` where it is none.
    pub fn from_json(value: &Value) -> Option<Self> {
        let mut set = Self::read(value, MAX_DEPTH)?;
        // The object itself is nobody's.
        set.member = false;
        Some(set)
    }

    fn read(value: &Value, depth: usize) -> Option<Self> {
        let fields = value.as_object()?;
        let mut set = Self { member: fields.is_empty() || fields.contains_key("."), ..Self::default() };
        for (step, child) in fields.iter().filter(|(step, _)| *step != ".") {
            let step = match step.split_at_checked(2)? {
                ("f:", _) => step.clone(),
                (kind @ ("k:" | "v:" | "i:"), json) => {
                    let value: Value = serde_json::from_str(json).ok()?;
                    format!("{kind}{value}")
                }
                _ => return None,
            };
            set.children.insert(step, Self::read(child, depth.checked_sub(1)?)?);
        }
        Some(set)
    }
}

/// The step to an item of a list of that shape; `None` where the item lacks a key or is the wrong type.
pub fn item_step(list: Shape, item: &Value) -> Option<String> {
    match list.facts().list {
        ListType::Atomic => None,
        ListType::Set => Some(format!("v:{item}")),
        ListType::Map(keys) => {
            let value_of = |key: &&str| {
                let value = item.get(key).filter(|value| !value.is_null()).cloned();
                Some(((*key).to_owned(), value.or_else(|| key_default(key).map(Value::from))?))
            };
            let keys: Map<String, Value> = keys.iter().map(value_of).collect::<Option<_>>()?;
            Some(format!("k:{}", Value::Object(keys)))
        }
    }
}

/// Items of a list by their steps, in order; `None` where two are the same or one has no key.
pub fn items_by_step(list: Shape, items: &[Value]) -> Option<Vec<(String, &Value)>> {
    let steps: Vec<_> = items.iter().map(|item| Some((item_step(list, item)?, item))).collect::<Option<_>>()?;
    let mut sorted: Vec<&String> = steps.iter().map(|(step, _)| step).collect();
    sorted.sort_unstable();
    (!sorted.windows(2).any(|pair| pair[0] == pair[1])).then_some(steps)
}

/// The step to a place, what it is, and what stands there before and after.
type Pair<'a> = (String, Option<Shape>, Option<&'a Value>, Option<&'a Value>);

/// What `new` has, lacks or has otherwise than `old`.
pub fn compare(shape: Option<Shape>, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    if old == new {
        return difference;
    }
    let granular = shape.filter(|shape| !shape.is_atomic());
    let pairs: Vec<Pair<'_>> = match (granular, old, new) {
        (Some(shape), Value::Object(old), Value::Object(new)) => {
            let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
            names.map(|name| (format!("f:{name}"), shape.field(name), old.get(name), new.get(name))).collect()
        }
        (Some(shape), Value::Array(old), Value::Array(new)) => {
            let (Some(old), Some(new)) = (items_by_step(shape, old), items_by_step(shape, new)) else {
                return Difference { changed: FieldSet::leaf(), ..difference };
            };
            let mut added: BTreeMap<String, &Value> = new.into_iter().collect();
            let kept = old.into_iter().map(|(step, item)| {
                let other = added.remove(&step);
                (step, shape.items(), Some(item), other)
            });
            let mut pairs: Vec<_> = kept.collect();
            pairs.extend(added.into_iter().map(|(step, item)| (step, shape.items(), None, Some(item))));
            pairs
        }
        _ => return Difference { changed: FieldSet::leaf(), ..difference },
    };
    let is_item = granular.is_some_and(Shape::is_list);
    let is_named = granular.is_some_and(|shape| !shape.is_struct());
    for (step, shape, old, new) in pairs {
        let (changed, removed) = match (old, new) {
            (Some(old), Some(new)) => {
                let inner = compare(shape, old, new);
                (inner.changed, inner.removed)
            }
            (old, new) => {
                let whole = |value: Option<&Value>| match value {
                    Some(value) => {
                        let mut set = FieldSet::of_new(shape, value);
                        let is_empty = value.as_object().is_some_and(Map::is_empty);
                        set.member |= is_item || is_named || is_empty;
                        set
                    }
                    None => FieldSet::default(),
                };
                (whole(new), whole(old))
            }
        };
        for (set, inner) in [(&mut difference.changed, changed), (&mut difference.removed, removed)] {
            if !inner.is_empty() {
                set.children.insert(step.clone(), inner);
            }
        }
    }
    difference
}

fn shown(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v:", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Option<Shape> {
        Shape::of_kind("v1", "Pod")
    }

    #[test]
    fn fields_read_back_as_they_were_written() {
        let object = json!({
            "metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"containers": [{"name": "c", "command": ["a"], "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        let fields = FieldSet::of(pod(), &object);
        let expected = json!({
            "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:command": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                "f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:name": {}, "f:emptyDir": {}}},
            },
        });
        assert_eq!(fields.to_json(), expected);
        assert_eq!(FieldSet::from_json(&expected), Some(fields));
        let spaced = json!({"f:spec": {"f:containers": {"k:{ \"name\": \"c\" }": {}}}});
        assert!(FieldSet::from_json(&spaced).unwrap().paths() == [".spec.containers[name=\"c\"]"]);
    }

    #[test]
    fn what_is_no_set_of_fields_is_refused() {
        let mut deep = json!({});
        for _ in 0..=MAX_DEPTH {
            deep = json!({"f:a": deep});
        }
        for wrong in [json!([]), json!({"x:a": {}}), json!({"k:{": {}}), json!({"é": {}}), json!({"f:a": 1}), deep] {
            assert_eq!(FieldSet::from_json(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn differences_are_named_by_key_whatever_the_order() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let new = json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}});
        let difference = compare(pod(), &old, &new);
        let spec = ".spec.containers";
        let changed =
            [format!("{spec}[name=\"b\"].image"), format!("{spec}[name=\"c\"]"), format!("{spec}[name=\"c\"].name")];
        assert_eq!(difference.changed.paths(), changed);
        assert!(difference.removed.paths().contains(&format!("{spec}[name=\"a\"].image")));
    }
}
