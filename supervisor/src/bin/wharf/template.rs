//! `--format`: the part of Go's templates that docker's and podman's users write.
//!
//! `{{.Field.Inner}}`, `{{json .Field}}`, `{{index .Map "key"}}`, `{{join .List ", "}}`, `{{len .X}}`, `upper`, `lower`, pipes, `{{range .List}}…{{end}}`,
//! `{{if .X}}…{{else}}…{{end}}`; `\t` and `\n` are written so. Everything else is refused by name.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::get::write_columns;

const FUNCTIONS: [&str; 6] = ["index", "join", "json", "len", "lower", "upper"];
/// What is printed for a value that is not there.
const NO_VALUE: &str = "<no value>";
/// Nobody nests deeper by hand.
const DEPTH_MAX: usize = 32;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    Range(Pipe, Vec<Node>, Vec<Node>),
    If(Pipe, Vec<Node>, Vec<Node>),
}

/// Calls one after another, each given the result of the one before as its last argument.
type Pipe = Vec<Vec<Term>>;

#[derive(Debug, Clone, PartialEq)]
enum Term {
    /// The fields to go down; empty for `.` itself.
    Field(Vec<String>),
    Function(&'static str),
    Literal(Value),
}

/// How a list is printed.
#[derive(Debug)]
pub(crate) enum ListFormat {
    /// Columns under a header.
    Table(Template),
    Lines(Template),
}

impl ListFormat {
    /// `table TEMPLATE` or `TEMPLATE`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        match text.strip_prefix("table ") {
            Some(columns) => Template::parse(columns).map(Self::Table),
            None => Template::parse(text).map(Self::Lines),
        }
    }

    /// Prints one line for each row. `header` has for each field what stands above it.
    pub(crate) fn write(&self, output: &mut impl Write, header: &Value, rows: &[Value]) -> anyhow::Result<()> {
        match self {
            Self::Lines(template) => {
                for row in rows {
                    writeln!(output, "{}", template.render(row)?)?;
                }
            }
            Self::Table(template) => {
                let cells = |row| -> anyhow::Result<Vec<String>> {
                    Ok(template.render(row)?.split('\t').map(str::to_owned).collect())
                };
                let lines: Vec<_> = [header].into_iter().chain(rows).map(cells).collect::<anyhow::Result<_>>()?;
                write_columns(output, &lines)?;
            }
        }
        Ok(())
    }
}

impl Template {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let text = match text {
            "json" => "{{json .}}".to_owned(),
            text => text.replace("\\t", "\t").replace("\\n", "\n"),
        };
        let mut rest = text.as_str();
        let (nodes, end) = parse_nodes(&mut rest, 0)?;
        match end {
            None => Ok(Self { nodes }),
            Some(word) => bail!("--format: `{{{{{word}}}}}` without a `range` or `if` before it"),
        }
    }

    pub(crate) fn render(&self, value: &Value) -> anyhow::Result<String> {
        let mut text = String::new();
        render(&self.nodes, value, &mut text)?;
        Ok(text)
    }
}

/// Nodes up to the end, or up to `end` or `else`, which is returned.
fn parse_nodes(rest: &mut &str, depth: usize) -> anyhow::Result<(Vec<Node>, Option<&'static str>)> {
    if depth > DEPTH_MAX {
        bail!("--format: nested more than {DEPTH_MAX} deep");
    }
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find("{{") else {
            nodes.push(Node::Text(std::mem::take(rest).to_owned()));
            break;
        };
        let (before, after) = rest.split_at(open);
        if !before.is_empty() {
            nodes.push(Node::Text(before.to_owned()));
        }
        let close = after.find("}}").with_context(|| format!("--format: `{after}`: expected `}}}}` behind it"))?;
        let action = after[2..close].trim();
        *rest = &after[close + 2..];
        let (word, arguments) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
        match word {
            "end" if arguments.is_empty() => return Ok((nodes, Some("end"))),
            "else" if arguments.is_empty() => return Ok((nodes, Some("else"))),
            "range" | "if" => {
                let pipe = parse_pipe(arguments)?;
                let (body, mut end) = parse_nodes(rest, depth + 1)?;
                let mut otherwise = Vec::new();
                if end == Some("else") {
                    (otherwise, end) = parse_nodes(rest, depth + 1)?;
                }
                if end != Some("end") {
                    bail!("--format: `{{{{{action}}}}}`: expected `{{{{end}}}}` behind it");
                }
                nodes.push(if word == "range" {
                    Node::Range(pipe, body, otherwise)
                } else {
                    Node::If(pipe, body, otherwise)
                });
            }
            _ => nodes.push(Node::Print(parse_pipe(action)?)),
        }
    }
    Ok((nodes, None))
}

