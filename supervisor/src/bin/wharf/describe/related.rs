//! Objects that belong to the one that is described.

use serde_json::Value;
use wharf_supervisor::api::kinds::pod::items;
use wharf_supervisor::api::kinds::volume_fields::uses_claim;
use wharf_supervisor::api::kinds::{Kind, endpoint_slice, integer, pod, replica_set, text};
use wharf_supervisor::api::quantity;

use super::page::{Page, value_text};
use crate::client::{Client, encoded, path};

pub(super) async fn related(page: &mut Page, client: &Client, kind: &Kind, object: &Value) -> anyhow::Result<()> {
    let namespace = Some(text(object, "/metadata/namespace"));
    match kind.kind {
        "Deployment" => replica_sets(page, object, &client.get(&path(&replica_set::KIND, namespace, None)?).await?),
        "Service" => {
            let label = format!("kubernetes.io/service-name={}", text(object, "/metadata/name"));
            let slices = format!("{}?labelSelector={}", path(&endpoint_slice::KIND, namespace, None)?, encoded(&label));
            endpoints(page, &client.get(&slices).await?);
        }
        "PersistentVolumeClaim" => users(page, object, &client.get(&path(&pod::KIND, namespace, None)?).await?),
        "Node" => pods(page, object, &client.get(&path(&pod::KIND, None, None)?).await?),
        _ => {}
    }
    Ok(())
}

fn replica_sets(page: &mut Page, deployment: &Value, list: &Value) {
    let uid = &deployment["metadata"]["uid"];
    let owned = |set: &&Value| items(&set["metadata"], "ownerReferences").iter().any(|owner| owner["uid"] == *uid);
    let mut sets: Vec<&Value> = items(list, "items").iter().filter(owned).collect();
    let revision = |set: &Value| value_text(&set["metadata"]["annotations"]["deployment.kubernetes.io/revision"]);
    sets.sort_by_key(|set| revision(set).parse::<u64>().unwrap_or(0));
    let row = |set: &&Value| {
        let images = items(&set["spec"]["template"]["spec"], "containers").iter().map(|own| text(own, "/image"));
        let replicas = format!("{}/{}", integer(set, "/status/readyReplicas"), integer(set, "/spec/replicas"));
        let images = images.collect::<Vec<_>>().join(", ");
        vec![text(set, "/metadata/name").to_owned(), revision(set), replicas, images]
    };
    page.table("Replica Sets", &["Name", "Revision", "Ready", "Images"], sets.iter().map(row).collect());
}

fn endpoints(page: &mut Page, slices: &Value) {
    let mut rows = Vec::new();
    for slice in items(slices, "items") {
        let ports =
            items(slice, "ports").iter().map(|port| format!("{}/{}", integer(port, "/port"), text(port, "/protocol")));
        let ports = ports.collect::<Vec<_>>().join(", ");
        for endpoint in items(slice, "endpoints") {
            let ready = value_text(&endpoint["conditions"]["ready"]);
            let address = value_text(&endpoint["addresses"]);
            rows.push(vec![address, ports.clone(), ready, text(endpoint, "/targetRef/name").to_owned()]);
        }
    }
    page.table("Endpoints", &["Address", "Ports", "Ready", "Pod"], rows);
}

fn users(page: &mut Page, claim: &Value, pods: &Value) {
    let users = items(pods, "items").iter().filter(|pod| uses_claim(pod, text(claim, "/metadata/name")));
    page.lines("Used By", users.map(|pod| text(pod, "/metadata/name")));
}

/// A resource that pods ask for: its name, how its quantities are read, and their unit.
type Resource = (&'static str, fn(&str) -> Option<i64>, &'static str);

const RESOURCES: [Resource; 2] = [("cpu", quantity::milli, "m"), ("memory", mebibytes, "Mi")];

/// Rounded up.
fn mebibytes(text: &str) -> Option<i64> {
    quantity::parse(text).map(|bytes| (bytes / f64::from(1 << 20)).ceil() as i64)
}

/// The pods of a node that have not ended, and what they ask for together.
fn pods(page: &mut Page, node: &Value, list: &Value) {
    let on_node = |pod: &&Value| {
        let has_ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
        pod["spec"]["nodeName"] == node["metadata"]["name"] && !has_ended
    };
    let pods: Vec<&Value> = items(list, "items").iter().filter(on_node).collect();
    let columns = RESOURCES.iter().flat_map(|resource| ["requests", "limits"].map(|side| (side, resource)));
    let columns: Vec<_> = columns.collect();
    let sum = |pod: &Value, side: &str, (resource, parse, _): &Resource| -> i64 {
        let containers = items(&pod["spec"], "containers").iter();
        containers.filter_map(|own| parse(&value_text(&own["resources"][side][*resource]))).sum()
    };
    let row = |pod: &&Value| {
        let mut row = vec![text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned()];
        row.extend(columns.iter().map(|(side, resource)| format!("{}{}", sum(pod, side, resource), resource.2)));
        row
    };
    let mut rows: Vec<Vec<String>> = pods.iter().map(row).collect();
    let mut total = vec![String::new(), format!("{} pods", pods.len())];
    total.extend(columns.iter().map(|(side, resource)| {
        let all: i64 = pods.iter().map(|pod| sum(pod, side, resource)).sum();
        format!("{all}{}", resource.2)
    }));
    rows.push(total);
    let titles = ["Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits"];
    page.table("Pods", &titles, rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_adds_up_what_its_pods_ask_for() {
        let pod = |name: &str, phase: &str| {
            json!({"metadata": {"namespace": "a", "name": name}, "status": {"phase": phase}, "spec": {"nodeName": "n",
                "containers": [{"resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}},
                    {"resources": {"limits": {"cpu": 1}}}]}})
        };
        let list = json!({"items": [pod("one", "Running"), pod("two", "Pending"), pod("done", "Succeeded")]});
        let mut page = Page::default();
        pods(&mut page, &json!({"metadata": {"name": "n"}}), &list);
        let text = page.text();
        assert!(text.contains("  a           one      250m           1000m        64Mi              0Mi\n"), "{text}");
        assert!(text.ends_with("2 pods   500m           2000m        128Mi             0Mi\n"), "{text}");
    }

    #[test]
    fn versions_of_a_deployment_stand_in_their_order() {
        let set = |name: &str, uid: &str, revision: &str| {
            json!({"metadata": {"name": name, "ownerReferences": [{"uid": uid}],
                    "annotations": {"deployment.kubernetes.io/revision": revision}},
                "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": "i:1"}]}}}})
        };
        let list = json!({"items": [set("b", "u", "10"), set("a", "u", "9"), set("c", "other", "1")]});
        let mut page = Page::default();
        replica_sets(&mut page, &json!({"metadata": {"uid": "u"}}), &list);
        let names: Vec<String> = page.text().lines().skip(2).map(|line| line.trim()[..1].to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
