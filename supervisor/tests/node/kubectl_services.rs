//! The stock kubectl on Services: made, shown, described, refused.

use serde_json::{Value, json};

use crate::kubectl_objects::{get, outcome, said, start};
use crate::replicas::{LIMIT, wait_ready};
use crate::testnode::{IMAGE, wait_for};

#[tokio::test]
async fn kubectl_exposes_and_describes_services() {
    let Some((mut node, kubectl)) = start("kubectl_exposes_and_describes_services", "kubesvc").await else { return };
    let none = Value::Null;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "1000"], "ports": [{"containerPort": 8080}]}]}});
    said(&kubectl, &["apply", "-f", "-"], &pod);
    said(&kubectl, &["expose", "pod", "web", "--port", "80", "--target-port", "8080", "--type", "NodePort"], &none);
    said(&kubectl, &["create", "service", "clusterip", "quiet", "--clusterip=None", "--tcp=5432"], &none);
    said(&kubectl, &["create", "service", "externalname", "outer", "--external-name", "outer.test"], &none);
    said(&kubectl, &["create", "service", "loadbalancer", "wide", "--tcp=443:8443"], &none);
    let address = wait_ready(&node, 1)[0]["status"]["podIP"].as_str().unwrap().to_owned();
    let service = get(&kubectl, "service/web");
    let (ip, port) = (service["spec"]["clusterIP"].as_str().unwrap(), &service["spec"]["ports"][0]["nodePort"]);
    let shown = said(&kubectl, &["get", "services", "-o", "wide"], &none);
    let words = |name: &str| -> Vec<String> {
        let line = shown.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {shown}"));
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        [&words[1..5], &words[6..]].concat()
    };
    assert_eq!(words("web"), ["NodePort", ip, "<none>", &format!("80:{port}/TCP"), "app=web"]);
    assert_eq!(words("quiet"), ["ClusterIP", "None", "<none>", "5432/TCP", "app=quiet"]);
    assert_eq!(words("outer"), ["ExternalName", "<none>", "outer.test", "<none>", "app=outer"]);
    assert_eq!(words("wide")[2], "<pending>");
    wait_for("the endpoint", LIMIT, || {
        let slices = said(&kubectl, &["get", "endpointslices", "--no-headers"], &none);
        let slices: Vec<Vec<&str>> = slices.lines().map(|line| line.split_whitespace().collect()).collect();
        slices.iter().any(|words| words[0].starts_with("web-") && words[1..4] == ["IPv4", "8080", address.as_str()])
    });
    let described = said(&kubectl, &["describe", "service", "web"], &none);
    for words in [format!("{address}:8080"), format!("NodePort:                 <unset>  {port}/TCP"), "app=web".into()]
    {
        assert!(described.contains(&words), "{words}: {described}");
    }
    let slice = said(&kubectl, &["describe", "endpointslices", "-l", "kubernetes.io/service-name=web"], &none);
    assert!(slice.contains("Ready:    true") && slice.contains("Pod/web"), "{slice}");

    // What is refused is refused in Kubernetes' words.
    let taken = format!("--clusterip={ip}");
    for (arguments, words) in [
        (vec!["create", "service", "clusterip", "other", "--tcp=80", &taken], "provided IP is already allocated"),
        (
            vec!["create", "service", "nodeport", "other", "--tcp=80", "--node-port=80"],
            "provided port is not in the valid range",
        ),
        (vec!["create", "service", "clusterip", "1other", "--tcp=80"], "a DNS-1035 label must consist of"),
    ] {
        let (code, _, error) = outcome(&kubectl, &arguments, &none);
        assert!(code == 1 && error.contains(words), "{arguments:?}: {error}");
    }
    let change = r#"{"spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"]}}"#;
    let (code, _, error) = outcome(&kubectl, &["patch", "service", "web", "-p", change], &none);
    assert!(code == 1 && error.contains("may not change once set"), "{error}");
    // A change of one port leaves the others, by strategic merge patch.
    let change = r#"{"spec":{"ports":[{"port":81,"name":"more"},{"port":80,"name":"first"}]}}"#;
    said(&kubectl, &["patch", "service", "web", "-p", change], &none);
    let ports = get(&kubectl, "service/web")["spec"]["ports"].clone();
    assert_eq!(ports.as_array().unwrap().len(), 2, "{ports}");
    assert!(ports.as_array().unwrap().iter().any(|found| found["nodePort"] == *port), "{ports}");
    said(&kubectl, &["delete", "services,pods", "--all", "--wait"], &none);
    wait_ready(&node, 0);
    wait_for("no slices", LIMIT, || said(&kubectl, &["get", "endpointslices", "-o", "name"], &none).is_empty());
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
