//! The page of an object: fields with their values under each other, parts of them indented, tables. Whatever a kind is,
//! its JSON becomes such a page ([`Page::tree`]).

use serde_json::Value;

use crate::get::write_columns;
use crate::terminal::plain;

const INDENT: usize = 2;

/// Lists of scalars up to this many bytes stand in one line.
const LINE_BYTES: usize = 80;

/// Objects whose keys are no names of fields, and shown as they are.
const MAPS: [&str; 10] = [
    "allocatable",
    "annotations",
    "capacity",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "parameters",
    "requests",
    "used",
];

#[derive(Debug, Default)]
pub(super) struct Page {
    entries: Vec<Entry>,
}

#[derive(Debug)]
enum Entry {
    /// Further lines of a value stand below its first.
    Field(String, Vec<String>),
    Part(String, Page),
    /// The first row has the names of the columns.
    Table(String, Vec<Vec<String>>),
}

impl Page {
    /// A field; one without a value is left out.
    pub(super) fn field(&mut self, name: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            self.lines(name, [value]);
        }
    }

    /// A field whose value has several lines, or `<none>`.
    pub(super) fn lines(&mut self, name: &str, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        let lines: Vec<String> =
            lines.into_iter().flat_map(|text| text.as_ref().lines().map(plain).collect::<Vec<_>>()).collect();
        let lines = if lines.is_empty() { vec!["<none>".into()] } else { lines };
        self.entries.push(Entry::Field(name.into(), lines));
    }

    /// Fields of `object`: their names here, and where they stand in it.
    pub(super) fn fields(&mut self, object: &Value, fields: &[(&str, &str)]) {
        for (name, pointer) in fields {
            self.field(name, object.pointer(pointer).map(value_text).unwrap_or_default());
        }
    }

    /// `key=value` in lines.
    pub(super) fn map(&mut self, name: &str, map: &Value) {
        self.lines(
            name,
            map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", value_text(value))),
        );
    }

    /// A part with entries of its own; an empty one is left out.
    pub(super) fn part(&mut self, name: &str, part: Page) {
        if !part.entries.is_empty() {
            self.entries.push(Entry::Part(name.into(), part));
        }
    }

    /// A table; without rows `<none>`.
    pub(super) fn table(&mut self, name: &str, columns: &[&str], rows: Vec<Vec<String>>) {
        if rows.is_empty() {
            return self.lines(name, [""; 0]);
        }
        let header = columns.iter().map(|column| (*column).to_owned()).collect();
        let rows = rows.into_iter().map(|row| row.iter().map(|cell| plain(&cell.replace('\n', " "))).collect());
        self.entries.push(Entry::Table(name.into(), std::iter::once(header).chain(rows).collect()));
    }

    /// Any JSON: objects become parts, lists of flat objects tables. What is empty is left out.
    pub(super) fn tree(&mut self, name: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                let mut part = Page::default();
                fields.iter().for_each(|(field, value)| part.named_tree(field, value));
                self.part(name, part);
            }
            Value::Array(items) if items.is_empty() => {}
            Value::Array(items) if items.iter().all(is_scalar) => {
                let texts: Vec<String> = items.iter().map(value_text).collect();
                match texts.iter().map(|text| text.len() + 2).sum::<usize>() <= LINE_BYTES {
                    true => self.field(name, texts.join(", ")),
                    false => self.lines(name, texts),
                }
            }
            Value::Array(items) if items.iter().all(is_flat) => {
                let mut columns: Vec<&str> = Vec::new();
                for field in items.iter().filter_map(Value::as_object).flat_map(|item| item.keys()) {
                    if !columns.contains(&field.as_str()) {
                        columns.push(field);
                    }
                }
                let cell = |item: &Value, column: &str| item.get(column).map(value_text).unwrap_or_default();
                let row = |item: &Value| columns.iter().map(|column| cell(item, column)).collect();
                let titles: Vec<String> = columns.iter().map(|column| title(column)).collect();
                let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
                self.table(name, &titles, items.iter().map(row).collect());
            }
            Value::Array(items) => {
                let mut part = Page::default();
                for (index, item) in items.iter().enumerate() {
                    let own = item.get("name").and_then(Value::as_str);
                    part.tree(&own.map_or_else(|| index.to_string(), str::to_owned), item);
                }
                self.part(name, part);
            }
            scalar => self.field(name, value_text(scalar)),
        }
    }

    /// A field of an object, under its name in words.
    pub(super) fn named_tree(&mut self, field: &str, value: &Value) {
        match value {
            Value::Object(entries) if MAPS.contains(&field) => {
                let mut part = Page::default();
                entries.iter().for_each(|(key, value)| part.tree(key, value));
                self.part(&title(field), part);
            }
            value => self.tree(&title(field), value),
        }
    }

    /// The text of the page.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(0, &mut text);
        text
    }

    fn write(&self, indent: usize, text: &mut String) {
        let margin = " ".repeat(indent);
        let name_width = |entry: &Entry| match entry {
            Entry::Field(name, _) => name.chars().count() + 1,
            _ => 0,
        };
        let width = self.entries.iter().map(name_width).max().unwrap_or(0);
        for entry in &self.entries {
            match entry {
                Entry::Field(name, lines) => {
                    for (index, line) in lines.iter().enumerate() {
                        let name = if index == 0 { format!("{name}:") } else { String::new() };
                        *text += format!("{margin}{name:<width$}  {line}").trim_end();
                        text.push('\n');
                    }
                }
                Entry::Part(name, part) => {
                    *text += &format!("{margin}{name}:\n");
                    part.write(indent + INDENT, text);
                }
                Entry::Table(name, rows) => {
                    *text += &format!("{margin}{name}:\n");
                    let mut table = Vec::new();
                    // Writing into memory does not fail.
                    let _ = write_columns(&mut table, rows);
                    for line in String::from_utf8_lossy(&table).lines() {
                        *text += &format!("{margin}{:INDENT$}{line}\n", "");
                    }
                }
            }
        }
    }
}

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn is_flat(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| !fields.is_empty() && fields.values().all(is_scalar))
}

