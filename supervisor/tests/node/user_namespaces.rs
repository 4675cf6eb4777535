//! Pods with a user namespace of their own: root inside, an ordinary user outside, and nobody's files change hands.

use std::os::unix::fs::MetadataExt;

use wharf_specs::cri;

use crate::testnode::{self, Client, container, own_namespaces, pod};

const HOST_ROOT: u32 = 200_000;

fn mapping() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { container_id: 0, host_id: HOST_ROOT, length: 65536 }]
}

pub fn options(pid: cri::NamespaceMode) -> cri::NamespaceOption {
    let users = cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
    cri::NamespaceOption { pid: pid.into(), userns_options: Some(users), ..own_namespaces() }
}

#[tokio::test]
async fn a_pod_s_root_is_nobody_on_the_node() {
    let Some(mut node) = testnode::start("userns").await else { return };
    let mut client = Client::of(&node).await;
    for (name, pid) in [("own", cri::NamespaceMode::Container), ("shared", cri::NamespaceMode::Pod)] {
        let mut config = pod(&node, name);
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(options(pid));
        config.linux.as_mut().unwrap().sysctls = [("net.ipv4.ip_unprivileged_port_start".into(), "80".into())].into();
        let id = client.run_pod(config).await;

        let volume = node.path(name);
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("of-root"), "x").unwrap();
        let mut main = container("main", &["sh", "-c", "id -u; echo made > /volume/new; echo > /etc/new; sleep 1000"]);
        main.mounts = vec![cri::Mount {
            container_path: "/volume".into(),
            host_path: volume.display().to_string(),
            uid_mappings: mapping(),
            gid_mappings: mapping(),
            ..Default::default()
        }];
        let security = main.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(options(pid));
        let add_capabilities = vec!["SYS_ADMIN".into()];
        security.capabilities = Some(cri::Capability { add_capabilities, ..Default::default() });
        let main = client.run(&id, main).await;
        let run = async |client: &mut Client, script: &str| {
            let output = client.exec(&main, &["sh", "-c", script], 10).await.unwrap();
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.exit_code, 0, "{script}: {text}");
            text.trim().to_owned()
        };
        // Inside: root, whose are the image's files, its own, and those of a volume with the pod's ids.
        let inside = "until [ -e /etc/new ]; do :; done; id -u; busybox stat -c %u /bin/busybox /etc/new /volume/of-root /volume/new";
        assert_eq!(run(&mut client, inside).await, "0\n0\n0\n0\n0", "{name}");
        let map = run(&mut client, "cat /proc/self/uid_map").await;
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
        // Its capabilities are good for what is the pod's.
        assert_eq!(run(&mut client, "busybox hostname renamed && hostname").await, "renamed");
        run(&mut client, "mkdir /tmp/m && busybox mount -t tmpfs none /tmp/m").await;
        assert_eq!(run(&mut client, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await, "80");
        let refused = client.exec(&main, &["sh", "-c", "echo 1 > /proc/sys/kernel/sysrq"], 10).await.unwrap();
        assert_ne!(refused.exit_code, 0);
        // Outside: the process is the mapped user's, and so is what it wrote into its layer; the volume's files are root's.
        let pid = client.verbose_pid(&main).await;
        let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        assert_eq!(owner, HOST_ROOT, "{name}");
        assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 0);
        let upper = node.path(&format!("data/containers/{main}/upper/etc/new"));
        assert_eq!(std::fs::metadata(upper).unwrap().uid(), HOST_ROOT);

        let status = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let status = client.runtime.pod_sandbox_status(status).await.unwrap().into_inner().status.unwrap();
        let shown = status.linux.unwrap().namespaces.unwrap().options.unwrap().userns_options.unwrap();
        assert_eq!(shown.uids, mapping());
        client.remove_pod(&id).await;
    }
    // The layers of the image have stayed as they were.
    let layers = std::fs::read_dir(node.path("data/snapshots")).unwrap().flatten();
    for layer in layers {
        let busybox = layer.path().join("fs/bin/busybox");
        assert_eq!(std::fs::metadata(&busybox).map(|file| file.uid()).unwrap_or(0), 0);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_without_its_pod_s_user_namespace_is_refused() {
    let Some(mut node) = testnode::start("userns-refused").await else { return };
    let mut client = Client::of(&node).await;
    let mut config = pod(&node, "users");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(options(cri::NamespaceMode::Container));
    let id = client.run_pod(config).await;
    let error = client.create(&id, container("main", &["true"])).await.unwrap_err();
    let field = "config.linux.security_context.namespace_options.userns_options";
    assert_eq!(error.message(), format!("{field}: is not the pod sandbox's"));
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
