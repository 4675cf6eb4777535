//! Label and field selectors.

use serde_json::Value;

use super::field_labels;
use super::kinds::{is_label_value, is_qualified_name};

/// Requirements that all must hold of an object's labels (or fields).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In { key: String, values: Vec<String> },
    NotIn { key: String, values: Vec<String> },
    Exists { key: String },
    DoesNotExist { key: String },
}

impl Selector {
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The only value that `key` may have.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements.iter().find_map(|requirement| match requirement {
            Requirement::In { key: of, values } if of == key && values.len() == 1 => Some(values[0].as_str()),
            _ => None,
        })
    }

    /// Parses a selector whose keys and values can be those of labels.
    pub fn parse_labels(text: &str) -> Result<Self, String> {
        let selector = Self::parse(text)?;
        if let Some(key) = selector.keys().find(|key| !is_qualified_name(key)) {
            return Err(format!("unable to parse requirement: {key:?} is no label's name"));
        }
        let values = selector.requirements.iter().flat_map(|requirement| match requirement {
            Requirement::In { values, .. } | Requirement::NotIn { values, .. } => values.as_slice(),
            Requirement::Exists { .. } | Requirement::DoesNotExist { .. } => &[],
        });
        match values.into_iter().find(|value| !is_label_value(value)) {
            Some(value) => Err(format!("unable to parse requirement: {value:?} is no label's value")),
            None => Ok(selector),
        }
    }

    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = split_outside_parentheses(text);
        let requirements = parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).map(parse_requirement);
        Ok(Self { requirements: requirements.collect::<Result<_, _>>()? })
    }

    /// Reads a `meta/v1` LabelSelector.
    pub fn from_label_selector(selector: &Value) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::In { key: key.clone(), values: vec![value] });
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values: Vec<String> = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(match expression["operator"].as_str().unwrap_or_default() {
                "In" if !values.is_empty() => Requirement::In { key, values },
                "NotIn" if !values.is_empty() => Requirement::NotIn { key, values },
                "Exists" if values.is_empty() => Requirement::Exists { key },
                "DoesNotExist" if values.is_empty() => Requirement::DoesNotExist { key },
                other => return Err(format!("operator {other:?} with {} values is not valid", values.len())),
            });
        }
        Ok(Self { requirements })
    }

    /// Whether `labels`, a JSON object of strings, meet every requirement.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_by(|key| labels.get(key).and_then(Value::as_str).map(str::to_owned))
    }

    /// As [`Selector::matches`], with keys such as `metadata.name` looked up in the object itself.
    pub fn matches_fields(&self, object: &Value) -> bool {
        self.matches_by(|key| Some(field_labels::value(key, object)))
    }

    /// As [`Selector::matches`], of what `value_of` says of each key.
    fn matches_by(&self, value_of: impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In { key, values } => value_of(key).is_some_and(|v| values.contains(&v)),
            Requirement::NotIn { key, values } => value_of(key).is_none_or(|v| !values.contains(&v)),
            Requirement::Exists { key } => value_of(key).is_some(),
            Requirement::DoesNotExist { key } => value_of(key).is_none(),
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().map(|requirement| match requirement {
            Requirement::In { key, .. }
            | Requirement::NotIn { key, .. }
            | Requirement::Exists { key }
            | Requirement::DoesNotExist { key } => key.as_str(),
        })
    }

    /// Whether each requirement compares with a value.
    pub(super) fn compares_only(&self) -> bool {
        self.requirements
            .iter()
            .all(|requirement| matches!(requirement, Requirement::In { .. } | Requirement::NotIn { .. }))
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let set = |operator: &str| -> Option<(String, Vec<String>)> {
        let (key, values) = part.split_once(operator)?;
        let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some((key.trim().to_owned(), values.split(',').map(|v| v.trim().to_owned()).collect()))
    };
    let key_of = |key: &str| -> Result<String, String> {
        let key = key.trim();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        match key {
            "" => Err(format!("selector {part:?} has no key")),
            _ if key.chars().all(allowed) => Ok(key.to_owned()),
            _ => Err(format!("selector {part:?}: {key:?} is not a key")),
        }
    };
    if let Some((key, values)) = set(" notin ") {
        return Ok(Requirement::NotIn { key: key_of(&key)?, values });
    }
    if let Some((key, values)) = set(" in ") {
        return Ok(Requirement::In { key: key_of(&key)?, values });
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn { key: key_of(key)?, values: vec![value.trim().into()] });
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In { key: key_of(key)?, values: vec![value.trim().into()] });
    }
    match part.strip_prefix('!') {
        Some(key) => Ok(Requirement::DoesNotExist { key: key_of(key)? }),
        None => Ok(Requirement::Exists { key: key_of(part)? }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_match_as_kubectl_writes_them() {
        let labels = json!({"app": "web", "tier": "front"});
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (api, web)", true),
            ("app notin (web)", false),
            ("tier,!canary", true),
            ("canary", false),
            ("other!=x", true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn wrong_selectors_are_refused() {
        for text in ["=x", "a b", "a=b,!"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        for text in ["a===b", "a=b c", "a in (b,(c)", "/a=b", "a=-", "!a/b/c"] {
            assert!(Selector::parse_labels(text).is_err(), "{text}");
        }
        assert!(Selector::parse_labels("a.b/c in (d,e),f!=,!g,h notin (i)").is_ok());
        assert!(Selector::from_label_selector(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})).is_err());
    }
}
