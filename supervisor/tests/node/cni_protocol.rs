//! What CNI plugins are told, in which order, and what becomes of a pod whose plugins fail: by plugins that are
//! scripts, which note what they were told and do what the test says.

use std::path::Path;
use std::time::Duration;

use crate::testnode::{self, Client, Options, TestNode, pod, wait_for, write_file};
use serde_json::{Value, json};
use tonic::Code;
use wharf_specs::cri;

/// Notes each call in `calls` and answers as `behave/NAME.COMMAND` says, or else with success.
const PLUGIN: &str = r#"#!/bin/sh
dir=${0%/plugins/*}
name=${0##*/}
input=$(cat)
result='{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "'$CNI_NETNS'"}],
  "ips": [{"address": "10.75.0.5/24", "interface": 0}, {"address": "fd75::5/64", "interface": 0}], "plugin": "'$name'"}'
case $CNI_COMMAND in
VERSION) ;;
*) printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" \
    "$CNI_ARGS" "$CNI_PATH" "$input" >>"$dir/calls" ;;
esac
[ ! -e "$dir/behave/$name.$CNI_COMMAND" ] || . "$dir/behave/$name.$CNI_COMMAND"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD) echo "$result" ;;
esac
"#;

const FAIL: &str = r#"printf '%s' '{"code": 11, "msg": "no\nluck", "details": "ask later"}'; exit 1"#;

/// A list of the plugins named, of which the last declares every capability.
fn list(network: &str, version: &str, plugins: &[&str]) -> String {
    let capabilities = json!({"portMappings": true, "bandwidth": true, "dns": true, "cgroupPath": true, "mac": true});
    let plugins = plugins.iter().enumerate().map(|(index, name)| match index + 1 == plugins.len() {
        true => json!({"type": name, "capabilities": capabilities, "own": [1, "two"]}),
        false => json!({"type": name}),
    });
    json!({"cniVersion": version, "name": network, "plugins": plugins.collect::<Vec<_>>()}).to_string()
}

