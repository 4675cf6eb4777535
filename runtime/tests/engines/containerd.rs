use crate::{BOUNDED, Daemon, Engine, lines_on_terminal, missing, output, support, text};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::process::Command;

/// An image of one layer as `ctr images import` takes it (image-spec, image-layout.md), in a tar archive.
fn image(engine: &Engine) -> std::path::PathBuf {
    let blobs = engine.path("layout/blobs/sha256");
    fs::create_dir_all(&blobs).expect("mkdir");
    let blob = |bytes: &[u8], kind: &str| {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&digest), bytes).expect("write");
        json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let layer = blob(&fs::read(engine.archive()).expect("read"), "application/vnd.oci.image.layer.v1.tar");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let mut manifest = blob(manifest.to_string().as_bytes(), kind);
    manifest["annotations"] = json!({"io.containerd.image.name": "localhost/box:latest"});
    let layout = engine.path("layout");
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())
        .expect("write");
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string()).expect("write");
    let archive = engine.path("layout.tar");
    let made = Command::new("tar").arg("-C").arg(layout).arg("-cf").arg(&archive).arg(".").status();
    assert!(made.expect("tar").success());
    archive
}

#[test]
fn containerd_runs_containers_with_runw() {
    if missing("containerd_runs_containers_with_runw", &["containerd", "ctr", "nsenter", "unshare", "tar"]) {
        return;
    }
    let engine = Engine::new("containerd");
    let config = engine.path("config.toml");
    let directory = text(engine.directory.path()).to_string();
    let settings = format!(
        "version = 2\nroot = \"{directory}/root\"\nstate = \"{directory}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{directory}/sock\"\n"
    );
    fs::write(&config, settings).expect("write");
    let daemon = Daemon::start(&engine, &["containerd", "--config", text(&config)]);
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        // The client's pipes are in /run, which is the daemon's own. The namespace names the control groups.
        command.arg(daemon.mount_namespace()).args(BOUNDED).args(["ctr", "-n", &engine.mark, "-a"]);
        command.arg(engine.path("sock")).args(arguments);
        command
    };
    let run = |arguments: &[&str]| output(ctr(arguments));
    let image = image(&engine);
    run(&["images", "import", "--snapshotter", "native", text(&image)]);
    let new = ["--runc-binary", support::program(), "--snapshotter", "native", "localhost/box:latest"];
    assert_eq!(run(&[&["run", "--rm"], &new[..], &["one", "echo", "hello"]].concat()), "hello");
    run(&[&["run", "-d"], &new[..], &["two", "sleep", "1000"]].concat());
    assert_eq!(run(&["task", "exec", "--exec-id", "a", "two", "echo", "inside"]), "inside");
    // The client loses what a program writes that ends before it has set the size: this one waits for its input's end.
    let terminal = ctr(&["task", "exec", "--tty", "--exec-id", "b", "two", "sh", "-c", "tty; read line"]);
    let shown = lines_on_terminal(&terminal);
    assert!(shown.iter().any(|line| line == "/dev/pts/0"), "{shown:?}");
    let is = |status: &str| assert!(run(&["task", "ls"]).contains(status), "{}", run(&["task", "ls"]));
    is("RUNNING");
    run(&["task", "pause", "two"]);
    is("PAUSED");
    run(&["task", "resume", "two"]);
    is("RUNNING");
    assert!(run(&["task", "metrics", "two"]).contains("memory"));
    run(&["task", "kill", "-s", "KILL", "two"]);
    // By force, that is waiting for the end; the code is the task's.
    let deleted = ctr(&["task", "delete", "--force", "two"]).output().expect("ctr");
    assert!(String::from_utf8_lossy(&deleted.stderr).contains("137"), "{deleted:?}");
    run(&["containers", "rm", "two"]);
    run(&["images", "rm", "localhost/box:latest"]);
    daemon.stop();
    engine.assert_nothing_left();
}
