//! The API over TLS: who is let in, who is not, and what those are told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use wharf_supervisor::api::tls::{Authority, MASTERS, TokenKey};

use crate::kube_doors::{ADDRESS, start};
use crate::replicas::{assert_nothing_left, wharf, wharf_with};
use crate::testnode::{self, TestNode, wait_for};

const DAY: Duration = Duration::from_secs(86_400);

/// A key and a certificate as files, as programs take them.
struct Files {
    authority: String,
    certificate: String,
    key: String,
}

impl Files {
    /// Of a client that `authority` lets in for `valid_for`.
    fn of(folder: &Path, name: &str, authority: &Authority, trusted: &Authority, valid_for: Duration) -> Self {
        let identity = authority.client_identity("tester", &[MASTERS.into()], valid_for).unwrap();
        let write = |kind: &str, text: &str| {
            let path = folder.join(format!("{name}.{kind}"));
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        Self {
            authority: write("ca", trusted.certificate_pem()),
            certificate: write("crt", &identity.certificate_pem()),
            key: write("key", &identity.key_pem()),
        }
    }
}

/// Runs curl in the node's network.
pub fn curl(node: &TestNode, arguments: &[&str]) -> Output {
    let mut command = node.enter();
    command.args(["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"]);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The code that was answered, 0 without an answer, and the answer.
pub fn answered(output: &Output) -> (u16, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, code) = text.rsplit_once('\n').unwrap_or_default();
    (code.parse().unwrap_or(0), serde_json::from_str(body).unwrap_or(Value::String(body.into())))
}

pub fn url(path: &str) -> String {
    format!("https://{ADDRESS}{path}")
}

#[tokio::test]
async fn nothing_is_served_over_tls_to_somebody_unknown() {
    const TEST: &str = "nothing_is_served_over_tls_to_somebody_unknown";
    if testnode::tool("curl").is_none() {
        println!("SKIP {TEST}: needs curl");
        return;
    }
    let Some(node) = start("tlsunknown").await else { return };
    let own = Authority::open(&node.path("data/pki")).unwrap();
    let stranger = Authority::open_or_create(&node.path("stranger")).unwrap();
    let folder = node.path("files");
    std::fs::create_dir(&folder).unwrap();
    let good = Files::of(&folder, "good", &own, &own, DAY);
    let with = |files: &Files, more: &[&str]| {
        let arguments = ["--cacert", &files.authority, "--cert", &files.certificate, "--key", &files.key];
        curl(&node, &[&arguments[..], more].concat())
    };
    let nodes = url("/api/v1/nodes");
    assert_eq!(answered(&with(&good, &[&nodes])).0, 200);
    assert_eq!(answered(&with(&good, &[&nodes, "--tls-max", "1.2"])).0, 200);

    // Without anything, whatever is asked for and however.
    let anonymous = |more: &[&str]| answered(&curl(&node, &[&["--cacert", &good.authority], more].concat()));
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/version",
        "/api",
        "/apis",
        "/openapi/v2",
        "/",
        "/api/v1/secrets",
        "/no/such",
    ] {
        let (code, status) = anonymous(&[&url(path)]);
        assert_eq!(
            (code, status["kind"].as_str(), status["reason"].as_str()),
            (401, Some("Status"), Some("Unauthorized")),
            "{path}"
        );
    }
    for more in [
        &["-H", "Authorization: Bearer"][..],
        &["-H", "Authorization: Bearer x.y.z"],
        &["-H", "X-Remote-User: admin"],
        &["--user", "admin:admin"],
        &["--request", "POST", "--data", "{}"],
        &["--request", "DELETE"],
        &["-H", "Upgrade: SPDY/3.1", "-H", "Connection: Upgrade"],
    ] {
        assert_eq!(anonymous(&[&[nodes.as_str()], more].concat()).0, 401, "{more:?}");
    }

