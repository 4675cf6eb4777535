//! Strategic merge patches: merge patches that know which lists are merged by key.
//!
//! Beside values, a patch has directives: `$patch: delete|replace|merge`, `$retainKeys: [...]`,
//! `$setElementOrder/FIELD: [...]` and `$deleteFromPrimitiveList/FIELD: [...]`.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};
use wharf_specs::schema::Shape;

use super::interleave;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

/// `object` with `patch` applied; the error says what is wrong with the patch, and where.
pub fn apply(shape: Option<Shape>, object: &Value, patch: &Value) -> Result<Value, String> {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => patch_map(shape, object, patch, "").map(Value::Object),
        (_, Value::Object(patch)) => patch_map(shape, &Map::new(), patch, "").map(Value::Object),
        _ => Err("a strategic merge patch is an object".into()),
    }
}

fn patch_map(
    shape: Option<Shape>,
    object: &Map<String, Value>,
    patch: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, String> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => return Ok(without_directives(patch)),
        Some("delete") => return Ok(Map::new()),
        Some(other) => return Err(format!("{path}.$patch: {other:?} is not delete, merge or replace")),
    }
    let mut merged = object.clone();
    if let Some(kept) = patch.get(RETAIN_KEYS) {
        let kept: HashSet<&str> = list(kept, path, RETAIN_KEYS)?.iter().filter_map(Value::as_str).collect();
        if let Some(name) = patch.keys().find(|name| !name.starts_with('$') && !kept.contains(name.as_str())) {
            return Err(format!("{path}.$retainKeys does not name {name}, which the patch sets"));
        }
        merged.retain(|name, _| kept.contains(name.as_str()));
    }
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM_LIST) {
            let deleted: HashSet<&Value> = list(value, path, name)?.iter().collect();
            if let Some(items) = merged.get_mut(field).and_then(Value::as_array_mut) {
                items.retain(|item| !deleted.contains(item));
            }
        } else if let Some(field) = name.strip_prefix(ELEMENT_ORDER) {
            // With a list of its own, the list is put into order when it is merged.
            if !patch.contains_key(field)
                && let Some(Value::Array(items)) = merged.get(field)
            {
                let key = shape.and_then(|shape| shape.field(field)).and_then(|list| list.facts().merge_key);
                let ordered = in_order(items.clone(), list(value, path, name)?, items, key);
                merged.insert(field.to_owned(), Value::Array(ordered));
            }
        } else if !name.starts_with('$') {
            let path = format!("{path}.{name}");
            let order = patch.get(&format!("{ELEMENT_ORDER}{name}"));
            match patch_value(shape.and_then(|shape| shape.field(name)), merged.get(name), value, order, &path)? {
                Some(value) => drop(merged.insert(name.clone(), value)),
                None => drop(merged.remove(name)),
            }
        } else if name != DIRECTIVE && name != RETAIN_KEYS {
            return Err(format!("{path}.{name} is not a directive of strategic merge patches"));
        }
    }
    Ok(merged)
}

/// The new value of a field; `None` where the patch removes it.
fn patch_value(
    shape: Option<Shape>,
    current: Option<&Value>,
    patch: &Value,
    order: Option<&Value>,
    path: &str,
) -> Result<Option<Value>, String> {
    match patch {
        Value::Null => Ok(None),
        Value::Object(patch) => {
            if patch.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
                return Ok(None);
            }
            let empty = Map::new();
            let current = current.and_then(Value::as_object).unwrap_or(&empty);
            patch_map(shape, current, patch, path).map(|map| Some(Value::Object(map)))
        }
        Value::Array(items) => {
            let current = current.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            patch_list(shape, current, items, order, path).map(|list| Some(Value::Array(list)))
        }
        scalar => Ok(Some(scalar.clone())),
    }
}

