//! The CRI door on a real kernel: pods, containers, logs, exec, restarts of the daemon, and nothing left behind.

use std::time::{Duration, Instant};

use crate::testnode::{self, Client, container, pod};
use tonic::Code;
use wharf_specs::cri;

#[tokio::test]
async fn a_container_runs_logs_execs_stops_and_leaves_nothing() {
    let Some(mut node) = testnode::start("lifecycle").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let again = client.run_pod(pod(&node, "web")).await;
    assert_eq!(id, again, "the retry of a request joins it");

    let script = "echo out; echo err >&2; hostname; echo $FROM_IMAGE; exec sleep 1000";
    let main = client.run(&id, container("main", &["sh", "-c", script])).await;
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);

    let log = node.path("logs/web/main.log");
    testnode::wait_for("the log", Duration::from_secs(5), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() >= 4)
    });
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains(" stdout F out\n") && text.contains(" stderr F err\n"), "{text}");
    assert!(text.contains(" stdout F web\n") && text.contains(" stdout F yes\n"), "{text}");

    let output = client.exec(&main, &["sh", "-c", "echo hi; echo no >&2; exit 3"], 5).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice(), output.exit_code), (&b"hi\n"[..], &b"no\n"[..], 3));

    client.stop(&main, 1).await;
    let status = client.status(&main).await;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert!([143, 137].contains(&status.exit_code), "{status:?}");
    assert!(status.finished_at >= status.started_at && status.started_at >= status.created_at);

    client.stop_pod(&id).await;
    client.stop_pod(&id).await;
    client.remove_pod(&id).await;
    client.remove_pod(&id).await;
    let all = client.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(all.containers.is_empty());
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn exec_ends_the_whole_process_tree_when_its_time_is_over() {
    let Some(node) = testnode::start("exectimeout").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let started = Instant::now();
    let error = client.exec(&main, &["sh", "-c", "sleep 777 & sleep 888"], 1).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
    let processes = client.exec(&main, &["ps"], 5).await.unwrap();
    let processes = String::from_utf8(processes.stdout).unwrap();
    assert!(!processes.contains("sleep 777") && !processes.contains("sleep 888"), "{processes}");

    let error = client.exec(&main, &["/nonexistent"], 5).await;
    assert!(error.is_err() || error.is_ok_and(|output| output.exit_code != 0));
    client.remove_pod(&id).await;
}

