//! Server-side apply: a client says which fields it wants, and the server remembers who wants what.
//!
//! | file | job |
//! |---|---|
//! | `field_set.rs` | sets of fields, and the difference of two objects as such |
//! | `managers.rs` | `metadata.managedFields` |

mod field_set;
mod managers;

use std::collections::HashMap;

use serde_json::Value;
use wharf_specs::schema::Shape;

use field_set::{FieldSet, compare, item_step, items_by_step};
use managers::{BEFORE_FIRST_APPLY, Managers, Operation, manageable};
pub use managers::{MAX_MANAGER_BYTES, Writer, record_update};

use super::kinds::{Kind, text};
use super::objects::metadata_of;
use super::patch::interleave;
use super::status::{ApiError, Cause};

/// The object that results when `writer` applies `wanted` to `live` (null where there is none yet). Fields that it
/// applied before and that nobody wants any more are removed. A field that another manager set otherwise is a
/// conflict, unless it is taken by `force`.
pub fn apply(kind: &Kind, live: &Value, wanted: &Value, writer: &Writer, force: bool) -> Result<Value, ApiError> {
    let api_version = kind.api_version();
    let shape = Shape::of_kind(&api_version, kind.kind);
    check_keys(shape, wanted, "")?;
    let mut managers = Managers::of(live).unwrap_or_default();
    let empty = Value::Object(serde_json::Map::new());
    let base = if live.is_null() { &empty } else { live };
    if managers.0.is_empty() && !live.is_null() {
        let everything = manageable(FieldSet::of(shape, live), writer.subresource);
        let earlier = Writer { manager: BEFORE_FIRST_APPLY.into(), subresource: "" };
        managers.set(&earlier, Operation::Update, &api_version, everything);
    }
    let mut merged = merge(shape, base, wanted);
    let fields = manageable(FieldSet::of(shape, wanted), writer.subresource);
    let own = managers.position(writer, Operation::Apply, &api_version);
    let before = own.map(|index| managers.0[index].fields.clone()).unwrap_or_default();
    let others = managers.0.iter().enumerate().filter(|(index, _)| Some(*index) != own);
    // An object without any managed metadata still has a name.
    let kept = FieldSet::of_struct("f:metadata").union(&fields);
    let kept = others.fold(kept, |kept, (_, manager)| kept.union(&manager.fields));
    prune(shape, &mut merged, &before, &kept);
    let difference = compare(shape, base, &merged);
    let conflicts: Vec<(usize, FieldSet)> = managers
        .0
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != own)
        .map(|(index, manager)| (index, manager.fields.intersection(&difference.changed)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflict(kind, text(wanted, "/metadata/name"), &managers, &conflicts));
    }
    managers.take(&difference.changed, own);
    managers.take(&difference.removed, own);
    managers.set(writer, Operation::Apply, &api_version, fields);
    managers.drop_empty();
    metadata_of(&mut merged)?;
    managers.write_to(&mut merged);
    Ok(merged)
}

fn conflict(kind: &Kind, name: &str, managers: &Managers, conflicts: &[(usize, FieldSet)]) -> ApiError {
    let mut causes = Vec::new();
    let mut texts = Vec::new();
    for (index, fields) in conflicts {
        let manager = managers.0[*index].shown();
        let paths = fields.paths();
        let word = if paths.len() == 1 { "conflict" } else { "conflicts" };
        texts.push(match paths.as_slice() {
            [one] => format!("{word} with {manager}: {one}"),
            many => format!("{word} with {manager}:\n- {}", many.join("\n- ")),
        });
        let cause =
            |field| Cause { reason: "FieldManagerConflict", field, message: format!("conflict with {manager}") };
        causes.extend(paths.into_iter().map(cause));
    }
    let count = causes.len();
    let plural = if count == 1 { "" } else { "s" };
    let message = format!("Apply failed with {count} conflict{plural}: {}", texts.join("\n"));
    ApiError::ApplyConflict { resource: kind.resource(), name: name.into(), message, causes }
}

/// Items of lists that are merged by key must have their keys, each its own.
fn check_keys(shape: Option<Shape>, value: &Value, path: &str) -> Result<(), ApiError> {
    let Some(shape) = shape.filter(|shape| !shape.is_atomic()) else { return Ok(()) };
    match value {
        Value::Object(fields) => {
            fields.iter().try_for_each(|(name, value)| check_keys(shape.field(name), value, &format!("{path}.{name}")))
        }
        Value::Array(items) => {
            if let Some(index) = items.iter().position(|item| item_step(shape, item).is_none()) {
                let message = format!("failed to create typed patch object: {path}[{index}]: a key field is missing");
                return Err(ApiError::BadRequest(message));
            }
            if items_by_step(shape, items).is_none() {
                let message = format!("failed to create typed patch object: {path}: two items have the same key");
                return Err(ApiError::BadRequest(message));
            }
            let mut items = items.iter().enumerate();
            items.try_for_each(|(index, item)| check_keys(shape.items(), item, &format!("{path}[{index}]")))
        }
        _ => Ok(()),
    }
}

fn merge(shape: Option<Shape>, live: &Value, wanted: &Value) -> Value {
    let Some(shape) = shape.filter(|shape| !shape.is_atomic()) else { return wanted.clone() };
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let mut merged = live.clone();
            for (name, value) in wanted {
                let before = live.get(name).unwrap_or(&Value::Null);
                merged.insert(name.clone(), merge(shape.field(name), before, value));
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(wanted)) => {
            let (Some(live), Some(wanted)) = (items_by_step(shape, live), items_by_step(shape, wanted)) else {
                return Value::Array(wanted.clone());
            };
            let steps = |items: &[(String, &Value)]| items.iter().map(|(step, _)| step.clone()).collect::<Vec<_>>();
            let order = interleave(&steps(&live), &steps(&wanted));
            let (live, wanted) = (live.into_iter().collect(), wanted.into_iter().collect());
            let find = |items: &HashMap<String, &Value>, step: &str| items.get(step).map(|item| Value::clone(item));
            let merged = order.iter().filter_map(|step| match (find(&live, step), find(&wanted, step)) {
                (Some(live), Some(wanted)) => Some(merge(shape.items(), &live, &wanted)),
                (live, wanted) => wanted.or(live),
            });
            Value::Array(merged.collect())
        }
        (_, wanted) => wanted.clone(),
    }
}

/// Removes from `value` what was applied `before` and is not `kept` by anybody.
fn prune(shape: Option<Shape>, value: &mut Value, before: &FieldSet, kept: &FieldSet) {
    let Some(shape) = shape else { return };
    match value {
        Value::Object(fields) => {
            for (step, inner) in before.children() {
                let Some(name) = step.strip_prefix("f:") else { continue };
                match kept.child(step) {
                    None => drop(fields.remove(name)),
                    Some(kept) => {
                        if let Some(value) = fields.get_mut(name) {
                            prune(shape.field(name), value, inner, kept);
                        }
                    }
                }
            }
        }
        Value::Array(items) => items.retain_mut(|item| {
            let step = item_step(shape, item);
            let applied = step.as_deref().and_then(|step| Some((before.child(step)?, kept.child(step))));
            let Some((inner, kept)) = applied else { return true };
            let Some(kept) = kept else { return false };
            prune(shape.items(), item, inner, kept);
            true
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
