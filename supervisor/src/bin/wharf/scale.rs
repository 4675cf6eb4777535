//! `wharf scale`.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use crate::client::{Client, path};
use crate::resource::{selection, shown};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    /// How many shall run
    #[arg(long)]
    replicas: u32,
    #[command(flatten)]
    namespace: crate::Namespace,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    for (kind, name) in selection(&arguments.what)? {
        let Some(name) = name else { bail!("name what to scale, such as {}/NAME", kind.singular) };
        if !kind.subresources.contains(&"scale") {
            bail!("a {} has no replicas", kind.singular);
        }
        let path = path(kind, Some(&arguments.namespace.namespace), Some(&name))? + "/scale";
        client.merge(&path, &json!({"spec": {"replicas": arguments.replicas}})).await?;
        println!("{} scaled", shown(kind, &name));
    }
    Ok(ExitCode::SUCCESS)
}