/// A value in one line: strings as they are.
pub(super) fn value_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(value_text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| format!("{key}={}", value_text(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// The name of a field as words: `podIP` is `Pod IP`, `clusterIPs` is `Cluster IPs`. Keys that are no names stay.
fn title(field: &str) -> String {
    if !field.chars().all(|c| c.is_ascii_alphanumeric()) {
        return field.into();
    }
    let letters: Vec<char> = field.chars().collect();
    let mut words = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let after_lower = index > 0 && !letters[index - 1].is_ascii_uppercase();
        let rest: String = letters[index + 1..].iter().collect();
        // `IPFamily`: the last capital begins the next word, unless what follows is a plural's s.
        let begins_word = rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest != "s";
        if letter.is_ascii_uppercase() && index > 0 && (after_lower || begins_word) {
            words.push(' ');
        }
        words.push(if index == 0 { letter.to_ascii_uppercase() } else { *letter });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_fields_become_words() {
        for (field, expected) in [
            ("podIP", "Pod IP"),
            ("clusterIPs", "Cluster IPs"),
            ("restartPolicy", "Restart Policy"),
            ("IPFamily", "IP Family"),
            ("uid", "Uid"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
        ] {
            assert_eq!(title(field), expected, "{field}");
        }
    }

    #[test]
    fn any_object_becomes_a_page() {
        let object = json!({
            "args": ["-a", "b"], "none": {}, "nothing": [], "long": ["x".repeat(50), "y".repeat(50)],
            "ports": [{"name": "http", "port": 80}, {"port": 81, "nodePort": 30000}],
            "volumes": [{"name": "data", "hostPath": {"path": "/srv"}}, {"emptyDir": {"medium": "Memory"}}],
            "hostname": "web\u{1b}[2J", "nodeSelector": {"gpuType": "x"},
        });
        let mut page = Page::default();
        page.field("Name", "web");
        page.tree("Spec", &object);
        page.map("Labels", &json!({"a": "1", "b": "2"}));
        page.lines("Events", [""; 0]);
        let expected = format!(
            "Name:    web\n\
             Spec:\n\
             \x20 Args:      -a, b\n\
             \x20 Hostname:  web [2J\n\
             \x20 Long:      {}\n\
             \x20            {}\n\
             \x20 Node Selector:\n\
             \x20   gpuType:  x\n\
             \x20 Ports:\n\
             \x20   Name   Port   Node Port\n\
             \x20   http   80\n\
             \x20          81     30000\n\
             \x20 Volumes:\n\
             \x20   data:\n\
             \x20     Host Path:\n\
             \x20       Path:  /srv\n\
             \x20     Name:  data\n\
             \x20   1:\n\
             \x20     Empty Dir:\n\
             \x20       Medium:  Memory\n\
             Labels:  a=1\n\
             \x20        b=2\n\
             Events:  <none>\n",
            "x".repeat(50),
            "y".repeat(50)
        );
        assert_eq!(page.text(), expected, "{}", page.text());
    }
}
