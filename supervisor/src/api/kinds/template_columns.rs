//! Columns of the kinds that make pods: what these run, and which of them are theirs.

use serde_json::Value;

use super::pod::items;
use super::{Column, text};

pub(super) const CONTAINERS_COLUMN: Column =
    Column { name: "Containers", data_type: "string", priority: 1, cell: |o| each(o, "/name") };
pub(super) const IMAGES_COLUMN: Column =
    Column { name: "Images", data_type: "string", priority: 1, cell: |o| each(o, "/image") };
pub(super) const SELECTOR_COLUMN: Column =
    Column { name: "Selector", data_type: "string", priority: 1, cell: |o| selector(&o["spec"]["selector"]).into() };

fn each(object: &Value, pointer: &str) -> Value {
    let containers = items(&object["spec"]["template"]["spec"], "containers").iter();
    containers.map(|container| text(container, pointer)).collect::<Vec<_>>().join(",").into()
}

/// As `kubectl -l` takes it.
fn selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for expression in items(selector, "matchExpressions") {
        let mut values: Vec<&str> = items(expression, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let (key, values) = (text(expression, "/key"), values.join(","));
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wide_row_says_what_runs_and_which_pods_are_meant() {
        let object = json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["e", "d"]}, {"key": "f", "operator": "NotIn", "values": ["g"]},
                {"key": "h", "operator": "Exists"}, {"key": "i", "operator": "DoesNotExist"}]},
            "template": {"spec": {"containers": [{"name": "x", "image": "y:1"}, {"name": "z", "image": "w:2"}]}}}});
        let cells = [&CONTAINERS_COLUMN, &IMAGES_COLUMN, &SELECTOR_COLUMN].map(|column| (column.cell)(&object));
        assert_eq!(cells, ["x,z", "y:1,w:2", "a=b,c in (d,e),f notin (g),h,!i"]);
        assert_eq!(selector(&Value::Null), "<none>");
    }
}
