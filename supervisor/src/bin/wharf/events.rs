//! `wharf events`: what happened to objects, the latest last.

use std::process::ExitCode;

use anyhow::bail;
use futures_util::{AsyncBufReadExt, StreamExt};
use serde_json::Value;
use wharf_supervisor::api::kinds::{event, pod::items, text};
use wharf_supervisor::api::table::age;

use crate::client::{Client, encoded, path};
use crate::get::write_columns;
use crate::resource::selection;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    namespace: crate::Namespace,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only those about one object, as in pod/web
    #[arg(long = "for", value_name = "KIND/NAME")]
    about: Option<String>,
    /// Only those of one type: Normal or Warning
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Go on with what happens
    #[arg(short, long)]
    watch: bool,
}

/// Fields that events must have, as the API selects by them.
fn fields(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let mut fields = Vec::new();
    if let Some(about) = &arguments.about {
        let selected = selection(std::slice::from_ref(about))?;
        let [(kind, Some(name))] = selected.as_slice() else {
            bail!("--for {about:?}: name one object, as in pod/web")
        };
        fields.push(format!("involvedObject.kind={}", kind.kind));
        fields.push(format!("involvedObject.name={name}"));
    }
    if let Some(event_type) = &arguments.event_type {
        fields.push(format!("type={event_type}"));
    }
    Ok(fields)
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let namespace = Some(arguments.namespace.namespace.as_str()).filter(|_| !arguments.all_namespaces);
    let fields = encoded(&fields(&arguments)?.join(","));
    let collection = format!("{}?fieldSelector={fields}", path(&event::KIND, namespace, None)?);
    let list = client.get(&collection).await?;
    let mut events: Vec<&Value> = items(&list, "items").iter().collect();
    events.sort_by(|one, other| event::last_seen(one).cmp(event::last_seen(other)));
    if events.is_empty() && !arguments.watch {
        eprintln!("No events found");
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![header(arguments.all_namespaces)];
    lines.extend(events.into_iter().map(|event| line(event, arguments.all_namespaces)));
    write_columns(&mut std::io::stdout().lock(), &lines)?;
    if arguments.watch {
        let version = text(&list, "/metadata/resourceVersion");
        let watch = format!("{collection}&watch=true&resourceVersion={version}");
        let mut lines = client.lines(&watch, false).await?.lines();
        while let Some(told) = lines.next().await {
            let told: Value = serde_json::from_str(&told?)?;
            match text(&told, "/type") {
                "ERROR" => bail!("{}", text(&told, "/object/message")),
                "ADDED" | "MODIFIED" => {
                    let line = line(&told["object"], arguments.all_namespaces);
                    write_columns(&mut std::io::stdout().lock(), &[line])?;
                }
                _ => {}
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn header(with_namespace: bool) -> Vec<String> {
    let names = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    names[usize::from(!with_namespace)..].iter().map(|name| (*name).to_owned()).collect()
}

fn line(event: &Value, with_namespace: bool) -> Vec<String> {
    let object = format!("{}/{}", text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let count = event["count"].as_i64().filter(|count| *count > 1);
    let message = text(event, "/message").trim().replace('\n', " ");
    let mut cells = vec![
        age(event::last_seen(event)),
        text(event, "/type").to_owned(),
        text(event, "/reason").to_owned(),
        object,
        count.map_or_else(|| message.clone(), |count| format!("{message} ({count} times)")),
    ];
    if with_namespace {
        cells.insert(0, text(event, "/metadata/namespace").to_owned());
    }
    cells
}
