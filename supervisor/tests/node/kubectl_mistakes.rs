//! What kubectl says of mistakes, and of what it is shown: kinds that are not served, labels of no form, wide rows.

use serde_json::{Value, json};

use crate::kubectl_objects::{get, outcome, said, start};
use crate::testnode::IMAGE;

#[tokio::test]
async fn kubectl_says_what_is_wrong_as_it_does_elsewhere() {
    const TEST: &str = "kubectl_says_what_is_wrong_as_it_does_elsewhere";
    let Some((mut node, kubectl)) = start(TEST, "kubewrong").await else { return };
    let none = Value::Null;
    let ingress =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {}});
    for (arguments, input, part) in [
        (&["apply", "-f", "-"][..], &ingress, "no matches for kind \"Ingress\" in version \"networking.k8s.io/v1\""),
        (&["create", "-f", "-", "--validate=strict"], &ingress, "no matches for kind \"Ingress\""),
        (&["get", "pods", "-l", "a===b"], &none, "unable to parse requirement: \"=b\" is no label's value"),
        (&["label", "namespace", "default", "bad key!=x"], &none, "metadata.labels: Invalid value: \"bad key!\""),
        (
            &["annotate", "namespace", "default", "bad key!=x"],
            &none,
            "metadata.annotations: Invalid value: \"bad key!\"",
        ),
        (
            &["create", "deployment", "d", "--image=none", "--replicas=-1"],
            &none,
            "Deployment.apps \"d\" is invalid: spec.replicas",
        ),
    ] {
        let (code, _, text) = outcome(&kubectl, arguments, input);
        assert!(code != 0 && text.contains(part), "{arguments:?}: {text}");
    }
    let image = format!("--image={IMAGE}");
    said(&kubectl, &["create", "deployment", "web", &image, "--replicas=0"], &none);
    let refused =
        outcome(&kubectl, &["patch", "deployment", "web", "-p", r#"{"spec":{"minReadySeconds":-1}}"#], &none).2;
    assert!(refused.contains("The Deployment \"web\" is invalid: spec.minReadySeconds"), "{refused}");
    let wide = said(&kubectl, &["get", "deployments,replicasets", "-o", "wide"], &none);
    assert!(wide.contains("CONTAINERS") && wide.contains("IMAGES") && wide.contains("SELECTOR"), "{wide}");
    assert_eq!(wide.matches(IMAGE).count(), 2, "{wide}");
    assert!(wide.contains("app=web,pod-template-hash="), "{wide}");

    // Parts of an object are rows, too.
    let scale = said(&kubectl, &["get", "deployment", "web", "--subresource=scale"], &none);
    assert!(scale.contains("DESIRED   AVAILABLE   AGE"), "{scale}");
    let status = said(&kubectl, &["get", "deployment", "web", "--subresource=status"], &none);
    assert!(status.contains("READY   UP-TO-DATE   AVAILABLE   AGE"), "{status}");

    // A second change of what has no status: it was shown one once it had been changed.
    said(&kubectl, &["create", "configmap", "m"], &none);
    for value in ["a=1", "a=2", "a=3"] {
        let text = said(&kubectl, &["label", "--overwrite", "configmap", "m", value], &none);
        assert!(!text.contains("unknown field"), "{text}");
    }
    // A pod that tolerates all goes to a cordoned node, as that of `debug node` does.
    let name = get(&kubectl, "nodes")["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    said(&kubectl, &["cordon", &name], &none);
    let debug = ["debug", &format!("node/{name}"), &image, "--profile=general", "--", "sh", "-c", "ls /host"];
    said(&kubectl, &debug, &none);
    said(&kubectl, &["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod", "--all", "--timeout=30s"], &none);
    said(&kubectl, &["uncordon", &name], &none);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": IMAGE}], "tolerations": [{"key": "a", "operator": "Some"}]}});
    let refused = outcome(&kubectl, &["apply", "-f", "-"], &pod).2;
    assert!(refused.contains("spec.tolerations[0].operator: Unsupported value: \"Some\""), "{refused}");

    said(&kubectl, &["delete", "pods", "--all"], &none);
    said(&kubectl, &["delete", "deployment/web", "configmap/m", "--cascade=foreground"], &none);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
