//! Pods of other OCI runtimes: the same pods, another program in place of the shim's own.

use std::path::Path;
use std::time::Duration;

use wharf_specs::cri;

use crate::testnode::{self, Client, TestNode, container, pod};

const RUNTIMES: [(&str, &str); 2] = [("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")];

async fn lives_a_whole_life(node: &mut TestNode, handler: &str) {
    let mut client = Client::of(node).await;
    let id = client.run_pod_of(pod(node, handler), handler).await.unwrap();
    let script = "trap 'echo stopped; exit 5' TERM; echo out; echo err >&2; while :; do sleep 1000 & wait $!; done";
    let mut main = container("main", &["sh", "-c", script]);
    main.linux.as_mut().unwrap().resources =
        Some(cri::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
    let main = client.run(&id, main).await;
    let log = client.status(&main).await.log_path;
    testnode::wait_for("its output", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("stdout F out\n") && text.contains("stderr F err\n")
    });
    // The process is of that program's making, with what every container has.
    assert!(
        node.path(&format!("run/pods/{id}/runtime/{main}")).is_dir(),
        "{handler} keeps its state in the pod's folder"
    );
    let shown =
        client.exec(&main, &["sh", "-c", "hostname; cat /proc/1/comm; echo $FROM_IMAGE; exit 3"], 10).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout), format!("{handler}\nsh\nyes\n"), "{handler}");
    assert_eq!(shown.exit_code, 3);
    let error = client.exec(&main, &["sh", "-c", "busybox setsid sleep 4001 & exec sleep 4002"], 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    let missing = client.exec(&main, &["no-such-program"], 10).await.unwrap_err();
    assert!(missing.message().contains("no-such-program"), "{handler}: {missing}");

    let update = cri::UpdateContainerResourcesRequest {
        container_id: main.clone(),
        linux: Some(cri::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() }),
        ..Default::default()
    };
    client.runtime.update_container_resources(update).await.unwrap();

    // A terminal of its own.
    let tty = cri::ContainerConfig {
        tty: true,
        ..container("tty", &["sh", "-c", "test -t 0 && test -t 1 && echo is a terminal"])
    };
    let tty = client.run(&id, tty).await;
    let ended = client.wait_exit(&tty).await;
    assert_eq!(ended.exit_code, 0, "{handler}");
    assert!(std::fs::read_to_string(&ended.log_path).unwrap().contains("is a terminal"));

    node.kill_wharfd();
    node.start_wharfd();
    let mut client = Client::of(node).await;
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);
    client.stop(&main, 10).await;
    let ended = client.status(&main).await;
    assert_eq!(ended.exit_code, 5, "{handler}: {ended:?}");
    assert!(std::fs::read_to_string(&log).unwrap().contains("stopped"));

    let wrong = client.create(&id, container("wrong", &["no-such-program"])).await;
    let message = match wrong {
        Err(status) => status.message().to_owned(),
        Ok(created) => {
            let request = cri::StartContainerRequest { container_id: created };
            client.runtime.start_container(request).await.unwrap_err().message().to_owned()
        }
    };
    assert!(message.contains("no-such-program") && !message.contains('\n'), "{handler}: {message}");
    client.remove_pod(&id).await;
}

fn runs_here(name: &str, path: &str) -> bool {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if name == "crun" && !unified && Path::new("/sys/fs/cgroup/unified").exists() {
        println!("SKIP pods_of_other_runtimes_live_as_those_of_our_own: crun refuses hybrid control groups");
        return false;
    }
    Path::new(path).exists()
}

#[tokio::test]
async fn pods_of_other_runtimes_live_as_those_of_our_own() {
    let found: Vec<_> = RUNTIMES.into_iter().filter(|(name, path)| runs_here(name, path)).collect();
    if found.is_empty() {
        println!("SKIP pods_of_other_runtimes_live_as_those_of_our_own: neither runc nor crun");
        return;
    }
    let keys = found.iter().map(|(name, path)| format!("runtimes.{name}.path = {path:?}\n")).collect();
    let options = |_: &Path| testnode::Options { keys, ..Default::default() };
    let Some(mut node) = testnode::start_with("handlers", options).await else { return };
    let mut client = Client::of(&node).await;
    let status = client.runtime.status(cri::StatusRequest { verbose: false }).await.unwrap().into_inner();
    let own = status.runtime_handlers.iter().find(|handler| handler.name.is_empty()).unwrap().features.unwrap();
    assert!(own.recursive_read_only_mounts && own.user_namespaces);
    for (name, _) in &found {
        let other = status.runtime_handlers.iter().find(|handler| handler.name == *name).unwrap().features.unwrap();
        assert!(!other.recursive_read_only_mounts && !other.user_namespaces);
        lives_a_whole_life(&mut node, name).await;
    }
    let mut client = Client::of(&node).await;
    let error = client.run_pod_of(pod(&node, "none"), "kata").await.unwrap_err();
    assert!(error.message().starts_with("runtime_handler: \"kata\" is none of the configured ones"), "{error}");
    let id = client.run_pod_of(pod(&node, "refused"), found[0].0).await.unwrap();
    let mount = cri::Mount {
        container_path: "/x".into(),
        host_path: node.path("x").display().to_string(),
        propagation: cri::MountPropagation::PropagationBidirectional.into(),
        ..Default::default()
    };
    let config = cri::ContainerConfig { mounts: vec![mount], ..container("main", &["true"]) };
    let error = client.create(&id, config).await.unwrap_err();
    assert!(error.message().starts_with("config.mounts[0].propagation: BIDIRECTIONAL is not possible"), "{error}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
