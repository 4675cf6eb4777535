//! Paths of the API that are no resource's: what there is, whether the daemon is well, its own figures.

use serde_json::Value;

use crate::api_requests::{Answer, request};
use crate::kube_doors::start;
use crate::kubectl_objects::{outcome, said};
use crate::replicas::assert_nothing_left;
use crate::rights::{Asker, has_curl};
use crate::testnode::{self, TestNode};

fn page(node: &TestNode, path: &str) -> Answer {
    request(node, "GET", path, &[], b"")
}

/// The samples of a name, without it.
fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.filter(|rest| rest.starts_with(['{', ' '])).collect()
}

#[tokio::test]
async fn a_daemon_says_what_it_serves_and_that_it_is_well() {
    let Some(mut node) = testnode::start("apipaths").await else { return };
    let paths = page(&node, "/");
    assert_eq!(paths.code, 200);
    let paths: Vec<&str> = paths.body["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert!(paths.is_sorted() && paths.contains(&"/apis/apps/v1") && paths.contains(&"/readyz/etcd"), "{paths:?}");
    // Whatever is named is there.
    for path in &paths {
        assert_eq!(page(&node, path).code, 200, "{path}");
    }
    for path in ["healthz", "livez", "readyz"] {
        let plain = page(&node, &format!("/{path}"));
        assert_eq!((plain.code, plain.text.as_str()), (200, "ok"));
        assert!(plain.headers.contains("content-type: text/plain; charset=utf-8"), "{}", plain.headers);
        let verbose = page(&node, &format!("/{path}?verbose"));
        assert_eq!(verbose.text, format!("[+]ping ok\n[+]etcd ok\n[+]pods ok\n{path} check passed\n"));
    }
    let left_out = page(&node, "/readyz?verbose=1&exclude=etcd&exclude=none&exclude=pods&exclude=%22%0a[-]ping");
    let expected = "[+]ping ok\n[+]etcd excluded: ok\n[+]pods excluded: ok\n\
                    warn: some health checks cannot be excluded: no matches for \"none\", \"\\\"\\n[-]ping\"\n\
                    readyz check passed\n";
    assert_eq!((left_out.code, left_out.text.as_str()), (200, expected));
    for path in ["/readyz/none", "/readyz/ping/x", "/healthz/..", "/metrics/x"] {
        let missing = page(&node, path);
        assert_eq!((missing.code, missing.body["reason"].as_str()), (404, Some("NotFound")), "{path}");
    }
    assert_eq!(request(&node, "POST", "/metrics", &[], b"").code, 405);
    assert_eq!(request(&node, "POST", "/", &[], b"").code, 405);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn requests_watches_and_objects_are_counted() {
    let Some(mut node) = testnode::start("apimetrics").await else { return };
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = request(&node, "POST", maps, &["Content-Type: application/json"], br#"{"metadata":{"name":"a"}}"#);
    assert_eq!(made.code, 201);
    for index in 0..50 {
        assert_eq!(page(&node, &format!("{maps}/none{index}")).code, 404);
        assert_eq!(page(&node, &format!("/api/v1/nothings{index}")).code, 404);
    }
    let first = page(&node, "/metrics");
    assert!(first.headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", first.headers);
    let requests = samples(&first.text, "apiserver_request_total");
    let of = |resource: &str| {
        let resource = format!("resource=\"{resource}\"");
        requests.iter().filter(|sample| sample.contains(&resource)).copied().collect::<Vec<_>>()
    };
    let missing = "{code=\"404\",group=\"\",resource=\"configmaps\",subresource=\"\",verb=\"GET\",version=\"v1\"} 50";
    assert!(of("configmaps").contains(&missing), "{requests:#?}");
    // What is not served is counted, and has no name: nobody makes the page longer by asking.
    assert!(of("").iter().any(|sample| sample.contains("code=\"404\"") && sample.ends_with(" 50")), "{requests:#?}");
    assert!(!first.text.contains("none1") && !first.text.contains("nothings"), "{}", first.text);
    let stored = samples(&first.text, "apiserver_storage_objects");
    assert!(stored.contains(&"{resource=\"configmaps\"} 1"), "{stored:#?}");
    assert!(stored.contains(&"{resource=\"nodes\"} 1"), "{stored:#?}");
    let buckets = samples(&first.text, "apiserver_request_duration_seconds_bucket");
    let own: Vec<_> = buckets.iter().filter(|b| b.contains("\"configmaps\"") && b.contains("verb=\"GET\"")).collect();
    assert!(own.last().is_some_and(|last| last.contains("le=\"+Inf\"} 50")), "{own:#?}");
    for name in ["process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds"] {
        let found = samples(&first.text, name);
        assert!(found.len() == 1 && found[0].trim().parse::<f64>().unwrap() > 0.0, "{name}: {found:?}");
    }
    assert_eq!(samples(&first.text, "kubernetes_build_info").len(), 1);

    // A watch counts while it is open.
    let watches = |node: &TestNode| {
        let text = page(node, "/metrics").text;
        let found = samples(&text, "apiserver_longrunning_requests");
        found.iter().find(|sample| sample.contains("\"configmaps\"")).map(|sample| sample.ends_with(" 1"))
    };
    assert_eq!(watches(&node), None);
    let mut stream = std::os::unix::net::UnixStream::connect(node.path("run/api.sock")).unwrap();
    let head = format!("GET {maps}?watch=true HTTP/1.1\r\nHost: x\r\n\r\n");
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    testnode::wait_for("the watch", crate::replicas::LIMIT, || watches(&node) == Some(true));
    drop(stream);
    testnode::wait_for("its end", crate::replicas::LIMIT, || watches(&node) == Some(false));
    // Every line is one that Prometheus reads.
    for line in page(&node, "/metrics").text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && !name.is_empty(), "{line}");
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn figures_are_for_those_who_may_ask_for_them() {
    if !has_curl("figures_are_for_those_who_may_ask_for_them") {
        return;
    }
    let Some(node) = start("apimonitor").await else { return };
    let bob = Asker::named(&node, "bob", &["staff"]);
    let monitor = Asker::named(&node, "monitor", &["system:monitoring"]);
    for (path, anybody, monitoring) in [
        ("/readyz", 200, 200),
        ("/readyz?verbose", 200, 200),
        ("/readyz/etcd", 403, 200),
        ("/metrics", 403, 200),
        ("//metrics/", 403, 200),
        ("/%6detrics", 403, 200),
        ("/", 403, 403),
        ("/api/v1/nodes", 403, 403),
    ] {
        let codes = (bob.code("GET", path, &Value::Null), monitor.code("GET", path, &Value::Null));
        assert_eq!(codes, (anybody, monitoring), "{path}");
    }
    assert_eq!(bob.get("/metrics").1["message"], "forbidden: User \"bob\" cannot get path \"/metrics\"");
    assert_nothing_left(node);
}

#[tokio::test]
async fn kubectl_asks_for_paths() {
    let Some((mut node, kubectl)) = crate::kubectl_objects::start("kubectl_asks_for_paths", "kuberaw").await else {
        return;
    };
    let none = Value::Null;
    assert_eq!(said(&kubectl, &["get", "--raw", "/readyz/ping"], &none), "ok");
    assert!(said(&kubectl, &["get", "--raw", "/livez?verbose"], &none).ends_with("livez check passed\n"));
    assert!(said(&kubectl, &["get", "--raw", "/"], &none).contains("/apis/apps/v1"));
    assert!(said(&kubectl, &["get", "--raw", "/metrics"], &none).contains("apiserver_request_total{"));
    let (code, _, error) = outcome(&kubectl, &["get", "--raw", "/readyz/none"], &none);
    assert!(code == 1 && error.contains("the server could not find the requested resource"), "{error}");
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
