//! Checkpoints of containers over the CRI, and containers made from them. What criu itself does needs a kernel that it can
//! dump on; all else is tried on any.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;
use wharf_specs::cri;

use crate::testnode::{self, Client, IMAGE, Options, TestNode, append, container, pod};

const KEYS: &str = "checkpoint.enabled = true\ncheckpoint.images = true\n";

pub async fn node(test: &str) -> Option<TestNode> {
    testnode::start_with(test, |_| Options { keys: KEYS.into(), ..Options::default() }).await
}

fn checkpoint(container: &str, location: &Path) -> cri::CheckpointContainerRequest {
    let location = location.display().to_string();
    cri::CheckpointContainerRequest { container_id: container.into(), location, timeout: 60 }
}

pub fn of_image(name: &str, image: &str) -> cri::ContainerConfig {
    let image = cri::ImageSpec { image: image.into(), ..Default::default() };
    cri::ContainerConfig { image: Some(image), ..container(name, &[]) }
}

/// Names and contents of a checkpoint's files.
pub type Files = Vec<(&'static str, Vec<u8>)>;

/// As an archive has them; its processes are none that criu could restore.
pub fn files() -> Files {
    let metadata = json!({"id": "x", "name": "x", "rootfsImageRef": "sha256:0", "rootfsImageName": IMAGE});
    let mut changes = tar::Builder::new(Vec::new());
    append(&mut changes, "etc/added", b"yes", 0o640);
    vec![
        ("config.dump", metadata.to_string().into_bytes()),
        ("spec.dump", json!({"mounts": [{"destination": "/proc", "type": "proc"}]}).to_string().into_bytes()),
        ("checkpoint/inventory.img", b"none".to_vec()),
        ("checkpoint/descriptors.json", b"[]".to_vec()),
        ("rootfs-diff.tar", changes.into_inner().unwrap()),
        ("deleted.files", br#"["/etc/group"]"#.to_vec()),
        ("dump.log", b"for people".to_vec()),
    ]
}

pub fn with(name: &'static str, content: &[u8]) -> Files {
    let mut files = files();
    files.retain(|(other, _)| *other != name);
    files.push((name, content.to_vec()));
    files
}

pub fn archive(files: &Files) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        // Names that the builder itself would refuse, too.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, &**content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn without_the_configuration_checkpoints_are_off_and_the_key_is_named() {
    let Some(mut node) = testnode::start("ckptoff").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let location = node.path("c.tar");
    let error = client.runtime.checkpoint_container(checkpoint(&main, &location)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    let words = "method CheckpointContainer not implemented: checkpoint.enabled in wharfd's configuration is not true";
    assert_eq!(error.message(), words);
    fs::write(&location, archive(&files())).unwrap();
    let error = client.create(&id, of_image("copy", location.to_str().unwrap())).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("checkpoint.enabled"), "{error}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn checkpoints_that_cannot_be_written_are_refused_and_leave_nothing() {
    let Some(mut node) = node("ckptrefused").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let created = client.create(&id, container("created", &["true"])).await.unwrap();
    let place = node.path("c.tar");
    for (container, location, code, words) in [
        ("none", place.clone(), Code::NotFound, "container \"none\" not found"),
        ("", place.clone(), Code::InvalidArgument, "container_id: is empty"),
        (&main, PathBuf::new(), Code::InvalidArgument, "location: is empty"),
        (&main, "c.tar".into(), Code::InvalidArgument, "location: c.tar: is no absolute path"),
        (&main, "/no/such/c.tar".into(), Code::InvalidArgument, "there is no directory /no/such"),
        (&main, "/tmp".into(), Code::InvalidArgument, "location: /tmp: is a directory"),
        (&created, place.clone(), Code::FailedPrecondition, "is created, a running one is needed"),
    ] {
        let error = client.runtime.checkpoint_container(checkpoint(container, &location)).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(words), "{error}");
    }
    let negative = cri::CheckpointContainerRequest { timeout: -1, ..checkpoint(&main, &place) };
    let error = client.runtime.checkpoint_container(negative).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "timeout: -1 is negative"));

    // One that criu refuses, whatever the kernel: there is none on the shim's PATH, or it does not know such a process.
    assert!(!place.exists());
    assert!(!node.path("data/containers").join(&main).join("checkpoint.new").exists());
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn archives_that_are_wrong_are_refused_with_what_is_wrong_and_leave_nothing() {
    let Some(mut node) = node("ckptbad").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let without = |name: &str| {
        let mut files = files();
        files.retain(|(other, _)| *other != name);
        archive(&files)
    };
    let twice = |name| archive(&files().into_iter().chain([(name, b"x".to_vec())]).collect());
    let mounted = json!({"mounts": [{"destination": "/data", "type": "bind"}]}).to_string();
    let mut escaping = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.as_old_mut().name[..8].copy_from_slice(b"../../up");
    header.set_cksum();
    escaping.append(&header, std::io::empty()).unwrap();
    let escaping = escaping.into_inner().unwrap();
    let mut cut = archive(&files());
    cut.truncate(700);
    for (content, words) in [
        (b"no archive".to_vec(), "archive ends in the middle of a header"),
        (vec![b'x'; 4096], "this is no tar archive or a damaged one"),
        (cut, "archive ends in the middle of"),
        (without("config.dump"), "has no file config.dump"),
        (without("spec.dump"), "has no file spec.dump"),
        (without("checkpoint/inventory.img"), "has no file checkpoint/inventory.img"),
        (archive(&with("config.dump", b"{")), "config.dump: EOF while parsing"),
        (archive(&with("config.dump", b"{}")), "config.dump: names no image"),
        (
            archive(&with("config.dump", br#"{"rootfsImageName": "no.such/image:1"}"#)),
            "\"no.such/image:1\" is not on this node",
        ),
        (archive(&with("spec.dump", mounted.as_bytes())), "config.mounts: has nothing for \"/data\""),
        (archive(&with("deleted.files", b"[1]")), "deleted.files: invalid type"),
        (archive(&with("deleted.files", br#"["/a/../../b"]"#)), "has `..` in it"),
        (archive(&with("rootfs-diff.tar", &escaping)), "rootfs-diff.tar: member `../../up`: name has `..` in it"),
        (archive(&with("../up", b"x")), "member `../up`: name has `..` in it"),
        (archive(&with("checkpoint/a/b.img", b"x")), "is no name of an image of criu's"),
        (archive(&with("checkpoint/.x", b"x")), "is no name of an image of criu's"),
        (twice("config.dump"), "member `config.dump`: is there twice"),
        (twice("checkpoint/inventory.img"), "is there twice"),
        (twice("rootfs-diff.tar"), "is there twice"),
    ] {
        let location = node.path("c.tar");
        fs::write(&location, content).unwrap();
        let error = client.create(&id, of_image("copy", location.to_str().unwrap())).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{words}: {error}");
        assert!(error.message().contains(words), "{words}: {error}");
        assert_eq!(error.message().lines().count(), 1, "{error}");
        assert_eq!(fs::read_dir(node.path("data/containers")).unwrap().count(), 0, "{words}");
    }
    let fifo = node.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (place, words) in [(fifo, "is no regular file"), (node.path("none"), "No such file")] {
        let error = client.create(&id, of_image("copy", place.to_str().unwrap())).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(words), "{error}");
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_has_the_files_of_its_checkpoint_and_fails_to_start_where_criu_refuses_it() {
    let Some(mut node) = node("ckptfiles").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let location = node.path("c.tar");
    fs::write(&location, archive(&files())).unwrap();
    let config = of_image("copy", location.to_str().unwrap());
    let copy = client.create(&id, config.clone()).await.unwrap();
    assert_eq!(client.create(&id, config).await.unwrap(), copy, "a retry joins it");
    let layer = node.path("data/containers").join(&copy).join("upper/etc");
    assert_eq!(fs::read(layer.join("added")).unwrap(), b"yes");
    assert_eq!(fs::metadata(layer.join("added")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(&layer).unwrap().mode() & 0o7777, 0o755, "as below");
    let hidden = fs::symlink_metadata(layer.join("group")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0, "the file that was deleted");
    assert_eq!(client.status(&copy).await.state(), cri::ContainerState::ContainerCreated);

    // It waits for its start however often the daemon is replaced.
    node.kill_wharfd();
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    assert_eq!(client.status(&copy).await.state(), cri::ContainerState::ContainerCreated);
    client.stop(&copy, 1).await;
    let start = cri::StartContainerRequest { container_id: copy.clone() };
    let error = client.runtime.start_container(start).await.unwrap_err();
    assert!(error.message().contains("criu"), "{error}");
    let status = client.status(&copy).await;
    assert_eq!((status.state(), status.reason.as_str()), (cri::ContainerState::ContainerExited, "StartError"));
    client.runtime.remove_container(cri::RemoveContainerRequest { container_id: copy }).await.unwrap();

    // One that is never started goes as well, alone and with its pod.
    for name in ["alone", "with"] {
        let waiting = client.create(&id, of_image(name, location.to_str().unwrap())).await.unwrap();
        if name == "alone" {
            let request = cri::RemoveContainerRequest { container_id: waiting.clone() };
            tokio::time::timeout(Duration::from_secs(5), client.runtime.remove_container(request))
                .await
                .unwrap()
                .unwrap();
            assert!(!node.path("data/containers").join(&waiting).exists());
        }
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// Why criu cannot dump here, if it cannot.
fn obstacle() -> &'static Option<String> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    OBSTACLE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let mut victim = Command::new("/bin/busybox");
        victim.args(["setsid", "/bin/busybox", "sleep", "1000"]);
        let mut victim = victim.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = victim.id().to_string();
        let dump = Command::new("criu")
            .args(["dump", "--shell-job", "--leave-running", "-t", &pid, "-D"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .output();
        victim.kill().unwrap();
        victim.wait().unwrap();
        match dump {
            Err(error) => Some(format!("needs criu: {error}")),
            Ok(output) if output.status.success() => None,
            Ok(_) => Some("criu cannot dump on this kernel".into()),
        }
    })
}

/// A pod with a network of its own where criu has the program to shut that with, and else on the node's.
fn checkpointable(node: &TestNode) -> cri::PodSandboxConfig {
    let mut config = pod(node, "web");
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("iptables-restore").is_file()) {
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    }
    config
}

fn in_namespaces_of(pod: &cri::PodSandboxConfig, mut config: cri::ContainerConfig) -> cri::ContainerConfig {
    let options = pod.linux.as_ref().unwrap().security_context.as_ref().unwrap().namespace_options.clone();
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = options;
    config
}

/// Counts in a file of its root, which it says too.
const COUNTER: &str = "busybox rm /etc/group; i=0; while :; do i=$((i+1)); echo $i > /new; busybox mv /new /count; \
                       echo at $i; sleep 0.1; done";

async fn count(client: &mut Client, container: &str) -> u64 {
    let output = client.exec(container, &["cat", "/count"], 20).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
}

async fn count_above(client: &mut Client, container: &str, least: u64) -> u64 {
    loop {
        let now = count(client, container).await;
        if now > least {
            return now;
        }
        assert_eq!(client.status(container).await.state(), cri::ContainerState::ContainerRunning);
    }
}

/// An image made of the files of an archive.
fn checkpoint_image(archive: &Path) -> Vec<u8> {
    let layer = fs::read(archive).unwrap();
    let digest = |bytes: &[u8]| wharf_images::Digest::of(bytes).to_string();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let descriptor =
        |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        "annotations": {"io.kubernetes.cri-o.annotations.checkpoint.name": "counter"},
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "wharf.test/checkpoint:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let mut image = tar::Builder::new(Vec::new());
    append(&mut image, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#, 0o644);
    append(&mut image, "index.json", index.to_string().as_bytes(), 0o644);
    for blob in [&config, &manifest, &layer] {
        append(&mut image, &format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644);
    }
    image.into_inner().unwrap()
}

#[tokio::test]
async fn a_container_goes_on_from_its_checkpoint_as_archive_and_as_image() {
    const TEST: &str = "a_container_goes_on_from_its_checkpoint_as_archive_and_as_image";
    let Some(mut node) = node("ckpt").await else { return };
    if let Some(reason) = obstacle() {
        println!("SKIP {TEST}: {reason}");
        return;
    }
    let mut client = Client::of(&node).await;
    let web = checkpointable(&node);
    let in_web = |config| in_namespaces_of(&web, config);
    let id = client.run_pod(web.clone()).await;
    let counter = client.run(&id, in_web(container("counter", &["sh", "-c", COUNTER]))).await;
    count_above(&mut client, &counter, 3).await;
    let location = node.path("c.tar");
    let beside = node.path("data/containers").join(&counter);
    // Whether it is done in a second or not: the container runs on, and what was not done is undone.
    let hasty = cri::CheckpointContainerRequest { timeout: 1, ..checkpoint(&counter, &location) };
    if let Err(error) = client.runtime.checkpoint_container(hasty).await {
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(!location.exists());
        let gone = || !beside.join("checkpoint.new").exists();
        testnode::wait_for("the end of criu", Duration::from_secs(60), gone);
    }
    let then = count(&mut client, &counter).await;
    count_above(&mut client, &counter, then).await;

    client.runtime.checkpoint_container(checkpoint(&counter, &location)).await.unwrap();
    let then = count(&mut client, &counter).await;
    count_above(&mut client, &counter, then).await;
    assert_eq!(fs::metadata(&location).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(!beside.join("checkpoint.new").exists(), "what was on its way is gone");
    let saved = check_archive(&location, &counter);
    client.runtime.remove_container(cri::RemoveContainerRequest { container_id: counter }).await.unwrap();

    let store = wharf_images::Store::open(&node.path("data")).unwrap();
    let image = node.path("checkpoint.tar");
    fs::File::create(&image).unwrap().write_all(&checkpoint_image(&location)).unwrap();
    store.load(&image, None).await.unwrap();
    drop(store);
    for (name, image) in [("archive", location.to_str().unwrap()), ("image", "wharf.test/checkpoint:1")] {
        let copy = client.run(&id, in_web(of_image(name, image))).await;
        let now = count_above(&mut client, &copy, saved).await;
        // Not from the beginning, and not where the first one has come to since.
        let log = fs::read_to_string(node.path("logs/web").join(format!("{name}.log"))).unwrap();
        let first: u64 = log.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(first >= saved && first <= saved + 2 && now >= first, "{saved} {first} {now}");
        assert_eq!(client.exec(&copy, &["cat", "/etc/group"], 20).await.unwrap().exit_code, 1, "deleted is deleted");
        assert!(!node.path("data/containers").join(&copy).join("checkpoint").exists(), "images are needed no more");
        client.stop(&copy, 0).await;
        assert_eq!(client.status(&copy).await.exit_code, 137);
        client.runtime.remove_container(cri::RemoveContainerRequest { container_id: copy }).await.unwrap();
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// Looks at an archive as others would; returns how far the counter had come.
fn check_archive(location: &Path, container: &str) -> u64 {
    let mut archive = tar::Archive::new(fs::File::open(location).unwrap());
    let mut names = Vec::new();
    let mut saved = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        match name.as_str() {
            "config.dump" => {
                let metadata: Value = serde_json::from_slice(&content).unwrap();
                assert_eq!((&metadata["id"], &metadata["rootfsImageName"]), (&json!(container), &json!(IMAGE)));
            }
            "spec.dump" => {
                let spec: Value = serde_json::from_slice(&content).unwrap();
                assert_eq!(spec["annotations"]["io.kubernetes.cri.container-name"], "counter");
            }
            "deleted.files" => assert_eq!(content, br#"["/etc/group"]"#),
            "rootfs-diff.tar" => {
                for changed in tar::Archive::new(&*content).entries().unwrap() {
                    let mut changed = changed.unwrap();
                    if changed.path().unwrap().ends_with("count") {
                        let mut text = String::new();
                        std::io::Read::read_to_string(&mut changed, &mut text).unwrap();
                        saved = text.trim().parse().unwrap();
                    }
                }
            }
            _ => {}
        }
        names.push(name);
    }
    for wanted in ["checkpoint/inventory.img", "checkpoint/descriptors.json", "dump.log", "stats-dump"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted}: {names:?}");
    }
    assert!(saved > 0, "{names:?}");
    saved
}
