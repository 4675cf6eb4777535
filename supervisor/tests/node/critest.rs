//! The CRI's own test suite against the node, in parallel. Each spec that does not pass is named here, and each named
//! here must not pass: what is mended is taken off the list.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::critest_images;
use crate::registry::{self, Registry};
use crate::testnode::{self, Options, TestNode, built, tool};

/// Specs that run at a time: they wait for most of theirs. `WHARF_CRITEST_PROCESSES` says another number, and
/// `WHARF_CRITEST_FOCUS`, ginkgo's expression, which of them run.
const PROCESSES: &str = "8";

/// The image that critest names by the digest of its publisher's file; a file of ours cannot have it.
const DIGEST_IMAGE: &str = "k8s-staging-cri-tools/test-image-digest";
const PUBLISHED_DIGEST: &str = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

/// Beginnings of the names of specs that fail.
const FAILING: [&str; 0] = [];

/// Beginnings of the names of specs that the suite leaves out where the kernel has no AppArmor; it says why.
const APPARMOR: &str = "AppArmor runtime should";

/// The suite loads profiles as a user who has to ask for it.
const SUDO: &str = "#!/bin/sh\nexec \"$@\"\n";

const TEST: &str = "critest_passes_but_for_the_listed_specs";

/// How it says that the file system here has no mapped mounts, which is the machine's part.
const NO_MAPPED_MOUNTS: &str = "ID mapping is not supported with path";

const REGISTRIES: &str = "[registry.\"registry.k8s.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n\
                          [registry.\"k8s.gcr.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n\
                          [registry.\"gcr.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n";

fn missing() -> Option<String> {
    let tools = ["critest", "ginkgo"].into_iter().find(|name| tool(name).is_none());
    let busybox = built("busybox").is_none().then(|| "no busybox in WHARF_TEST_TOOLS: scripts/install test".to_owned());
    let compiler = built("who").is_none().then_some("/usr/bin/gcc");
    let needed = compiler.into_iter().chain(["/usr/bin/ipcmk"]).find(|program| !Path::new(program).is_file());
    tools
        .map(|name| format!("no {name}: scripts/go-tools builds it; WHARF_TEST_TOOLS says where"))
        .or(busybox)
        .or_else(|| needed.map(|program| format!("no {program}")))
        .or_else(registry::missing)
}

