//! ExecSync's bounds, and logs that are moved away under a container that writes.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use wharf_specs::cri;

use crate::testnode::{self, Client, TestNode, container, pod};

/// Whether the pod's shim waits for something to happen, rather than finding again and again what has happened.
fn shim_sleeps(node: &TestNode, pod: &str) -> bool {
    let folder = node.path("run/pods").join(pod);
    let folder = folder.to_str().unwrap();
    let shims = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.contains("wharf-shim --dir") && command.contains(folder)
    });
    let states: Vec<String> =
        shims.map(|shim| std::fs::read_to_string(shim.path().join("stat")).unwrap_or_default()).collect();
    assert_eq!(states.len(), 1, "{states:?}");
    // After the name in parentheses.
    states[0].rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S "))
}

#[tokio::test]
async fn the_shim_of_containers_that_have_ended_sleeps() {
    let Some(mut node) = testnode::start("shimsleeps").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "ended")).await;
    let limit = Duration::from_secs(10);
    let mut config = container("main", &["sleep", "1000"]);
    config.stdin = true;
    let main = client.run(&id, config).await;
    client.exec(&main, &["sh", "-c", "echo said"], 10).await.unwrap();
    testnode::wait_for("sleep after an exec", limit, || shim_sleeps(&node, &id));
    client.stop(&main, 0).await;
    client.wait_exit(&main).await;
    testnode::wait_for("sleep after the end", limit, || shim_sleeps(&node, &id));

    let mut config = container("terminal", &["sh", "-c", "echo said"]);
    config.tty = true;
    let terminal = client.run(&id, config).await;
    client.wait_exit(&terminal).await;
    testnode::wait_for("sleep after a terminal's end", limit, || shim_sleeps(&node, &id));
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_seccomp_filter_is_compiled_once_for_all_containers_and_execs() {
    let Some(mut node) = testnode::start("seccompcache").await else { return };
    let mut client = Client::of(&node).await;
    let filters = || -> Vec<u64> {
        let folder = std::fs::read_dir(node.path("run/seccomp"));
        folder.into_iter().flatten().flatten().map(|entry| entry.metadata().unwrap().ino()).collect()
    };
    let id = client.run_pod(pod(&node, "filtered")).await;
    let mut seen = filters();
    assert_eq!(seen.len(), 0);
    for name in ["one", "two"] {
        let container = client.run(&id, container(name, &["sleep", "1000"])).await;
        for _ in 0..2 {
            let command = ["busybox", "grep", "Seccomp:", "/proc/self/status", "/proc/1/status"];
            let said = client.exec(&container, &command, 10).await;
            let said = String::from_utf8(said.unwrap().stdout).unwrap();
            assert_eq!(said.matches("Seccomp:\t2").count(), 2, "{said}");
            let now = filters();
            assert!(now.len() == 1 && (seen.is_empty() || now == seen), "{now:?} after {seen:?}");
            seen = now;
        }
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn an_exec_whose_time_is_over_is_ended_with_all_it_started() {
    let Some(mut node) = testnode::start("exec-timeout").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "exec")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    // Children in groups, sessions and pipes of their own; the pipes stay open behind the first process.
    let script =
        "busybox setsid sleep 4001 & (busybox setsid sh -c 'sleep 4002; :') & sh -c 'sleep 4003' & exec sleep 4004";
    let error = client.exec(&main, &["sh", "-c", script], 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded, "{error}");
    testnode::wait_for_async("the end of the exec's processes", Duration::from_secs(10), async || {
        let shown = client.exec(&main, &["ps"], 5).await.unwrap();
        !String::from_utf8_lossy(&shown.stdout).contains("sleep 400")
    })
    .await;
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);

    // Output without end is taken up to what one answer holds.
    let endless =
        client.exec(&main, &["sh", "-c", "busybox yes x | busybox head -c 20000000; exit 3"], 60).await.unwrap();
    assert_eq!(endless.exit_code, 3);
    assert!((15 << 20..16 << 20).contains(&endless.stdout.len()), "{}", endless.stdout.len());
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_log_that_is_rotated_while_it_is_written_loses_nothing() {
    let Some(mut node) = testnode::start("rotate").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "logs")).await;
    let script = "i=0; while [ $i -lt 60000 ]; do echo $i; i=$((i+1)); done; printf end";
    let main = client.run(&id, container("main", &["sh", "-c", script])).await;
    let log = std::path::PathBuf::from(client.status(&main).await.log_path);
    let mut files = Vec::new();
    while files.len() < 200 {
        let moved = log.with_extension(format!("log.{}", files.len()));
        std::fs::rename(&log, &moved).unwrap();
        files.push(moved);
        let request = cri::ReopenContainerLogRequest { container_id: main.clone() };
        // The container may have ended meanwhile: then nothing more is written, and there is no new file to move.
        if let Err(status) = client.runtime.reopen_container_log(request).await {
            assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
            break;
        }
        assert!(log.exists());
    }
    client.wait_exit(&main).await;
    assert!(files.len() > 1, "the container ended before its log was moved");
    files.push(log);
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends in half a record", file.display());
        lines.extend(text.lines().map(|line| line.splitn(4, ' ').skip(2).collect::<Vec<_>>().join(" ")));
    }
    let expected: Vec<String> = (0..60000).map(|i| format!("F {i}")).chain(["P end".to_string()]).collect();
    assert_eq!(lines.len(), expected.len());
    assert!(lines == expected);
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
