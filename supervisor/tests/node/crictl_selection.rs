//! crictl's ways to say which: filters of its lists, commands for many containers at once, parts of logs, and removal of
//! all there is.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::crictl::{self, Crictl};
use crate::registry::{self, REGISTRY, Registry};
use crate::testnode::{self, wait_for};

/// What the tests of this folder do, each as a person types it. A command that a newer crictl has is not among them.
const TESTED: [&str; 35] = [
    "attach",
    "checkpoint",
    "completion",
    "config",
    "create",
    "events",
    "exec",
    "help",
    "imagefsinfo",
    "images",
    "info",
    "inspect",
    "inspecti",
    "inspectp",
    "logs",
    "metricdescs",
    "metricsp",
    "pods",
    "port-forward",
    "ps",
    "pull",
    "rm",
    "rmi",
    "rmp",
    "run",
    "runp",
    "runtime-config",
    "start",
    "stats",
    "statsp",
    "stop",
    "stopp",
    "update",
    "update-runtime-config",
    "version",
];

#[test]
fn every_command_of_crictl_has_a_test() {
    const TEST: &str = "every_command_of_crictl_has_a_test";
    let Some(program) = crictl::program() else {
        println!("SKIP {TEST}: no crictl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let help = std::process::Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let section = help.split("COMMANDS:").nth(1).unwrap().split("GLOBAL OPTIONS:").next().unwrap();
    let names = section.lines().filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.map(|name| name.trim_end_matches(',')).collect();
    let sources = [
        include_str!("crictl.rs"),
        include_str!("crictl_node.rs"),
        include_str!("crictl_streams.rs"),
        include_str!("crictl_selection.rs"),
    ];
    for name in &names {
        assert!(TESTED.contains(name), "{name} is new: {names:?}");
        let typed = format!("\"{name}\"");
        // Once here, and once where it is typed.
        let uses: usize = sources.iter().map(|source| source.matches(&typed).count()).sum();
        assert!(uses > 1 || *name == "help", "no test types {name}");
    }
    assert_eq!(names.len(), TESTED.len(), "{names:?}");
}

#[tokio::test]
async fn crictl_selects_by_filters_and_removes_all() {
    const TEST: &str = "crictl_selects_by_filters_and_removes_all";
    let Some(program) = crictl::program() else {
        println!("SKIP {TEST}: no crictl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    if let Some(missing) = registry::missing() {
        println!("SKIP {TEST}: {missing}");
        return;
    }
    let Some(mut node) = testnode::start("crictlselect").await else { return };
    {
        let registry = Registry::start(&node);
        registry.push(&node, "image.tar", testnode::IMAGE, "busybox:1");
        registry.push(&node, "image.tar", testnode::IMAGE, "other:2");
        let crictl = Crictl { node: &node, program };
        let selected = Selected::make(&crictl);
        selected.lists(&crictl);
        selected.inspections(&crictl);
        selected.logs(&crictl);
        selected.many_at_once(&crictl);
        selected.limits(&crictl);
        removal(&crictl, &selected);
        drop(registry);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// Two pods: `one` in the namespace `default` with the containers `a` and `b`, `two` in `kube` with `c`, which has ended.
struct Selected {
    pods: [String; 2],
    containers: [String; 3],
}

fn write(crictl: &Crictl<'_>, name: &str, object: &Value) -> String {
    let path = crictl.node.path(name);
    std::fs::write(&path, object.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn pod_file(crictl: &Crictl<'_>, name: &str, namespace: &str) -> String {
    let metadata = json!({"name": name, "namespace": namespace, "uid": name, "attempt": 0});
    let logs = crictl.node.path("crilogs").join(name);
    let object = json!({"metadata": metadata, "labels": {"pod": name}, "log_directory": logs, "linux": {}});
    write(crictl, &format!("{name}.json"), &object)
}

fn container_file(crictl: &Crictl<'_>, name: &str, namespace: &str, image: &str, script: &str) -> String {
    let object = json!({
        "metadata": {"name": name}, "image": {"image": image}, "linux": {},
        // By which crictl knows of a container's pod, as kubelets have it.
        "labels": {"name": name, "io.kubernetes.pod.namespace": namespace},
        "command": ["sh", "-c", script], "log_path": format!("{name}.log"),
    });
    write(crictl, &format!("container-{name}.json"), &object)
}

const LINES: &str =
    "echo first; echo second; echo third; until [ -e /go ]; do sleep 0.1; done; echo later; exec sleep 1000";
const ERROR: &str = "echo an error >&2; exec sleep 1000";

impl Selected {
    fn make(crictl: &Crictl<'_>) -> Self {
        let (busybox, other) = (format!("{REGISTRY}/busybox:1"), format!("{REGISTRY}/other:2"));
        let (one, two) = (pod_file(crictl, "one", "default"), pod_file(crictl, "two", "kube"));
        let wrong = crictl.output(&["runp", "--runtime", "none", &one]);
        let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(!wrong.status.success() && message.contains("none of the configured"), "{message}");
        let pod = crictl.run(&["runp", "--cancel-timeout", "60s", &one]);
        let a = container_file(crictl, "a", "default", &busybox, LINES);
        let missing = crictl.output(&["create", "--no-pull", &pod, &a, &one]);
        let message = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert!(
            !missing.status.success() && message.contains("NotFound") && message.contains("busybox:1"),
            "{message}"
        );
        let a = crictl.run(&["create", "--with-pull", "--creds", "user:password", &pod, &a, &one]);
        let b = crictl.run(&["create", &pod, &container_file(crictl, "b", "default", &busybox, ERROR), &one]);
        assert_eq!(crictl.run(&["start", &a, &b]).lines().collect::<Vec<_>>(), [&a, &b]);
        let c = container_file(crictl, "c", "kube", &other, "exit 7");
        let c = crictl.run(&["run", "--with-pull", "--cancel-timeout", "60s", &c, &two]);
        wait_for("the container to end", std::time::Duration::from_secs(20), || {
            crictl.json(&["inspect", &c])["status"]["exitCode"] == 7
        });
        let two = crictl.run(&["pods", "--quiet", "--name", "two"]);
        Self { pods: [pod, two], containers: [a, b, c] }
    }

    fn lists(&self, crictl: &Crictl<'_>) {
        let [one, two] = &self.pods;
        let [a, b, c] = &self.containers;
        let listed = |arguments: &[&str]| -> Vec<String> {
            let mut ids: Vec<String> = crictl.run(arguments).lines().map(str::to_owned).collect();
            ids.sort();
            ids
        };
        let sorted = |ids: &[&String]| -> Vec<String> {
            let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
            ids.sort();
            ids
        };
        for (filter, expected) in [
            (&["--id", &a[..12]] as &[&str], &[a] as &[&String]),
            (&["--name", "^(a|c)$"], &[a]),
            (&["--all", "--name", "^(a|c)$"], &[a, c]),
            (&["--label", "name=b"], &[b]),
            (&["--label", "name=b", "--label", "io.none=x"], &[]),
            (&["--pod", one], &[a, b]),
            (&["--all", "--namespace", "kube"], &[c]),
            (&["--state", "exited"], &[c]),
            (&["--state", "Running"], &[a, b]),
            (&["--all", "--image", &format!("{REGISTRY}/other:2")], &[a, b, c]),
            (&["--last", "2"], &[b, c]),
            (&["--latest"], &[c]),
        ] {
            let arguments: Vec<&str> = ["ps", "--quiet"].iter().chain(filter).copied().collect();
            // Both names are of one image.
            assert_eq!(listed(&arguments), sorted(expected), "{filter:?}");
        }
        for (filter, expected) in [
            (&["--id", &one[..12]] as &[&str], &[one] as &[&String]),
            (&["--label", "pod=two"], &[two]),
            (&["--namespace", "^kube$"], &[two]),
            (&["--state", "ready"], &[one, two]),
            (&["--state", "notready"], &[]),
            (&["--latest"], &[two]),
            (&["--last", "2"], &[one, two]),
        ] {
            let arguments: Vec<&str> = ["pods", "--quiet"].iter().chain(filter).copied().collect();
            assert_eq!(listed(&arguments), sorted(expected), "{filter:?}");
        }
        assert!(crictl.run(&["ps", "--no-trunc"]).contains(a.as_str()));
        assert!(crictl.run(&["ps", "--verbose", "--id", a]).contains("name -> a"));
        assert!(crictl.run(&["ps", "--resolve-image-path", "--id", a]).contains(REGISTRY));
        assert!(crictl.run(&["pods", "--verbose", "--id", one]).contains("pod -> one"));
        assert!(crictl.run(&["ps", "--output", "yaml", "--id", a]).contains("state: CONTAINER_RUNNING"));

        let image = crictl.json(&["images", "--output", "json", &format!("{REGISTRY}/busybox:1")])["images"][0].clone();
        let id = image["id"].as_str().unwrap();
        assert_eq!(crictl.run(&["images", "--quiet", "--filter", "dangling=false"]), id);
        let digest = image["repoDigests"][0].as_str().unwrap().rsplit('@').next().unwrap()[..20].to_owned();
        assert!(crictl.run(&["images", "--digests", "--no-trunc"]).contains(&digest));
        assert!(crictl.run(&["images", "--pinned"]).contains("false"));
        assert!(crictl.run(&["images", "--verbose"]).contains(id));
    }

    fn inspections(&self, crictl: &Crictl<'_>) {
        let template = "{{.status.metadata.name}}";
        let by_filter = crictl.json(&["inspect", "--name", "^b$"]);
        assert!(by_filter.to_string().contains(&self.containers[1]), "{by_filter}");
        let a = self.containers[0].as_str();
        assert_eq!(crictl.run(&["inspect", "--output", "go-template", "--template", template, a]), "a");
        let quiet = crictl.json(&["inspect", "--quiet", &self.containers[0]]);
        assert!(quiet["info"].as_object().is_none_or(serde_json::Map::is_empty), "{quiet}");
        let both = crictl.json(&["inspect", &self.containers[0], &self.containers[1]]);
        assert_eq!(both.as_array().map(Vec::len), Some(2), "{both}");
        let pod = crictl.run(&["inspectp", "--label", "pod=two", "--output", "go-template", "--template", template]);
        assert_eq!(pod, "two");
        let image = format!("{REGISTRY}/other:2");
        let table = crictl.run(&["inspecti", "--output", "table", &image]);
        assert!(table.contains(&image), "{table}");
        let ready =
            crictl.run(&["info", "--output", "go-template", "--template", "{{(index .status.conditions 0).type}}"]);
        assert_eq!(ready, "RuntimeReady");
        let missing = crictl.output(&["inspect", "none"]);
        assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("none"), "{missing:?}");
    }

    fn logs(&self, crictl: &Crictl<'_>) {
        let a = self.containers[0].as_str();
        wait_for("the log", std::time::Duration::from_secs(20), || crictl.run(&["logs", a]).contains("third"));
        assert_eq!(crictl.run(&["logs", "--tail", "1", a]), "third");
        assert_eq!(crictl.run(&["logs", "--limit-bytes", "3", a]), "fir");
        assert_eq!(crictl.run(&["logs", "--since", "2100-01-01T00:00:00Z", a]), "");
        assert_eq!(crictl.run(&["logs", "--since", "1h", "--tail", "2", a]), "second\nthird");
        let b = self.containers[1].as_str();
        let errors = || crictl.output(&["logs", "--stream", "stderr", b]);
        wait_for("the log", std::time::Duration::from_secs(20), || errors().stderr.ends_with(b"an error\n"));
        assert_eq!(errors().stdout, b"");
        assert_eq!(crictl.run(&["logs", "--stream", "stdout", b]), "");
        let timed = crictl.run(&["logs", "--timestamps", "--tail", "1", a]);
        assert!(timed.starts_with("20") && timed.ends_with(" third"), "{timed}");

        // One that follows sees what is written after the file was moved away.
        let mut following = crictl.command(&["logs", "--follow", a]);
        let mut following =
            following.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
        for line in ["first", "second", "third"] {
            assert_eq!(lines.next().unwrap().unwrap(), line);
        }
        let log = crictl.node.path("crilogs/one/a.log");
        std::fs::rename(&log, log.with_extension("log.1")).unwrap();
        crictl.run(&["logs", "--reopen", a]);
        assert!(log.exists());
        crictl.run(&["exec", "--sync", a, "sh", "-c", "echo >/go"]);
        assert_eq!(lines.next().unwrap().unwrap(), "later");
        following.kill().unwrap();
        following.wait().unwrap();
        assert_eq!(crictl.run(&["logs", a]), "later");
    }

    fn many_at_once(&self, crictl: &Crictl<'_>) {
        let [a, b, _] = &self.containers;
        let names = |arguments: &[&str]| {
            let output = crictl.output(arguments);
            assert!(output.status.success(), "{output:?}");
            // exec names containers among the errors.
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            [a, b].map(|id| said.contains(&id[..12]) as usize).iter().sum::<usize>()
        };
        assert_eq!(names(&["exec", "--sync", "--pod", &self.pods[0], "--state", "running", "true"]), 2);
        for how in ["--quiet", "--parallel"] {
            let said = crictl.run(&["exec", "--sync", how, "--name", "^[ab]$", "echo", "both"]);
            assert_eq!(said.lines().filter(|line| *line == "both").count(), 2, "{how}: {said}");
        }
        let late = crictl.output(&["exec", "--sync", "--timeout", "1", a, "sleep", "100"]);
        let message = String::from_utf8_lossy(&late.stderr).into_owned();
        assert!(!late.status.success() && message.contains("DeadlineExceeded"), "{message}");

        assert_eq!(names(&["stats"]), 2);
        assert_eq!(names(&["stats", "--all", "--label", "name=a"]), 1);
        assert_eq!(names(&["stats", "--pod", &self.pods[0], "--seconds", "1"]), 2);
        let stats = crictl.run(&["statsp", "--label", "pod=one", "--output", "yaml"]);
        assert!(stats.contains(&self.pods[0]) && !stats.contains(&self.pods[1]), "{stats}");
    }

    fn limits(&self, crictl: &Crictl<'_>) {
        let a = self.containers[0].as_str();
        let limits = ["--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-cpus", "0", "--cpuset-mems", "0"];
        crictl.run(&[&["update"], &limits[..], &[a]].concat());
        let shown = crictl.json(&["inspect", a])["status"]["resources"]["linux"].clone();
        let expected = [("cpuPeriod", "50000"), ("cpuQuota", "25000"), ("cpusetCpus", "0"), ("cpusetMems", "0")];
        assert!(expected.iter().all(|(name, value)| shown[name] == *value), "{shown}");
        let wrong = crictl.output(&["update", "--cpuset-cpus", "nine", a]);
        let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(!wrong.status.success() && message.contains("nine"), "{message}");
    }
}

fn removal(crictl: &Crictl<'_>, selected: &Selected) {
    let [a, b, c] = &selected.containers;
    let refused = crictl.output(&["rm", a]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("running"), "{refused:?}");
    let log = crictl.node.path("crilogs/one/a.log");
    crictl.run(&["rm", "--force", "--keep-logs", a]);
    assert!(log.exists());
    crictl.run(&["stop", "--all", "--timeout", "0"]);
    assert_eq!(crictl.run(&["ps", "--quiet"]), "");
    crictl.run(&["rm", "--all"]);
    assert_eq!(crictl.run(&["ps", "--all", "--quiet"]), "");
    assert_eq!([b, c].map(|id| crictl.output(&["inspect", id]).status.success()), [false, false]);

    crictl.run(&["stopp", &selected.pods[0], &selected.pods[1]]);
    assert_eq!(crictl.run(&["pods", "--quiet", "--state", "ready"]), "");
    crictl.run(&["rmp", "--all", "--force"]);
    assert_eq!(crictl.run(&["pods", "--quiet"]), "");

    let pulled = format!("{REGISTRY}/busybox:1");
    let credentials = "dXNlcjpwYXNzd29yZA==";
    crictl.run(&["pull", "--auth", credentials, "--annotation", "a=b", "--pull-timeout", "60s", &pulled]);
    crictl.run(&["rmi", "--prune"]);
    assert_eq!(crictl.run(&["images", "--quiet"]), "", "nothing uses them");
    crictl.run(&["pull", "--creds", "user:password", &pulled]);
    crictl.run(&["rmi", "--all"]);
    assert_eq!(crictl.run(&["images", "--quiet"]), "");
}