#[tokio::test]
async fn critest_passes_but_for_the_listed_specs() {
    if let Some(missing) = missing() {
        println!("SKIP {TEST}: {missing}");
        return;
    }
    let options = |folder: &Path| Options {
        keys: format!("registries = {:?}\n", folder.join("registries.toml")),
        files: vec![("registries.toml", REGISTRIES.into()), ("plugins/sudo", SUDO.into())],
        ..Options::default()
    };
    let Some(mut node) = testnode::start_with("critest", options).await else { return };
    {
        let registry = Registry::start(&node);
        let digest = push_images(&node, &registry);
        let specs = run(&node, &program_with(&node, &digest));
        judge(&specs, &node);
        drop(registry);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// Returns the digest of the image that is asked for by it.
fn push_images(node: &TestNode, registry: &Registry) -> String {
    let names = critest_images::write(&node.path("critest.tar"));
    let mut digest = None;
    for (image, target) in names {
        let pushed = registry.push(node, "critest.tar", &image, &target);
        digest = if target.starts_with(DIGEST_IMAGE) { Some(pushed) } else { digest };
    }
    digest.unwrap()
}

/// A copy of critest that asks for our image's digest.
fn program_with(node: &TestNode, digest: &str) -> PathBuf {
    let mut program = std::fs::read(tool("critest").unwrap()).unwrap();
    assert_eq!(digest.len(), PUBLISHED_DIGEST.len());
    let places: Vec<usize> = program
        .windows(PUBLISHED_DIGEST.len())
        .enumerate()
        .filter_map(|(at, window)| (window == PUBLISHED_DIGEST.as_bytes()).then_some(at))
        .collect();
    assert!(!places.is_empty(), "critest names another digest than {PUBLISHED_DIGEST}");
    for at in places {
        program[at..at + digest.len()].copy_from_slice(digest.as_bytes());
    }
    // Written by another process: what this one has open for writing, a fork of another test has too, and such a
    // program cannot be executed.
    let (written, path) = (node.path("critest.bytes"), node.path("critest.test"));
    std::fs::write(&written, program).unwrap();
    let copied = node.inside(&["install", "-m", "755", written.to_str().unwrap(), path.to_str().unwrap()]);
    assert!(copied.status.success(), "{copied:?}");
    std::fs::remove_file(written).unwrap();
    path
}

fn focus() -> Option<String> {
    std::env::var("WHARF_CRITEST_FOCUS").ok().filter(|focus| !focus.is_empty())
}

struct Spec {
    name: String,
    state: String,
    /// Why it failed or was left out.
    message: String,
    seconds: f64,
}

fn run(node: &TestNode, program: &Path) -> Vec<Spec> {
    let scratch = node.path("tmp");
    std::fs::create_dir(&scratch).unwrap();
    let report = node.path("critest.json");
    let log = std::fs::File::options().create(true).append(true).mode(0o600).open(node.path("critest.log")).unwrap();
    let endpoint = format!("unix://{}", node.path("run/wharfd.sock").display());
    let processes = std::env::var("WHARF_CRITEST_PROCESSES").unwrap_or_else(|_| PROCESSES.into());
    let path = std::env::var("PATH").unwrap_or_default();
    let focus = focus().map(|focus| ["--focus".to_owned(), focus]);
    let started = std::time::Instant::now();
    let status = node
        .enter()
        .arg(tool("ginkgo").unwrap())
        .args(["run", "--no-color", "--succinct", "--skip", "benchmark", "--procs", &processes])
        .args(focus.into_iter().flatten())
        .arg("--output-dir")
        .arg(node.path(""))
        .args(["--json-report", "critest.json"])
        .arg(program)
        .arg("--")
        .args([format!("-runtime-endpoint={endpoint}"), format!("-image-endpoint={endpoint}")])
        .env("TMPDIR", &scratch)
        .env("PATH", format!("{}:{path}", node.path("plugins").display()))
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .unwrap();
    println!("critest: {status} after {:.0} s", started.elapsed().as_secs_f64());
    let text = std::fs::read(&report).unwrap_or_else(|error| {
        let said = std::fs::read_to_string(node.path("critest.log")).unwrap_or_default();
        panic!("{}: {error}\n{said}", report.display())
    });
    let suites: Value = serde_json::from_slice(&text).unwrap();
    let reports = suites[0]["SpecReports"].as_array().unwrap();
    reports.iter().filter(|report| report["LeafNodeType"] == "It").map(spec).collect()
}

fn spec(report: &Value) -> Spec {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = report["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text);
    let words: Vec<String> = containers.chain([text(&report["LeafNodeText"])]).collect();
    Spec {
        name: words.join(" ").trim_start_matches("[k8s.io] ").to_owned(),
        state: text(&report["State"]),
        message: text(&report["Failure"]["Message"]),
        seconds: report["RunTime"].as_f64().unwrap_or(0.0) / 1e9,
    }
}

fn judge(specs: &[Spec], node: &TestNode) {
    // Not asked for: ginkgo skips these without a word.
    let focused = focus().is_some();
    let unasked = |spec: &&Spec| focused && spec.state == "skipped" && spec.message.is_empty();
    let specs: Vec<&Spec> = specs.iter().filter(|spec| !spec.name.contains("benchmark") && !unasked(spec)).collect();
    assert!(!specs.is_empty(), "no spec was run: {:?}", focus());
    let without_apparmor = !crate::container_apparmor::enabled();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in &specs {
        *counts.entry(&spec.state).or_default() += 1;
    }
    println!("critest: {} specs: {counts:?}", specs.len());
    let mut slowest = specs.clone();
    slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for spec in slowest.iter().take(5) {
        println!("critest: {:.1} s: {}", spec.seconds, spec.name);
    }
    let mut wrong = Vec::new();
    for spec in &specs {
        let fails = FAILING.iter().any(|name| spec.name.starts_with(name));
        let skipped = without_apparmor && spec.name.starts_with(APPARMOR);
        match spec.state.as_str() {
            "passed" if !fails && !skipped => {}
            "skipped" if skipped => println!("critest: left out: {}: {}", spec.name, first_line(&spec.message)),
            "skipped" if spec.message.starts_with(NO_MAPPED_MOUNTS) => {
                println!("SKIP {TEST}, {}: {}", spec.name, first_line(&spec.message));
            }
            "passed" | "skipped" => wrong.push(format!("{} (listed: {})", spec.name, spec.state)),
            state => {
                println!("critest: {state}: {}: {}", spec.name, first_line(&spec.message));
                if !fails {
                    wrong.push(format!("{}: {state}: {}", spec.name, spec.message));
                }
            }
        }
    }
    for name in FAILING.iter().chain([&APPARMOR]).filter(|_| !focused) {
        if !specs.iter().any(|spec| spec.name.starts_with(name)) {
            wrong.push(format!("no spec has the name {name}"));
        }
    }
    if !wrong.is_empty() {
        let said = std::fs::read_to_string(node.path("critest.log")).unwrap_or_default();
        panic!("critest:\n{}\n{said}", wrong.join("\n"));
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
