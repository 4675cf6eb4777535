//! A node whose containers have copies of their image in place of overlays.

use wharf_specs::cri;

use crate::testnode::{self, Client, Options, container, own_namespaces, pod};

#[tokio::test]
async fn containers_live_on_copies_where_overlayfs_is_not_used() {
    let keys = |_: &std::path::Path| Options { keys: "snapshots = \"copy\"\n".into(), ..Options::default() };
    let Some(node) = testnode::start_with("copied", keys).await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "copied")).await;
    let script = "echo mine > /etc/new; exec sleep 1000";
    let mut containers = Vec::new();
    for name in ["first", "second"] {
        containers.push(client.run(&id, container(name, &["sh", "-c", script])).await);
    }
    // Nobody sees what the other writes, and there is no overlay.
    for main in &containers {
        let script = "until [ -e /etc/new ]; do :; done; busybox grep ' / ' /proc/self/mounts; echo more >> /etc/new; cat /etc/new";
        let output = client.exec(main, &["sh", "-c", script], 10).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("overlay") && text.contains(" / ") && text.ends_with("mine\nmore\n"), "{text}");
        assert!(node.path(&format!("data/containers/{main}/root/etc/new")).exists());
    }

    let mapping = vec![cri::IdMapping { container_id: 0, host_id: 200_000, length: 65536 }];
    let users = cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping };
    let options = cri::NamespaceOption { userns_options: Some(users), ..own_namespaces() };
    let mut mapped = pod(&node, "mapped");
    mapped.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    let mapped = client.run_pod(mapped).await;
    let mut main = container("main", &["true"]);
    main.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
    let refused = client.create(&mapped, main).await.unwrap_err();
    assert!(refused.message().contains("userns_options: needs overlayfs"), "{refused}");

    for pod in [id, mapped] {
        client.remove_pod(&pod).await;
    }
    assert_eq!(std::fs::read_dir(node.path("data/containers")).unwrap().count(), 0);
}
