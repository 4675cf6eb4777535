//! `wharf top`: what is used right now, by `metrics.k8s.io`.

use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::Value;
use wharf_supervisor::api::kinds::{pod::items, text};
use wharf_supervisor::api::metrics::sum;
use wharf_supervisor::api::quantity;

use crate::client::{Client, encoded};
use crate::get::write_columns;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Whose figures
    #[arg(value_enum, default_value = "pods")]
    what: What,
    #[command(flatten)]
    namespace: crate::Namespace,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only pods whose labels match, as in app=web
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    #[value(aliases = ["pod", "po"])]
    Pods,
    #[value(aliases = ["nodes", "no"])]
    Node,
}

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";
const BYTES_PER_MIB: i64 = 1 << 20;

pub(crate) async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut path = match (arguments.what, arguments.all_namespaces) {
        (What::Node, _) => format!("{GROUP}/nodes"),
        (What::Pods, true) => format!("{GROUP}/pods"),
        (What::Pods, false) => format!("{GROUP}/namespaces/{}/pods", encoded(&arguments.namespace.namespace)),
    };
    if let Some(selector) = &arguments.selector {
        path += &format!("?labelSelector={}", encoded(selector));
    }
    let list = client.get(&path).await?;
    let mut lines = vec![["NAME", "CPU(cores)", "MEMORY(bytes)"].map(str::to_owned).to_vec()];
    lines.extend(items(&list, "items").iter().map(line));
    if arguments.all_namespaces {
        lines[0].insert(0, "NAMESPACE".into());
        for (line, item) in lines[1..].iter_mut().zip(items(&list, "items")) {
            line.insert(0, text(item, "/metadata/namespace").into());
        }
    }
    if lines.len() == 1 {
        eprintln!("No figures found");
        return Ok(ExitCode::SUCCESS);
    }
    write_columns(&mut std::io::stdout().lock(), &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn line(item: &Value) -> Vec<String> {
    let (millicores, bytes) = (sum(item, "cpu", quantity::milli), sum(item, "memory", quantity::whole));
    let mebibytes = (bytes + BYTES_PER_MIB - 1) / BYTES_PER_MIB;
    vec![text(item, "/metadata/name").into(), format!("{millicores}m"), format!("{mebibytes}Mi")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let usage = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        let item = json!({"metadata": {"name": "web"}, "containers": [usage("1500000n", "1Mi"), usage("2m", "512Ki")]});
        assert_eq!(line(&item), ["web", "4m", "2Mi"]);
    }
}
