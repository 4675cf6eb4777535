//! Requests that go through the API to a pod. What answers in the pod's network is a thread of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::api_requests::{Answer, request};
use crate::replicas::{LIMIT, apply, container_id, wait_ready, wharf};
use crate::services::get;
use crate::testnode::{self, Client, IMAGE, TestNode, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Answers each request with its own head, or as its path says.
fn serve(listener: TcpListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        std::thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/redirect") {
        let (_, to) = path.split_once('?').unwrap();
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n"
        );
        return stream.write_all(answer.as_bytes());
    }
    if path == "/upgrade" {
        stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: shout\r\nX-Said: yes\r\n\r\n",
        )?;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        return stream.write_all(line.to_uppercase().as_bytes());
    }
    if path == "/garbage" {
        return stream.write_all(b"\0\0 nothing of HTTP\r\n\r\n");
    }
    if path == "/endless" {
        return stream.write_all(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20)).as_bytes());
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let text = format!("{head}{}", String::from_utf8_lossy(&body));
    stream.write_all(format!("HTTP/1.1 203 Mirror\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes())
}

fn page(node: &TestNode, path: &str) -> Answer {
    request(node, "GET", path, &[], b"")
}

/// A pod `web` with a port at which nobody answers yet, and a Service before it.
async fn pod_with_a_server(node: &TestNode) -> String {
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": IMAGE,
        "command": ["sleep", "1000"], "ports": [{"containerPort": 8080, "name": "http"}]}]});
    let metadata = json!({"name": "web", "labels": {"app": "web"}});
    apply(node, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    let ports =
        json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "idle", "port": 81, "targetPort": 9}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports}});
    apply(node, &service);
    let pod = wait_ready(node, 1).remove(0);
    let pid = Client::of(node).await.verbose_pid(&container_id(&pod)).await;
    let listener = node.inside_thread_of(pid, || TcpListener::bind("0.0.0.0:8080").unwrap());
    std::thread::spawn(move || serve(listener));
    wait_for("the endpoint", LIMIT, || page(node, &format!("{SERVICES}/web:http/proxy/")).code == 203);
    pod["status"]["podIP"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_go_on_to_the_pod_as_they_are() {
    let Some(mut node) = testnode::start("podproxy").await else { return };
    let address = pod_with_a_server(&node).await;
    let web = format!("{PODS}/web:8080/proxy");

    let path = format!("{web}/a%2Fb//../c%25?x=1&y=%20#");
    let path = path.trim_end_matches('#');
    let secrets = ["Authorization: Bearer abc", "X-Kept: 1", "Connection: X-Dropped", "X-Dropped: 1", "Cookie: a=b"];
    let seen = request(&node, "POST", path, &secrets, b"body");
    assert_eq!(seen.code, 203, "{}", seen.text);
    let text = seen.text.to_lowercase();
    assert!(seen.text.starts_with("POST /a%2Fb//../c%25?x=1&y=%20 HTTP/1.1\r\n"), "{}", seen.text);
    assert!(seen.text.ends_with("\r\n\r\nbody"), "{}", seen.text);
    for (words, there) in [
        ("x-kept: 1", true),
        ("cookie: a=b", true),
        ("host: x\r\n", true),
        (&*format!("x-forwarded-uri: {path}").to_lowercase(), true),
        ("abc", false),
        ("x-dropped", false),
        ("connection", false),
    ] {
        assert_eq!(text.contains(words), there, "{words}: {text}");
    }

    // Ports and schemes of pods and Services.
    for id in [format!("{PODS}/web"), format!("{PODS}/http:web:8080"), format!("{PODS}/:web:")]
        .into_iter()
        .chain(["web:80", "web:http", "http:web:http"].map(|id| format!("{SERVICES}/{id}")))
    {
        assert_eq!(page(&node, &format!("{id}/proxy/")).code, 203, "{id}");
    }
    for (path, code, words) in [
        (format!("{PODS}/none/proxy/"), 404, "pods \"none\" not found"),
        (format!("{SERVICES}/none/proxy/"), 404, "services \"none\" not found"),
        (format!("{PODS}/ftp:web:8080/proxy/"), 400, "invalid pod request \"ftp:web:8080\""),
        (format!("{PODS}/web:65536/proxy/"), 400, "invalid pod request"),
        (format!("{PODS}/web:http/proxy/"), 400, "invalid pod request"),
        (format!("{PODS}/web:0/proxy/"), 400, "invalid pod request"),
        (format!("{PODS}/web:81/proxy/"), 503, &*format!("dial tcp {address}:81: ")),
        (format!("{PODS}/https:web:8080/proxy/"), 503, "error trying to reach service"),
        (format!("{SERVICES}/web:82/proxy/"), 503, "no service port 82 found for service \"web\""),
        (format!("{SERVICES}/web:none/proxy/"), 503, "no endpoints available for service \"web\""),
        (format!("{SERVICES}/web:idle/proxy/"), 503, "error trying to reach service"),
        (format!("{web}/garbage"), 503, "error trying to reach service"),
        (format!("{web}/endless"), 503, "error trying to reach service"),
    ] {
        let answer = page(&node, &path);
        assert_eq!((answer.code, answer.body["kind"].as_str()), (code, Some("Status")), "{path}: {}", answer.text);
        assert!(answer.body["message"].as_str().unwrap().contains(words), "{path}: {}", answer.body);
    }
    assert_eq!(request(&node, "TRACE", &format!("{web}/"), &[], b"").code, 405);

    // Redirects are not followed; those within the pod stay with it.
    let located = |path: &str| {
        let answer = page(&node, path);
        let location = answer.headers.lines().find_map(|line| line.strip_prefix("location: ").map(str::to_owned));
        assert!(!answer.headers.contains("x-own"), "{}", answer.headers);
        (answer.code, location.unwrap_or_default())
    };
    assert_eq!(located(&web), (301, format!("{web}/")));
    assert_eq!(located(&format!("{web}?a=b")), (301, format!("{web}/?a=b")));
    assert_eq!(located(&format!("{web}/redirect?/in")), (302, format!("{web}/in")));
    for out in ["http://169.254.169.254/latest/", "//elsewhere.test/"] {
        assert_eq!(located(&format!("{web}/redirect?{out}")), (302, out.to_owned()));
    }
    wharf(&node, &["delete", "pods,services", "--all"]);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn what_objects_say_of_addresses_leads_nowhere() {
    let Some(mut node) = testnode::start("proxyforged").await else { return };
    let address = pod_with_a_server(&node).await;
    // Something that only the node itself shall reach.
    let secret = node.inside_thread(|| TcpListener::bind("127.0.0.1:8099").unwrap());
    let forged = node.inside_thread(|| TcpListener::bind("0.0.0.0:8098").unwrap());
    secret.set_nonblocking(true).unwrap();
    forged.set_nonblocking(true).unwrap();
    let gateway = format!("{}1", testnode::SUBNET_PREFIX);
    let json_type = ["Content-Type: application/merge-patch+json"];
    for ip in ["127.0.0.1", gateway.as_str(), "169.254.169.254"] {
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}], "hostIP": ip}}).to_string();
        request(&node, "PATCH", &format!("{PODS}/web/status"), &json_type, status.as_bytes());
        for port in ["8098", "8099"] {
            let answer = page(&node, &format!("{PODS}/web:{port}/proxy/"));
            assert!(answer.code == 503 && answer.text.contains(&address), "{ip}: {}", answer.text);
        }
        // Endpoints that are no pods, or not where they say.
        let name = format!("forged-{}", ip.replace('.', "-"));
        let slice = |named: Value| {
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "bare"}},
                "ports": [{"name": "", "port": 8098, "protocol": "TCP"}],
                "endpoints": [{"addresses": [gateway.clone()], "targetRef": named}]})
        };
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare"}, "spec": {"ports": [{"port": 80}]}});
        apply(&node, &service);
        for named in [Value::Null, json!({"kind": "Pod", "namespace": "default", "name": "web"})] {
            apply(&node, &slice(named));
            let answer = page(&node, &format!("{SERVICES}/bare/proxy/"));
            assert!(answer.code == 503 && answer.text.contains("no endpoints available"), "{ip}: {}", answer.text);
        }
    }
    for listener in [secret, forged] {
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    wharf(&node, &["delete", "pods,services", "--all"]);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn connections_are_upgraded_where_both_sides_want_that() {
    let Some(mut node) = testnode::start("proxyupgrade").await else { return };
    pod_with_a_server(&node).await;
    let asked = |headers: &str| {
        let mut stream = UnixStream::connect(node.path("run/api.sock")).unwrap();
        let path = format!("{PODS}/web:8080/proxy/upgrade");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
        (stream, reader, head.to_lowercase())
    };
    let (mut stream, mut reader, head) = asked("Connection: Upgrade\r\nUpgrade: shout\r\n");
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: shout") && head.contains("x-said: yes"),
        "{head}"
    );
    stream.write_all(b"loud\n").unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said, "LOUD\n");
    // A pod that does so without being asked is not let.
    let (_, _, head) = asked("Connection: close\r\n");
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert_eq!(get(&node, "pod", "web")["status"]["phase"], "Running");
    wharf(&node, &["delete", "pods,services", "--all"]);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