fn parse_pipe(text: &str) -> anyhow::Result<Pipe> {
    let mut calls = vec![Vec::new()];
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('|') {
            calls.push(Vec::new());
            rest = behind.trim_start();
            continue;
        }
        let (term, behind) = parse_term(rest)?;
        if let Some(call) = calls.last_mut() {
            call.push(term);
        }
        rest = behind.trim_start();
    }
    for (number, call) in calls.iter().enumerate() {
        match call.as_slice() {
            [Term::Function(_), ..] => {}
            [_] if number == 0 => {}
            _ => {
                bail!("--format: `{{{{{text}}}}}`: expected a field as in `.Name`, or one of {}", FUNCTIONS.join(", "))
            }
        }
    }
    Ok(calls)
}

fn parse_term(text: &str) -> anyhow::Result<(Term, &str)> {
    if text.starts_with('"') {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let literal = stream.next().and_then(Result::ok);
        let literal = literal.with_context(|| format!("--format: `{text}`: expected a text in quotes"))?;
        return Ok((Term::Literal(literal), &text[stream.byte_offset()..]));
    }
    let end = text.find(|c: char| c.is_whitespace() || c == '|').unwrap_or(text.len());
    let (word, behind) = text.split_at(end);
    if let Some(path) = word.strip_prefix('.') {
        let fields: Vec<String> = path.split('.').filter(|_| !path.is_empty()).map(str::to_owned).collect();
        if fields.iter().any(String::is_empty) {
            bail!("--format: `{word}`: expected a field as in `.Config.Cmd`");
        }
        return Ok((Term::Field(fields), behind));
    }
    if let Ok(number) = word.parse::<u64>() {
        return Ok((Term::Literal(number.into()), behind));
    }
    match FUNCTIONS.iter().find(|name| **name == word) {
        Some(name) => Ok((Term::Function(name), behind)),
        None => bail!("--format: `{word}`: expected a field as in `.Name`, or one of {}", FUNCTIONS.join(", ")),
    }
}

fn render(nodes: &[Node], value: &Value, text: &mut String) -> anyhow::Result<()> {
    for node in nodes {
        match node {
            Node::Text(plain) => text.push_str(plain),
            Node::Print(pipe) => text.push_str(&printed(&evaluate(pipe, value)?)),
            Node::If(pipe, body, otherwise) => {
                let branch = if is_true(&evaluate(pipe, value)?) { body } else { otherwise };
                render(branch, value, text)?;
            }
            Node::Range(pipe, body, otherwise) => {
                let items: Vec<Value> = match evaluate(pipe, value)? {
                    Value::Array(items) => items,
                    Value::Object(map) => map.into_values().collect(),
                    Value::Null => Vec::new(),
                    other => bail!("--format: range: `{}` is no list", printed(&other)),
                };
                if items.is_empty() {
                    render(otherwise, value, text)?;
                }
                items.iter().try_for_each(|item| render(body, item, text))?;
            }
        }
    }
    Ok(())
}

fn evaluate(pipe: &Pipe, value: &Value) -> anyhow::Result<Value> {
    let mut result: Option<Value> = None;
    for call in pipe {
        let mut arguments = Vec::new();
        for term in call.iter().filter(|term| !matches!(term, Term::Function(_))) {
            arguments.push(match term {
                Term::Field(path) => field(value, path)?,
                Term::Literal(literal) => literal.clone(),
                Term::Function(_) => continue,
            });
        }
        arguments.extend(result.take());
        result = Some(match call.first() {
            Some(Term::Function(name)) => apply(name, &arguments)?,
            _ => arguments.pop().unwrap_or_default(),
        });
    }
    Ok(result.unwrap_or_default())
}

fn field(value: &Value, path: &[String]) -> anyhow::Result<Value> {
    let mut here = value;
    for name in path {
        here = match here {
            Value::Object(map) => map.get(name).with_context(|| {
                let names: Vec<&str> = map.keys().map(String::as_str).collect();
                format!("--format: `.{}`: no field `{name}`, there are {}", path.join("."), names.join(", "))
            })?,
            Value::Null => return Ok(Value::Null),
            _ => bail!("--format: `.{}`: nothing has a field `{name}` there", path.join(".")),
        };
    }
    Ok(here.clone())
}