async fn start(test: &str, mode: &str, more: Vec<(&'static str, String)>) -> Option<TestNode> {
    let options = |folder: &Path| {
        let plugins = folder.join("plugins");
        let network = format!("mode = {mode:?}\ncni.plugins = [{plugins:?}]\ncni.timeout_seconds = 3\n");
        let own = [("plugins/one", PLUGIN.to_string()), ("plugins/two", PLUGIN.to_string())];
        Options { keys: String::new(), network, files: own.into_iter().chain(more).collect() }
    };
    testnode::start_with(test, options).await
}

fn both(version: &str) -> Vec<(&'static str, String)> {
    vec![("net.d/10.conflist", list("pods", version, &["one", "two"]))]
}

/// One execution of a plugin.
#[derive(Debug, Clone)]
struct Call {
    plugin: String,
    command: String,
    container: String,
    namespace: String,
    interface: String,
    arguments: String,
    path: String,
    input: Value,
}

fn calls(node: &TestNode) -> Vec<Call> {
    let text = std::fs::read_to_string(node.path("calls")).unwrap_or_default();
    let call = |line: &str| {
        let fields: Vec<&str> = line.splitn(8, '\t').collect();
        let field = |index: usize| fields[index].to_string();
        Call {
            plugin: field(0),
            command: field(1),
            container: field(2),
            namespace: field(3),
            interface: field(4),
            arguments: field(5),
            path: field(6),
            input: serde_json::from_str(fields[7]).unwrap(),
        }
    };
    text.lines().map(call).collect()
}

/// Those that concern a pod, as `plugin COMMAND`.
fn order(node: &TestNode) -> Vec<String> {
    let calls = calls(node).into_iter().filter(|call| !call.container.is_empty());
    calls.map(|call| format!("{} {}", call.plugin, call.command)).collect()
}

fn behave(node: &TestNode, plugin: &str, command: &str, script: &str) {
    write_file(&node.path("behave").join(format!("{plugin}.{command}")), script);
}

fn behave_well(node: &TestNode) {
    std::fs::remove_dir_all(node.path("behave")).unwrap();
}

fn records(node: &TestNode) -> usize {
    std::fs::read_dir(node.path("data/network/attachments")).unwrap().count()
}

async fn refused(client: &mut Client, config: cri::PodSandboxConfig) -> tonic::Status {
    let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    client.runtime.run_pod_sandbox(request).await.unwrap_err()
}

async fn network_ready(client: &mut Client) -> Result<(), String> {
    let answer = client.runtime.status(cri::StatusRequest::default()).await.unwrap().into_inner();
    let conditions = answer.status.unwrap().conditions;
    let condition = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    if condition.status {
        return Ok(());
    }
    assert_eq!(condition.reason, "NetworkPluginNotReady");
    Err(condition.message)
}

#[tokio::test]
async fn plugins_are_told_all_they_are_owed_in_order_and_in_reverse() {
    let Some(mut node) = start("cnitold", "auto", both("1.1.0")).await else { return };
    let mut client = Client::of(&node).await;
    network_ready(&mut client).await.unwrap();
    let mut config = pod(&node, "web");
    config.port_mappings = vec![cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    config.dns_config = Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() });
    config.annotations = [
        ("kubernetes.io/egress-bandwidth".to_string(), "1M".to_string()),
        ("wharf/cni-mac".to_string(), "02:57:00:00:00:0a".to_string()),
    ]
    .into();
    let id = client.run_pod(config).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    let network = status.network.unwrap();
    assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.75.0.5", "fd75::5"));

    let added: Vec<Call> = calls(&node).into_iter().filter(|call| call.command == "ADD").collect();
    let namespace = node.path("run/network/netns").join(&id).display().to_string();
    for call in &added {
        assert_eq!((call.container.as_str(), call.interface.as_str()), (id.as_str(), "eth0"));
        assert_eq!(call.namespace, namespace);
        assert_eq!(call.path, node.path("plugins").display().to_string());
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-web"
        );
        assert_eq!(call.arguments, arguments);
    }
    assert_eq!(added[0].input, json!({"cniVersion": "1.1.0", "name": "pods", "type": "one"}));
    let mut second = added[1].input.clone();
    assert_eq!(second["prevResult"]["plugin"], "one");
    assert_eq!(second["own"], json!([1, "two"]));
    assert!(second.get("capabilities").is_none());
    let cgroup = second["runtimeConfig"].as_object_mut().unwrap().remove("cgroupPath").unwrap();
    let cgroup = cgroup.as_str().unwrap();
    assert!(cgroup.starts_with('/') && cgroup.contains(&id), "{cgroup}");
    let expected = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "bandwidth": {"egressRate": 1_000_000, "egressBurst": i32::MAX},
        "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
        "mac": "02:57:00:00:00:0a",
    });
    assert_eq!(second["runtimeConfig"], expected);

    client.stop_pod(&id).await;
    client.stop_pod(&id).await;
    client.remove_pod(&id).await;
    assert_eq!(order(&node), ["one ADD", "two ADD", "two DEL", "one DEL"]);
    for call in calls(&node).into_iter().filter(|call| call.command == "DEL") {
        assert_eq!(call.input["prevResult"]["plugin"], "two", "{call:?}");
        assert_eq!(call.namespace, namespace);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_added_is_deleted_where_a_later_plugin_fails_and_again_until_it_succeeds() {
    let Some(mut node) = start("cnifail", "auto", both("0.4.0")).await else { return };
    let mut client = Client::of(&node).await;
    behave(&node, "two", "ADD", FAIL);
    behave(&node, "one", "DEL", FAIL);
    let error = refused(&mut client, pod(&node, "web")).await;
    let expected = r#"plugin two of CNI network "pods", ADD: code 11 (try again later): no luck: ask later"#;
    assert!(error.message().ends_with(expected), "{error}");
    assert_eq!(order(&node), ["one ADD", "two ADD", "two DEL", "one DEL"]);
    assert_eq!(records(&node), 1, "the first plugin did not take back what it had added");

    // It is asked again when another pod goes, and by the daemon's next start.
    behave_well(&node);
    let id = client.run_pod(pod(&node, "other")).await;
    behave(&node, "two", "DEL", FAIL);
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    let error = client.runtime.stop_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("plugin two of CNI network"), "{error}");
    behave_well(&node);
    client.remove_pod(&id).await;
    wait_for("the last record's end", Duration::from_secs(60), || records(&node) == 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn plugins_that_hang_babble_or_answer_nonsense_fail_the_pod_in_one_line() {
    let Some(mut node) = start("cniwild", "auto", both("1.0.0")).await else { return };
    let mut client = Client::of(&node).await;
    for (script, expected) in [
        ("sleep 1000 & wait", "ADD: not done after 3 s: it was killed with all it had started"),
        ("cat /dev/zero", "ADD: it wrote more than 1048576 bytes of an answer"),
        ("printf '\\377\\n nonsense'; exit 0", "ADD: line 1, column 1: expected value"),
        (
            "echo '{\"ips\": [{\"address\": \"x\"}]}'; exit 0",
            "ADD: ips[0].address: \"x\" is no address with its prefix",
        ),
        ("echo '{}'; exit 0", "CNI network \"pods\": the last plugin's result has no address for eth0"),
        ("head -c 9000000 /dev/zero >&2; echo broken >&2; exit 9", "ADD: exit status: 9, with no error object"),
        ("kill -9 $$", "ADD: signal: 9 (SIGKILL), with no error object"),
    ] {
        behave(&node, "two", "ADD", script);
        let error = refused(&mut client, pod(&node, "web")).await;
        assert!(error.message().contains(expected), "{script}: {error}");
        assert!(!error.message().contains('\n') && error.message().len() < 4096, "{error}");
        assert_eq!(records(&node), 0, "{script}");
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

// With threads, as the test waits for the plugin while the request is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_outlives_its_daemon_is_ended_before_its_work_is_taken_back() {
    let Some(mut node) = start("cniorphan", "auto", both("1.0.0")).await else { return };
    behave(&node, "two", "ADD", "sleep 1000 & wait");
    let mut client = Client::of(&node).await;
    let config = pod(&node, "web");
    let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let waiting = tokio::spawn(async move { client.runtime.run_pod_sandbox(request).await });
    wait_for("the second plugin", Duration::from_secs(60), || order(&node).len() == 2);
    node.kill_wharfd();
    assert!(waiting.await.unwrap().is_err());
    node.start_wharfd();
    assert_eq!(order(&node), ["one ADD", "two ADD", "two DEL", "one DEL"]);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_daemon_s_next_start_checks_pods_and_collects_the_garbage_of_the_others() {
    let Some(mut node) = start("cnicheck", "auto", both("1.1.0")).await else { return };
    let mut client = Client::of(&node).await;
    let fine = client.run_pod(pod(&node, "fine")).await;
    behave(&node, "one", "CHECK", FAIL);
    node.kill_wharfd();
    let before = calls(&node).len();
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    let collected = |valid: Value| {
        let calls = calls(&node).into_iter().skip(before).filter(|call| call.command == "GC");
        let told: Vec<Value> = calls.map(|call| call.input["cni.dev/valid-attachments"].clone()).collect();
        told.ends_with(&[valid.clone(), valid])
    };
    let valid = json!([{"containerID": fine, "ifname": "eth0"}]);
    wait_for("the garbage's collection", Duration::from_secs(60), || collected(valid.clone()));
    // The check comes before whatever else is done with the pod.
    client.stop_pod(&fine).await;
    let checked = calls(&node).into_iter().find(|call| call.command == "CHECK").unwrap();
    assert_eq!((checked.plugin.as_str(), &checked.input["prevResult"]["plugin"]), ("one", &json!("two")));
    let log = node.log();
    assert!(log.contains("the pod's network is not as it was left") && log.contains("no luck: ask later"), "{log}");
    client.remove_pod(&fine).await;
    wait_for("the garbage's collection", Duration::from_secs(60), || collected(json!([])));
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_configuration_may_change_while_pods_run() {
    let Some(mut node) = start("cnireload", "cni", Vec::new()).await else { return };
    let mut client = Client::of(&node).await;
    let message = network_ready(&mut client).await.unwrap_err();
    let expected = format!("no CNI configuration in {}: ", node.path("net.d").display());
    assert!(message.starts_with(&expected), "{message}");
    let error = refused(&mut client, pod(&node, "web")).await;
    assert!(error.message().contains(&expected), "{error}");

    let becomes = async |client: &mut Client, wanted: &str| {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let message = network_ready(client).await.err().unwrap_or_default();
            if message.contains(wanted) && message.is_empty() == wanted.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < end, "{message:?} instead of {wanted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let put = |text: &str| write_file(&node.path("net.d/10.conflist"), text);
    put(&list("first", "1.1.0", &["one"]));
    becomes(&mut client, "").await;
    let first = client.run_pod(pod(&node, "first")).await;

    put("{");
    becomes(&mut client, "10.conflist: line 1, column 1: EOF while parsing an object").await;
    put(&list("second", "1.1.0", &["three"]));
    becomes(&mut client, "plugin \"three\" of CNI network \"second\" is in none of ").await;
    write_file(&node.path("plugins/three"), PLUGIN);
    becomes(&mut client, "").await;
    behave(&node, "three", "STATUS", r#"echo '{"code": 50, "msg": "no addresses"}'; exit 1"#);
    becomes(&mut client, "STATUS: code 50 (the plugin is not available): no addresses").await;
    behave_well(&node);
    let second = client.run_pod(pod(&node, "second")).await;

    // Each goes as it came.
    client.remove_pod(&first).await;
    client.remove_pod(&second).await;
    assert_eq!(order(&node), ["one ADD", "three ADD", "one DEL", "three DEL"]);
    let old = r#"echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1"]}'; exit 0"#;
    behave(&node, "one", "VERSION", old);
    put(&list("first", "1.1.0", &["one"]));
    // What it said of itself counts as long as it is the same program.
    write_file(&node.path("plugins/one"), &format!("{PLUGIN}# another\n"));
    becomes(&mut client, "is for version 1.1.0, its plugin ").await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn without_a_configuration_the_embedded_network_serves_and_takes_its_own_back() {
    let Some(mut node) = start("cniauto", "auto", Vec::new()).await else { return };
    let mut client = Client::of(&node).await;
    network_ready(&mut client).await.unwrap();
    let embedded = client.run_pod(pod(&node, "embedded")).await;
    assert!(client.address(&embedded).await.starts_with(testnode::SUBNET_PREFIX));
    let mut asks = pod(&node, "asks");
    asks.annotations = [("wharf/cni-mac".to_string(), "02:57:00:00:00:0a".to_string())].into();
    let error = refused(&mut client, asks.clone()).await;
    assert!(error.message().contains("annotation wharf/cni-mac: the embedded network has no way"), "{error}");
    asks.annotations = [("kubernetes.io/ingress-bandwidth".to_string(), "fast".to_string())].into();
    let error = refused(&mut client, asks.clone()).await;
    let expected = "config.annotations[\"kubernetes.io/ingress-bandwidth\"]: \"fast\" is no rate";
    assert!(error.code() == Code::InvalidArgument && error.message().starts_with(expected), "{error}");

    write_file(&node.path("net.d/10.conflist"), &list("pods", "0.3.1", &["one"]));
    wait_for("the configuration", Duration::from_secs(60), || node.log().contains("CNI configuration network=pods"));
    asks.annotations = [("wharf/cni-ips".to_string(), "10.75.0.9".to_string())].into();
    let error = refused(&mut client, asks).await;
    let expected = "annotation wharf/cni-ips: no plugin of CNI network \"pods\" declares the capability \"ips\"";
    assert!(error.message().ends_with(expected), "{error}");
    let wired = client.run_pod(pod(&node, "wired")).await;
    assert_eq!(client.address(&wired).await, "10.75.0.5");
    client.remove_pod(&embedded).await;
    client.remove_pod(&wired).await;
    assert_eq!(order(&node), ["one ADD", "one DEL"]);
    let deleted = calls(&node).into_iter().find(|call| call.command == "DEL").unwrap();
    assert!(deleted.input.get("prevResult").is_none(), "told to DEL since 0.4.0 only: {deleted:?}");
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
