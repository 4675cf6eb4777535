//! `wharf describe`: all of an object on one page for people, what belongs to it, and its events.
//!
//! | file | job |
//! |---|---|
//! | `page.rs` | fields, parts and tables of a page; any object as one |
//! | `summary.rs`, `pod.rs` | what is worth knowing of each kind |
//! | `related.rs` | other objects that belong to it |

mod page;
mod pod;
mod related;
mod summary;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;
use wharf_supervisor::api::kinds::pod::items;
use wharf_supervisor::api::kinds::{Kind, event, integer, text};
use wharf_supervisor::api::table::age;

use crate::client::{Client, encoded, path};
use crate::resource::selection;
use page::Page;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    objects: crate::resource::ObjectArguments,
    /// With what happened to the object lately
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    show_events: bool,
}

/// What kubectl keeps in an object for itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let namespace = arguments.objects.namespace();
    let mut printed = 0;
    for (kind, name) in selection(&arguments.objects.what)? {
        let mut path = path(kind, namespace, name.as_deref())?;
        match (&name, &arguments.objects.selector) {
            (Some(_), Some(_)) => bail!("a name and a selector do not go together"),
            (Some(_), None) if arguments.objects.all_namespaces => {
                bail!("a name and --all-namespaces do not go together")
            }
            (None, Some(selector)) => path += &format!("?labelSelector={}", encoded(selector)),
            _ => {}
        }
        let answer = client.get(&path).await?;
        for object in if name.is_some() { std::slice::from_ref(&answer) } else { items(&answer, "items") } {
            let mut text = if printed > 0 { "\n\n".to_owned() } else { String::new() };
            text += &describe(client, kind, object, arguments.show_events).await?.text();
            io::stdout().write_all(text.as_bytes())?;
            printed += 1;
        }
    }
    if printed == 0 {
        eprintln!("No resources found");
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe(client: &Client, kind: &Kind, object: &Value, with_events: bool) -> anyhow::Result<Page> {
    let mut page = Page::default();
    metadata(&mut page, object);
    summary::summary(&mut page, kind, object);
    related::related(&mut page, client, kind, object).await?;
    if with_events && kind.kind != event::KIND.kind {
        events(&mut page, client, kind, object).await?;
    }
    Ok(page)
}

fn metadata(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    page.fields(metadata, &[("Name", "/name"), ("Namespace", "/namespace")]);
    page.map("Labels", &metadata["labels"]);
    let mut annotations = metadata["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    page.map("Annotations", &annotations);
    page.fields(metadata, &[("Created", "/creationTimestamp"), ("Ends Since", "/deletionTimestamp")]);
    let owners = items(metadata, "ownerReferences").iter();
    let owners = owners.map(|owner| format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    page.field("Owned By", owners.collect::<Vec<_>>().join(", "));
    page.fields(metadata, &[("Finalizers", "/finalizers")]);
}

/// What happened to it lately, the latest last.
async fn events(page: &mut Page, client: &Client, kind: &Kind, object: &Value) -> anyhow::Result<()> {
    let metadata = &object["metadata"];
    let namespace = Some(text(metadata, "/namespace")).filter(|namespace| !namespace.is_empty());
    let fields = format!("involvedObject.kind={},involvedObject.name={}", kind.kind, text(metadata, "/name"));
    let list =
        client.get(&format!("{}?fieldSelector={}", path(&event::KIND, namespace, None)?, encoded(&fields))).await?;
    // Not those of another object that had the name before; whoever tells of the node knows it by name alone.
    let is_meant = |event: &&Value| {
        let uid = text(event, "/involvedObject/uid");
        uid.is_empty() || uid == text(metadata, "/uid") || uid == text(metadata, "/name")
    };
    let mut events: Vec<&Value> = items(&list, "items").iter().filter(is_meant).collect();
    events.sort_by(|one, other| event::last_seen(one).cmp(event::last_seen(other)));
    let row = |event: &&Value| {
        let count = integer(event, "/count");
        let times = if count > 1 {
            format!("{} ({count} times)", age(event::last_seen(event)))
        } else {
            age(event::last_seen(event))
        };
        let cell = |pointer: &str| text(event, pointer).trim().to_owned();
        vec![cell("/type"), cell("/reason"), times, cell("/source/component"), cell("/message")]
    };
    page.table("Events", &["Type", "Reason", "Age", "From", "Message"], events.iter().map(row).collect());
    Ok(())
}