fn apply(name: &str, arguments: &[Value]) -> anyhow::Result<Value> {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_else(|| printed(value));
    Ok(match (name, arguments) {
        ("json", [value]) => serde_json::to_string(value)?.into(),
        ("upper", [value]) => text(value).to_uppercase().into(),
        ("lower", [value]) => text(value).to_lowercase().into(),
        ("len", [value]) => match value {
            Value::Array(items) => items.len().into(),
            Value::Object(map) => map.len().into(),
            Value::String(text) => text.len().into(),
            Value::Null => 0.into(),
            other => bail!("--format: len: `{}` has no length", printed(other)),
        },
        ("join", [Value::Null, _]) => "".into(),
        ("join", [Value::Array(items), Value::String(between)]) => {
            items.iter().map(text).collect::<Vec<_>>().join(between).into()
        }
        ("index", [value, keys @ ..]) if !keys.is_empty() => {
            let step = |here: Value, key: &Value| match (&here, key) {
                (Value::Array(items), Value::Number(number)) => {
                    let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
                    let item = at.and_then(|at| items.get(at)).cloned();
                    item.with_context(|| format!("--format: index {number}: there are {}", items.len()))
                }
                (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or_else(|| "".into())),
                (Value::Null, _) => Ok(Value::Null),
                (_, key) => bail!("--format: index: nothing has a part {key} there"),
            };
            keys.iter().try_fold(value.clone(), step)?
        }
        _ => bail!("--format: {name}: {} arguments of these kinds are not what it takes", arguments.len()),
    })
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go prints a value.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => NO_VALUE.into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut text = String::from("map[");
            for (number, (key, value)) in map.iter().enumerate() {
                let space = if number == 0 { "" } else { " " };
                // Writing to a text cannot fail.
                let _ = write!(text, "{space}{key}:{}", printed(value));
            }
            text + "]"
        }
        other => other.to_string(),
    }
}

/// Prints `values` as a template says, or all of them as one JSON list.
pub(crate) fn write_documents(values: &[Value], format: Option<&Template>) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match format {
        Some(template) => {
            for value in values {
                writeln!(output, "{}", template.render(value)?)?;
            }
        }
        None => writeln!(output, "{}", serde_json::to_string_pretty(values)?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value() -> Value {
        json!({"Id": "sha256:1", "Size": 12, "Tags": ["a", "b"], "None": null, "Empty": [],
            "Config": {"Cmd": ["sh", "-c"], "Labels": {"x.y": "1"}, "User": ""}})
    }

    #[test]
    fn templates_print_as_docker_prints_them() {
        for (template, text) in [
            ("{{.Id}} has {{ .Size }}\\n", "sha256:1 has 12\n"),
            ("{{.Config.Cmd}}\\t{{.Config.Labels}}", "[sh -c]\tmap[x.y:1]"),
            ("{{json .Config.Cmd}}", r#"["sh","-c"]"#),
            ("{{.Tags | json}}", r#"["a","b"]"#),
            (r#"{{join .Tags ", "}} {{index .Config.Labels "x.y"}}{{index .Config.Labels "z"}}"#, "a, b 1"),
            ("{{index .Tags 1}} {{len .Tags}} {{upper .Id}} {{.Id | lower}}", "b 2 SHA256:1 sha256:1"),
            ("{{range .Tags}}<{{.}}>{{end}}{{range .Empty}}x{{else}}none{{end}}", "<a><b>none"),
            ("{{if .Config.User}}user{{else}}root{{end}}{{if .Size}}!{{end}}", "root!"),
            ("{{.None}} {{.None.Deeper}} {{len .None}}", "<no value> <no value> 0"),
            ("no braces", "no braces"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&value()).unwrap(), text, "{template}");
        }
        let whole = Template::parse("json").unwrap().render(&value()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), value());
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name() {
        for (template, part) in [
            ("{{.Id", "expected `}}` behind it"),
            ("{{printf \"%s\" .Id}}", "`printf`: expected a field as in `.Name`, or one of index, join"),
            ("{{}}", "expected a field"),
            ("{{.a..b}}", "`.a..b`"),
            ("{{.Id .Size}}", "expected a field"),
            ("{{range .Tags}}x", "`{{range .Tags}}`: expected `{{end}}`"),
            ("x{{end}}", "`{{end}}` without"),
            ("{{else}}", "`{{else}}` without"),
            ("{{$x := .Id}}", "`$x`"),
            ("{{join .Tags \"}}", "in quotes"),
            ("{{.Nope}}", "no field `Nope`, there are Config, Empty, Id"),
            ("{{.Id.x}}", "nothing has a field `x`"),
            ("{{index .Tags 7}}", "there are 2"),
            ("{{join .Id .Id}}", "join: 2 arguments"),
            ("{{len .Size}}", "has no length"),
            ("{{range .Id}}x{{end}}", "is no list"),
        ] {
            let error = Template::parse(template).and_then(|template| template.render(&value())).expect_err(template);
            let line = format!("{error:#}");
            assert!(line.starts_with("--format: ") && line.contains(part), "{template}: {line}");
        }
        let deep = "{{if .}}".repeat(DEPTH_MAX + 2);
        assert!(Template::parse(&deep).unwrap_err().to_string().contains("deep"));
    }

    #[test]
    fn a_table_has_its_header() {
        let format = ListFormat::parse("table {{.ID}}\\t{{.Tag}}").unwrap();
        let (header, rows) = (json!({"ID": "IMAGE ID", "Tag": "TAG"}), [json!({"ID": "1", "Tag": "latest"})]);
        let mut output = Vec::new();
        format.write(&mut output, &header, &rows).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "IMAGE ID   TAG\n1          latest\n");
    }
}