    // With a token that is good, has expired, is another node's.
    let tokens = TokenKey::open(&node.path("data/pki")).unwrap();
    let others = TokenKey::open_or_create(&node.path("stranger")).unwrap();
    let masters = [MASTERS.to_owned()];
    for (token, expected) in [
        (tokens.issue("robot", &masters, DAY), 200),
        (tokens.issue("robot", &masters, Duration::ZERO), 401),
        (others.issue("robot", &masters, DAY), 401),
        // Of a version without groups: nobody had said what it may do.
        (tokens.issue("robot", &[], DAY), 403),
        (tokens.issue(MASTERS, &[], DAY), 403),
    ] {
        assert_eq!(anonymous(&[&nodes, "-H", &format!("Authorization: Bearer {token}")]).0, expected);
    }

    // One that was let in opens the connection to nobody else: a second request without it is refused.
    let token = format!("Authorization: Bearer {}", tokens.issue("robot", &masters, DAY));
    let request = ["--silent", "--cacert", &good.authority, "--output", "/dev/null", "--write-out"];
    let request = [&request[..], &["%{http_code} %{num_connects}\n", &nodes]].concat();
    let both = [&request[..], &["-H", &token, "--next"], &request].concat();
    let output = node.enter().arg("curl").args(both).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 1\n401 0\n");

    // With a certificate that is not good there is no connection.
    let expired = Files::of(&folder, "expired", &own, &own, Duration::ZERO);
    let since = std::time::SystemTime::now();
    // Certificates end with a whole second.
    wait_for("its end", DAY, || since.elapsed().is_ok_and(|passed| passed > Duration::from_secs(1)));
    let server = own.server_identity(&["node.example".into()]).unwrap();
    let servers = Files::of(&folder, "server", &own, &own, DAY);
    std::fs::write(&servers.certificate, server.certificate_pem()).unwrap();
    std::fs::write(&servers.key, server.key_pem()).unwrap();
    let foreign = Files::of(&folder, "foreign", &stranger, &own, DAY);
    for (name, files) in [("another authority's", foreign), ("expired", expired), ("the server's", servers)] {
        let output = with(&files, &[&nodes]);
        assert!(!output.status.success() && answered(&output).0 == 0, "{name}: {output:?}");
    }
    let log = node.log();
    assert!(!log.contains(&tokens.issue("robot", &masters, DAY)[..20]) && !log.contains("PRIVATE KEY"));
    assert_nothing_left(node);
}