fn patch_list(
    shape: Option<Shape>,
    current: &[Value],
    patch: &[Value],
    order: Option<&Value>,
    path: &str,
) -> Result<Vec<Value>, String> {
    let Some((shape, facts)) = shape.map(|shape| (shape, shape.facts())).filter(|(_, facts)| facts.merges) else {
        return Ok(patch.iter().map(cleaned).collect());
    };
    let Some(key) = facts.merge_key else {
        let there: HashSet<&Value> = current.iter().collect();
        let mut merged = current.to_vec();
        merged.extend(patch.iter().filter(|item| !there.contains(item)).cloned());
        return match order {
            Some(order) => Ok(in_order(merged, list(order, path, ELEMENT_ORDER)?, current, None)),
            None => Ok(merged),
        };
    };
    if patch.iter().any(|item| item.get(DIRECTIVE).is_some_and(|directive| directive == "replace")) {
        return Ok(patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).map(cleaned).collect());
    }
    let merged = merge_items(shape, current, patch, key, path)?;
    let Some(order) = order else { return Ok(merged) };
    let order = list(order, path, ELEMENT_ORDER)?;
    let keys = |items: &[Value]| items.iter().filter_map(|item| item.get(key).cloned()).collect::<HashSet<_>>();
    let (patched, ordered) = (keys(patch), keys(order));
    let unnamed = |of_item: &&Value| patched.contains(*of_item) && !ordered.contains(*of_item);
    match merged.iter().filter_map(|item| item.get(key)).find(unnamed) {
        Some(missing) => Err(format!("{path}: $setElementOrder does not name {missing}, which the patch has")),
        None => Ok(in_order(merged, order, current, Some(key))),
    }
}

/// The items of `current`, each with what `patch` has under the same key, and those that are new.
fn merge_items(list: Shape, current: &[Value], patch: &[Value], key: &str, path: &str) -> Result<Vec<Value>, String> {
    let mut merged: Vec<Option<Value>> = current.iter().cloned().map(Some).collect();
    // Nothing keeps a list from having a key twice.
    let mut places: HashMap<Value, Vec<usize>> = HashMap::new();
    for (index, item) in current.iter().enumerate() {
        if let Some(of_item) = item.get(key) {
            places.entry(of_item.clone()).or_default().push(index);
        }
    }
    for (index, item) in patch.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let fields = item.as_object().ok_or_else(|| format!("{path}: the items of this list are objects"))?;
        let of_item = fields.get(key).filter(|value| !value.is_null());
        let of_item = of_item.ok_or_else(|| format!("{path}: its merge key {key} is missing"))?;
        if fields.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
            places.remove(of_item).into_iter().flatten().for_each(|index| merged[index] = None);
            continue;
        }
        let place = match places.get(of_item).and_then(|places| places.first()) {
            Some(place) => *place,
            None => {
                places.insert(of_item.clone(), vec![merged.len()]);
                merged.push(None);
                merged.len() - 1
            }
        };
        let empty = Map::new();
        let before = merged[place].as_ref().and_then(Value::as_object).unwrap_or(&empty);
        merged[place] = Some(Value::Object(patch_map(list.items(), before, fields, &path)?));
    }
    Ok(merged.into_iter().flatten().collect())
}

/// Puts `items` into `order`; what it does not name keeps its place among what stood around it in `current`.
fn in_order(items: Vec<Value>, order: &[Value], current: &[Value], key: Option<&str>) -> Vec<Value> {
    let identity = |item: &Value| match key {
        Some(key) => item.get(key).map(Value::to_string).unwrap_or_default(),
        None => item.to_string(),
    };
    let mut present: HashMap<String, VecDeque<Value>> = HashMap::new();
    let mut names = Vec::with_capacity(items.len());
    for item in items {
        let name = identity(&item);
        present.entry(name.clone()).or_default().push_back(item);
        names.push(name);
    }
    let identities =
        |items: &[Value]| items.iter().map(identity).filter(|name| present.contains_key(name)).collect::<Vec<String>>();
    let sorted = interleave(&identities(current), &identities(order));
    // What neither names comes last: new items of a patch that says nothing of them.
    let sorted = sorted.iter().chain(&names);
    sorted.filter_map(|name| present.get_mut(name).and_then(VecDeque::pop_front)).collect()
}

