//! `wharf get`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use futures_util::AsyncBufReadExt;
use futures_util::StreamExt;
use serde_json::{Value, json};
use wharf_supervisor::api::kinds::{Kind, pod::items, text};

use crate::client::{Client, encoded, path};
use crate::resource::{selection, shown};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    objects: crate::resource::ObjectArguments,
    /// Form of the output
    #[arg(short, long)]
    output: Option<Output>,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
    /// Go on with the changes
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
    Json,
    Yaml,
    Name,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let selection = selection(&arguments.objects.what)?;
    if arguments.watch {
        return watch(client, &arguments, &selection).await;
    }
    match arguments.output {
        None | Some(Output::Wide) => print_tables(client, &arguments, &selection).await?,
        Some(Output::Name) => {
            for (kind, object) in objects(client, &arguments, &selection).await? {
                writeln!(io::stdout(), "{}", shown(kind, text(&object, "/metadata/name")))?;
            }
        }
        Some(output) => {
            let mut found: Vec<Value> =
                objects(client, &arguments, &selection).await?.into_iter().map(|(_, object)| object).collect();
            let one = selection.len() == 1 && selection[0].1.is_some();
            let whole = if one { found.remove(0) } else { json!({"apiVersion": "v1", "kind": "List", "items": found}) };
            let text = match output {
                Output::Json => serde_json::to_string_pretty(&whole)? + "\n",
                _ => serde_yaml_ng::to_string(&whole)?,
            };
            io::stdout().write_all(text.as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Path of a selection's objects, with the query that narrows it.
fn query_path(arguments: &Arguments, kind: &Kind, name: Option<&str>) -> anyhow::Result<String> {
    let namespace = arguments.objects.namespace();
    if arguments.objects.all_namespaces && name.is_some() {
        bail!("a name and --all-namespaces do not go together");
    }
    let path = path(kind, namespace, name)?;
    Ok(match &arguments.objects.selector {
        Some(_) if name.is_some() => bail!("a name and a selector do not go together"),
        Some(selector) => format!("{path}?labelSelector={}", encoded(selector)),
        None => path,
    })
}

async fn objects(
    client: &Client,
    arguments: &Arguments,
    selection: &[(&'static Kind, Option<String>)],
) -> anyhow::Result<Vec<(&'static Kind, Value)>> {
    let mut found = Vec::new();
    for (kind, name) in selection {
        let answer = client.get(&query_path(arguments, kind, name.as_deref())?).await?;
        match answer.get("items") {
            Some(Value::Array(items)) => found.extend(items.iter().map(|item| (*kind, item.clone()))),
            _ => found.push((*kind, answer)),
        }
    }
    Ok(found)
}

async fn print_tables(
    client: &Client,
    arguments: &Arguments,
    selection: &[(&'static Kind, Option<String>)],
) -> anyhow::Result<()> {
    let mut printed = 0;
    // Objects of one kind that were named one by one stand in one table.
    for group in selection.chunk_by(|a, b| std::ptr::eq(a.0, b.0)) {
        let mut whole: Option<Value> = None;
        for (kind, name) in group {
            let table = client.table(&query_path(arguments, kind, name.as_deref())?).await?;
            match &mut whole {
                None => whole = Some(table),
                Some(whole) => {
                    if let Some(rows) = whole["rows"].as_array_mut() {
                        rows.extend(items(&table, "rows").iter().cloned());
                    }
                }
            }
        }
        let Some(table) = whole else { continue };
        if items(&table, "rows").is_empty() {
            continue;
        }
        if printed > 0 {
            writeln!(io::stdout())?;
        }
        print_table(&table, arguments, !arguments.no_headers)?;
        printed += 1;
    }
    if printed == 0 {
        match arguments.objects.all_namespaces {
            true => eprintln!("No resources found"),
            false => eprintln!("No resources found in {} namespace.", arguments.objects.namespace.namespace),
        }
    }
    Ok(())
}

/// Prints a `meta.k8s.io` Table in columns that fit their contents.
fn print_table(table: &Value, arguments: &Arguments, header: bool) -> io::Result<()> {
    let wide = arguments.output == Some(Output::Wide);
    let definitions = items(table, "columnDefinitions");
    let shown: Vec<usize> =
        (0..definitions.len()).filter(|&index| wide || definitions[index]["priority"].as_i64() == Some(0)).collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    if header {
        let mut names: Vec<String> =
            shown.iter().map(|&index| text(&definitions[index], "/name").to_uppercase()).collect();
        if arguments.objects.all_namespaces {
            names.insert(0, "NAMESPACE".into());
        }
        lines.push(names);
    }
    for row in items(table, "rows") {
        let cell = |index: usize| match &row["cells"][index] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut cells: Vec<String> = shown.iter().map(|&index| cell(index)).collect();
        if arguments.objects.all_namespaces {
            cells.insert(0, text(row, "/object/metadata/namespace").into());
        }
        lines.push(cells);
    }
    write_columns(&mut io::stdout().lock(), &lines)
}

/// Lines of cells, each column as wide as its widest cell and three spaces apart.
pub(crate) fn write_columns(output: &mut impl Write, lines: &[Vec<String>]) -> io::Result<()> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text += &format!("{cell:<width$}   ");
        }
        writeln!(output, "{}", text.trim_end())?;
    }
    Ok(())
}

async fn watch(
    client: &Client,
    arguments: &Arguments,
    selection: &[(&'static Kind, Option<String>)],
) -> anyhow::Result<ExitCode> {
    let [(kind, name)] = selection else { bail!("--watch follows one kind or one object") };
    let tables = matches!(arguments.output, None | Some(Output::Wide));
    let mut watched = query_path(arguments, kind, None)?;
    let separator = if watched.contains('?') { '&' } else { '?' };
    watched += &format!("{separator}watch=true");
    if let Some(name) = name {
        watched += &format!("&fieldSelector={}", encoded(&format!("metadata.name={name}")));
    }
    let mut lines = client.lines(&watched, tables).await?.lines();
    let mut header = !arguments.no_headers;
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let object = &event["object"];
        match (text(&event, "/type"), arguments.output) {
            ("ERROR", _) => bail!("{}", text(object, "/message")),
            ("BOOKMARK", _) => {}
            (_, None | Some(Output::Wide)) => {
                print_table(object, arguments, header)?;
                header = false;
            }
            (_, Some(Output::Name)) => writeln!(io::stdout(), "{}", shown(kind, text(object, "/metadata/name")))?,
            (_, Some(Output::Json)) => writeln!(io::stdout(), "{object}")?,
            (_, Some(Output::Yaml)) => writeln!(io::stdout(), "---\n{}", serde_yaml_ng::to_string(object)?)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines: Vec<Vec<String>> = [["NAME", "AGE"], ["a-long-name", "5s"]]
            .iter()
            .map(|line| line.iter().map(|cell| (*cell).to_owned()).collect())
            .collect();
        let mut output = Vec::new();
        write_columns(&mut output, &lines).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "NAME          AGE\na-long-name   5s\n");
    }
}