#[tokio::test]
async fn exit_codes_and_reasons_are_told() {
    let Some(node) = testnode::start("exits").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    for (name, command, code, reason) in [
        ("fine", &["true"][..], 0, "Completed"),
        ("seven", &["sh", "-c", "exit 7"], 7, "Error"),
        ("killed", &["sh", "-c", "kill -9 $$; sleep 9"], 137, "Error"),
    ] {
        let id = client.run(&id, container(name, command)).await;
        // PID 1 of a namespace ignores signals from inside: `killed` ends by stop.
        if name == "killed" {
            client.stop(&id, 0).await;
        }
        let status = client.wait_exit(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
    }
    let mut hungry = container("hungry", &["sh", "-c", "x=a; while true; do x=$x$x; done"]);
    let limits = cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    hungry.linux.as_mut().unwrap().resources = Some(limits);
    let hungry = client.run(&id, hungry).await;
    let status = client.wait_exit(&hungry).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    let missing = client.create(&id, container("missing", &["/nonexistent"])).await;
    if let Ok(missing) = missing {
        let start = cri::StartContainerRequest { container_id: missing.clone() };
        let error = client.runtime.start_container(start).await.unwrap_err();
        assert!(error.message().contains("/nonexistent"), "{error}");
        let status = client.wait_exit(&missing).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    }
    client.remove_pod(&id).await;
}

#[tokio::test]
async fn a_killed_daemon_loses_neither_containers_nor_exit_codes() {
    let Some(mut node) = testnode::start("restart").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let address = client.address(&id).await;
    let stays = client.run(&id, container("stays", &["sleep", "1000"])).await;
    let ends = client.run(&id, container("ends", &["sh", "-c", "sleep 1; exit 42"])).await;
    let created = client.create(&id, container("created", &["sh", "-c", "exit 5"])).await.unwrap();
    let before = client.status(&stays).await;

    node.kill_wharfd();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    node.start_wharfd();

    let mut client = Client::of(&node).await;
    let after = client.status(&stays).await;
    assert_eq!(after, before);
    let ended = client.status(&ends).await;
    assert_eq!((ended.state(), ended.exit_code), (cri::ContainerState::ContainerExited, 42));
    assert_eq!(client.address(&id).await, address);
    let output = client.exec(&stays, &["echo", "back"], 5).await.unwrap();
    assert_eq!(output.stdout, b"back\n");
    let start = cri::StartContainerRequest { container_id: created.clone() };
    client.runtime.start_container(start).await.unwrap();
    assert_eq!(client.wait_exit(&created).await.exit_code, 5);
    client.stop(&stays, 0).await;
    assert_eq!(client.status(&stays).await.exit_code, 137);
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dead_shim_ends_its_pod_and_no_other() {
    let Some(mut node) = testnode::start("deadshim").await else { return };
    let mut client = Client::of(&node).await;
    let one = client.run_pod(pod(&node, "one")).await;
    let two = client.run_pod(pod(&node, "two")).await;
    let lost = client.run(&one, container("main", &["sleep", "1000"])).await;
    let kept = client.run(&two, container("main", &["sleep", "1000"])).await;
    let verbose = cri::PodSandboxStatusRequest { pod_sandbox_id: one.clone(), verbose: true };
    let info = client.runtime.pod_sandbox_status(verbose).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let shim = rustix::process::Pid::from_raw(info["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();

    let status = client.wait_exit(&lost).await;
    assert_ne!(status.exit_code, 0);
    assert_eq!(client.status(&kept).await.state(), cri::ContainerState::ContainerRunning);
    client.remove_pod(&one).await;
    client.remove_pod(&two).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn wrong_requests_are_refused_by_field_and_leave_nothing() {
    let Some(mut node) = testnode::start("refusals").await else { return };
    let mut client = Client::of(&node).await;

    let run = |config| cri::RunPodSandboxRequest { config, runtime_handler: String::new() };
    let mut sysctl = pod(&node, "web");
    sysctl.linux.as_mut().unwrap().sysctls.insert("kernel.core_pattern".into(), "|/x".into());
    let nameless = cri::PodSandboxConfig { metadata: None, ..pod(&node, "web") };
    for (config, field) in
        [(None, "config"), (Some(nameless), "config.metadata"), (Some(sysctl), "config.linux.sysctls")]
    {
        let error = client.runtime.run_pod_sandbox(run(config)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().starts_with(field), "{error}");
    }
    let handler = cri::RunPodSandboxRequest { config: Some(pod(&node, "web")), runtime_handler: "nope".into() };
    let error = client.runtime.run_pod_sandbox(handler).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().starts_with("runtime_handler"), "{error}");

    let id = client.run_pod(pod(&node, "web")).await;
    let mut unknown = container("main", &["true"]);
    unknown.image.as_mut().unwrap().image = "nope:1".into();
    assert_eq!(client.create(&id, unknown).await.unwrap_err().code(), Code::NotFound);
    let outside = cri::ContainerConfig { log_path: "../../escape".into(), ..container("main", &["true"]) };
    let error = client.create(&id, outside).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().starts_with("config.log_path"), "{error}");
    let mut user = container("main", &["true"]);
    let security = user.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_username = "nobody-knows".into();
    let error = client.create(&id, user).await.unwrap_err();
    assert!(error.message().contains("run_as_username"), "{error}");

    let main = client.create(&id, container("main", &["true"])).await.unwrap();
    let other = container("main", &["false"]);
    assert_eq!(client.create(&id, other).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(client.exec(&main, &["true"], 1).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.exec("ffff", &["true"], 1).await.unwrap_err().code(), Code::NotFound);
    let checkpoint = cri::CheckpointContainerRequest { container_id: main, ..Default::default() };
    let error = client.runtime.checkpoint_container(checkpoint).await.unwrap_err();
    assert!(error.code() == Code::Unimplemented && error.message().contains("CheckpointContainer"), "{error}");

    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn users_mounts_and_limits_reach_the_container() {
    let Some(node) = testnode::start("settings").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let shared = node.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the node").unwrap();

    let mut config = container("main", &["sleep", "1000"]);
    config.mounts = vec![cri::Mount {
        container_path: "/data".into(),
        host_path: shared.display().to_string(),
        readonly: true,
        ..Default::default()
    }];
    config.envs = vec![cri::KeyValue { key: "GREETING".into(), value: b"hello world".into() }];
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_username = "web".into();
    security.supplemental_groups = vec![77];
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.capabilities = Some(cri::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    config.linux.as_mut().unwrap().resources =
        Some(cri::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
    let main = client.run(&id, config).await;
    let mut shell = async |script: &str| {
        let output = client.exec(&main, &["sh", "-c", script], 5).await.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_string()
    };
    assert_eq!(shell("id -u; id -g; id -G").await.replace('\n', " "), "1000 1000 1000 12 77");
    assert_eq!(shell("cat /data/file; echo; echo $GREETING $HOME").await, "from the node\nhello world /home/web");
    assert!(shell("echo x > /data/file").await.contains("Read-only"));
    assert!(shell("echo x > /tmp/file").await.contains("Read-only"));
    assert!(shell("cat /proc/self/status").await.contains("CapEff:\t0000000000000000"));
    assert!(shell("cat /proc/self/status").await.contains("Seccomp:\t2"));
    assert!(shell("cat /etc/hosts").await.contains("\tweb"));
    assert_eq!(shell("cat /etc/hostname").await, "web");
    assert_eq!(shell("echo x > /dev/shm/x && cat /dev/shm/x").await, "x");

    let stats = cri::ContainerStatsRequest { container_id: main.clone() };
    let stats = client.runtime.container_stats(stats).await.unwrap().into_inner().stats.unwrap();
    let memory = stats.memory.unwrap();
    assert!(memory.usage_bytes.unwrap().value > 0);
    assert!(memory.available_bytes.unwrap().value <= 64 << 20);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    client.remove_pod(&id).await;
}

#[tokio::test]
async fn images_are_listed_inspected_and_removed() {
    let Some(node) = testnode::start("images").await else { return };
    let mut images = node.images().await;
    let list = images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].repo_tags, [testnode::IMAGE]);
    let spec = |image: &str| Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let status = |image: &str| cri::ImageStatusRequest { image: spec(image), verbose: true };
    let found = images.image_status(status(&list[0].id)).await.unwrap().into_inner();
    assert!(found.info["info"].contains("FROM_IMAGE=yes"));
    assert!(images.image_status(status("nope:1")).await.unwrap().into_inner().image.is_none());
    let pull = |image: &str| cri::PullImageRequest { image: spec(image), ..Default::default() };
    assert_eq!(images.pull_image(pull("UPPER//case")).await.unwrap_err().code(), Code::InvalidArgument);
    let error = images.pull_image(pull("127.0.0.1:1/x:1")).await.unwrap_err();
    assert!(error.message().contains("127.0.0.1:1"), "{error}");
    let remove = cri::RemoveImageRequest { image: spec(testnode::IMAGE) };
    images.remove_image(remove.clone()).await.unwrap();
    images.remove_image(remove).await.unwrap();
    assert!(images.image_status(status(testnode::IMAGE)).await.unwrap().into_inner().image.is_none());
}