#[tokio::test]
async fn only_tls_of_today_is_spoken_and_by_the_node_that_is_meant() {
    const TEST: &str = "only_tls_of_today_is_spoken_and_by_the_node_that_is_meant";
    if testnode::tool("curl").is_none() || testnode::tool("openssl").is_none() {
        println!("SKIP {TEST}: needs curl and openssl");
        return;
    }
    let Some(node) = start("tlsversions").await else { return };
    // What is no TLS is told so, and nothing else.
    let plain = curl(&node, &[&format!("http://{ADDRESS}/api/v1/secrets")]);
    let (code, said) = answered(&plain);
    assert_eq!((code, said.as_str()), (400, Some("Client sent an HTTP request to an HTTPS server.\n")), "{plain:?}");

    let handshake = |arguments: &[&str]| {
        let mut command = node.enter();
        command.args(["openssl", "s_client", "-connect", ADDRESS, "-brief"]).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // Old versions are out of openssl's own reach unless it is told to give up all security.
    for old in ["-tls1", "-tls1_1"] {
        let (success, said) = handshake(&[old, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!success && !said.contains("CONNECTION ESTABLISHED"), "{old}: {said}");
    }
    for new in ["-tls1_2", "-tls1_3"] {
        let (success, said) = handshake(&[new]);
        assert!(success && said.contains("CONNECTION ESTABLISHED"), "{new}: {said}");
    }
    let (success, said) = handshake(&["-alpn", "h2"]);
    assert!(!success, "no HTTP/2: {said}");

    // Its certificate is for its names and of its authority.
    let authority = node.path("data/pki/ca.crt").to_str().unwrap().to_owned();
    let named = |name: &str| {
        let address = format!("{name}:6443:127.0.0.1");
        let output =
            curl(&node, &["--cacert", &authority, "--resolve", &address, &format!("https://{name}:6443/healthz")]);
        answered(&output).0
    };
    assert_eq!((named("node.example"), named("localhost"), named("evil.example")), (401, 401, 0));
    let stranger = wharf_supervisor::api::tls::Authority::open_or_create(&node.path("stranger")).unwrap();
    let other = node.path("stranger.crt");
    std::fs::write(&other, stranger.certificate_pem()).unwrap();
    let trusting_another = curl(&node, &["--cacert", other.to_str().unwrap(), &url("/healthz")]);
    assert_eq!(answered(&trusting_another).0, 0);
    assert_nothing_left(node);
}

#[tokio::test]
async fn clients_that_say_nothing_are_hung_up_on_and_keep_nobody_out() {
    let Some(node) = start("tlssilent").await else { return };
    let kubeconfig = wharf(&node, &["kubeconfig"]);
    let connect = || {
        node.inside_thread(|| {
            let stream = TcpStream::connect(ADDRESS.parse::<SocketAddr>().unwrap()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream
        })
    };
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    // The beginning of a handshake of 16 KiB, the rest of which never comes.
    silent[0].write_all(&[22, 3, 1, 64, 0, 1]).unwrap();
    silent[1].write_all(b"\x16\x03\x01\x00\x05hello").unwrap();
    crate::kube_doors::inside(&node, move || async move {
        let client = crate::kube_doors::of_kubeconfig(&kubeconfig).await;
        client.apiserver_version().await.unwrap();
    });
    for stream in &mut silent {
        let mut rest = Vec::new();
        // An alert, or nothing.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 64, "{rest:?}");
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_kubeconfig_is_its_owners_and_outlives_the_daemon() {
    const TEST: &str = "a_kubeconfig_is_its_owners_and_outlives_the_daemon";
    let Some(kubectl) = testnode::tool("kubectl") else {
        println!("SKIP {TEST}: no kubectl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let Some(mut node) = start("tlsconfig").await else { return };
    let file = node.path("kubeconfig");
    let path = file.to_str().unwrap();
    // Whatever was there has other readers.
    std::fs::write(&file, "old").unwrap();
    assert_eq!(wharf(&node, &["kubeconfig", "--output", path]), "");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let home = node.path("home");
    let get = |node: &TestNode| {
        let mut command: Command = node.enter();
        command.arg(&kubectl).args(["--kubeconfig", path, "get", "nodes", "-o", "name"]).env("HOME", &home);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(get(&node).starts_with("node/"));
    node.kill_wharfd();
    node.start_wharfd();
    assert!(get(&node).starts_with("node/"), "the authority is the same");

    for (arguments, expected) in [
        (&["kubeconfig", "--user", "a b"][..], "the name of a user \"a b\""),
        (&["kubeconfig", "--server", "http://x"], "--server \"http://x\""),
        (&["kubeconfig", "--days", "0"], "0 is not in 1..=36500"),
        (&["kubeconfig", "--output", "/no/such/folder/file"], "write /no/such/folder/file"),
    ] {
        let output = wharf_with(&node, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(output.stdout, b"");
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_node_without_tls_writes_no_kubeconfig() {
    let Some(node) = testnode::start("tlsoff").await else { return };
    let output = wharf_with(&node, &["kubeconfig"], "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("`api.listen`") && said.lines().count() == 1, "{said}");
    let output = wharf_with(&node, &["kubeconfig", "--server", "https://x:6443"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("`api.listen`"));
    assert!(!node.path("data/pki").exists());
    assert_nothing_left(node);
}
