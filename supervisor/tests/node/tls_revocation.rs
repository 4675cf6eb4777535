//! Certificates and tokens that are taken back before their end.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::api_tls::{answered, curl, url};
use crate::kube_doors::start;
use crate::replicas::{assert_nothing_left, wharf, wharf_with};
use crate::rights::has_curl;
use crate::testnode::TestNode;

const NODES: &str = "/api/v1/nodes";

/// A kubeconfig for `user`, and what curl takes of it.
fn kubeconfig(node: &TestNode, user: &str, more: &[&str]) -> (String, Vec<String>) {
    let path = node.path(&format!("{user}.kubeconfig")).to_str().unwrap().to_owned();
    wharf(node, &[&["kubeconfig", "--user", user, "--output", &path], more].concat());
    let config: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let authority = node.path("data/pki/ca.crt").to_str().unwrap().to_owned();
    let mut arguments = vec!["--cacert".into(), authority];
    match &config["users"][0]["user"]["token"] {
        Value::String(token) => arguments.extend(["-H".into(), format!("Authorization: Bearer {token}")]),
        _ => {
            for (option, field) in [("--cert", "client-certificate-data"), ("--key", "client-key-data")] {
                let data = config["users"][0]["user"][field].as_str().unwrap();
                let file = node.path(&format!("{user}.{field}"));
                std::fs::write(&file, STANDARD.decode(data).unwrap()).unwrap();
                arguments.extend([option.to_owned(), file.to_str().unwrap().to_owned()]);
            }
        }
    }
    arguments.push(url(NODES));
    (path, arguments)
}

fn code(node: &TestNode, arguments: &[String]) -> u16 {
    answered(&curl(node, &arguments.iter().map(String::as_str).collect::<Vec<_>>())).0
}

/// The words of the list's line for a user.
fn listed(node: &TestNode, user: &str) -> Vec<String> {
    let list = wharf(node, &["kubeconfig", "--list"]);
    let mut lines = list.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    lines.find(|words| words.get(1).is_some_and(|name| name == user)).unwrap_or_default()
}

#[tokio::test]
async fn one_certificate_or_token_is_taken_back_and_no_other() {
    if !has_curl("one_certificate_or_token_is_taken_back_and_no_other") {
        return;
    }
    let Some(mut node) = start("revoke").await else { return };
    let (alice_file, alice) = kubeconfig(&node, "alice", &[]);
    let (_, bob) = kubeconfig(&node, "bob", &["--days", "3"]);
    let (_, robot) = kubeconfig(&node, "robot", &["--token"]);
    let (_, other) = kubeconfig(&node, "other", &["--token", "--group", "system:masters", "--group", "staff"]);
    for arguments in [&alice, &bob, &robot, &other] {
        assert_eq!(code(&node, arguments), 200);
    }
    assert_eq!(listed(&node, "alice")[2..4], ["system:masters", "certificate"]);
    assert_eq!(listed(&node, "other")[2..4], ["system:masters,staff", "token"]);
    assert_eq!(listed(&node, "robot").last().map(String::as_str), Some("good"));

    // By the file and by the name in the list.
    let said = wharf(&node, &["kubeconfig", "--revoke", &alice_file]);
    assert_eq!(said, format!("{} revoked\n", listed(&node, "alice")[0]));
    let robot_id = listed(&node, "robot")[0].clone();
    wharf(&node, &["kubeconfig", "--revoke", &robot_id]);
    assert!(wharf(&node, &["kubeconfig", "--revoke", &robot_id]).contains("was revoked before"));
    let codes = |node: &TestNode| [&alice, &bob, &robot, &other].map(|arguments| code(node, arguments));
    assert_eq!(codes(&node), [401, 200, 401, 200]);
    assert_eq!(listed(&node, "robot").last().map(String::as_str), Some("revoked"));
    node.kill_wharfd();
    node.start_wharfd();
    assert_eq!(codes(&node), [401, 200, 401, 200]);
    // A new one for the same user is another one.
    let (_, again) = kubeconfig(&node, "alice", &[]);
    assert_eq!(code(&node, &again), 200);

    let stranger = node.path("stranger.kubeconfig");
    std::fs::write(&stranger, "users: [{name: x, user: {token: a.b.c}}]").unwrap();
    let empty = node.path("empty.kubeconfig");
    std::fs::write(&empty, "users: []").unwrap();
    for (arguments, words) in [
        (vec!["--revoke", stranger.to_str().unwrap()], "not of this node, or not good any more"),
        (vec!["--revoke", empty.to_str().unwrap()], "neither a client-certificate-data nor a token"),
        (vec!["--revoke", "0"], "neither a file nor the beginning of one ID"),
        (vec!["--revoke", "../../ca"], "neither a file nor the beginning of one ID"),
        (vec!["--list", "--user", "x"], "cannot be used with"),
        (vec!["--list", "--revoke", "x"], "cannot be used with"),
    ] {
        let output = wharf_with(&node, &[&["kubeconfig"], &arguments[..]].concat(), "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    }
    // What was wrong has taken nothing back; the files of alice are those of the new one by now.
    assert_eq!(codes(&node), [200, 200, 401, 200]);
    assert_nothing_left(node);
}