fn list<'a>(value: &'a Value, path: &str, name: &str) -> Result<&'a [Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{path}.{name}: must be a list"))
}

/// A value that nothing is merged with: directives have done their work, and null means absent.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(without_directives(fields)),
        Value::Array(items) => Value::Array(items.iter().map(cleaned).collect()),
        scalar => scalar.clone(),
    }
}

fn without_directives(fields: &Map<String, Value>) -> Map<String, Value> {
    let kept = fields.iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
    kept.map(|(name, value)| (name.clone(), cleaned(value))).collect()
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(ELEMENT_ORDER) || name.starts_with(DELETE_FROM_LIST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(spec: Value, patch: Value) -> Result<Value, String> {
        let shape = Shape::of_kind("v1", "Pod");
        apply(shape, &json!({ "spec": spec }), &json!({ "spec": patch })).map(|mut pod| pod["spec"].take())
    }

    #[test]
    fn lists_are_merged_by_their_key() {
        let spec =
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]});
        let patch = json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]});
        let expected = json!({"containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b"}]});
        assert_eq!(patched(spec, patch), Ok(expected));
    }

    #[test]
    fn directives_do_what_they_say() {
        for (spec, patch, expected) in [
            (json!({"a": 1}), json!({"a": null}), json!({})),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                json!({"securityContext": {"runAsUser": 1}}),
                json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}}),
                json!({"securityContext": {"runAsGroup": 2}}),
            ),
            (json!({"securityContext": {"runAsUser": 1}}), json!({"securityContext": {"$patch": "delete"}}), json!({})),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}),
                json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a"}]}),
            ),
            // A list without a key is one value.
            (
                json!({"tolerations": [{"key": "a"}]}),
                json!({"tolerations": [{"key": "b", "value": null}]}),
                json!({"tolerations": [{"key": "b"}]}),
            ),
        ] {
            assert_eq!(patched(spec.clone(), patch.clone()), Ok(expected), "{spec} {patch}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_kept_twice() {
        let env = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let spec = json!({"containers": [{"name": "a", "env": env(&["X", "Y", "X"])}]});
        let patch =
            json!({"containers": [{"name": "a", "env": env(&["Z", "Y"]), "$setElementOrder/env": env(&["Z", "Y"])}]});
        let expected = json!({"containers": [{"name": "a", "env": env(&["X", "Z", "Y", "X"])}]});
        assert_eq!(patched(spec, patch), Ok(expected));
    }

    #[test]
    fn lists_of_scalars_are_merged_as_sets() {
        let shape = Shape::of_kind("v1", "Pod");
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(apply(shape, &object, &patch), Ok(json!({"metadata": {"finalizers": ["b", "c"]}})));
    }

    #[test]
    fn a_wrong_patch_says_where_it_is_wrong() {
        for (patch, message) in [
            (json!({"containers": [{"image": "x"}]}), ".spec.containers[0]: its merge key name is missing"),
            (json!({"containers": ["x"]}), ".spec.containers[0]: the items of this list are objects"),
            (json!({"$patch": "remove"}), ".spec.$patch: \"remove\" is not delete, merge or replace"),
            (json!({"$retainKeys": "x"}), ".spec.$retainKeys: must be a list"),
            (json!({"$retainKeys": ["a"], "b": 1}), ".spec.$retainKeys does not name b, which the patch sets"),
            (json!({"$other": 1}), ".spec.$other is not a directive of strategic merge patches"),
            (
                json!({"$setElementOrder/containers": [{"name": "x"}], "containers": [{"name": "y"}]}),
                ".spec.containers: $setElementOrder does not name \"y\", which the patch has",
            ),
        ] {
            assert_eq!(patched(json!({}), patch), Err(message.into()));
        }
    }
}
