//! Fields of a container's configuration beyond what every pod has: each is carried out, as its process sees it.

use std::collections::BTreeSet;

use wharf_specs::cri;

use crate::testnode::{self, Client, TestNode, container, pod};

/// The container's script, run in place of its command to its end: what it wrote.
async fn output_of(client: &mut Client, node: &TestNode, pod: &str, config: cri::ContainerConfig) -> String {
    let name = config.metadata.as_ref().unwrap().name.clone();
    let id = client.run(pod, config).await;
    let status = client.wait_exit(&id).await;
    let log = std::fs::read_to_string(&status.log_path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    assert_eq!(status.exit_code, 0, "{name}: {lines:?} {} {}", status.message, node.path("").display());
    lines.join("\n")
}

fn script(name: &str, script: &str) -> cri::ContainerConfig {
    container(name, &["sh", "-c", script])
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

async fn refusal(client: &mut Client, pod: &str, config: cri::ContainerConfig) -> String {
    let status = client.create(pod, config).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    status.message().to_owned()
}

#[tokio::test]
async fn recursive_read_only_reaches_what_is_mounted_below() {
    let Some(mut node) = testnode::start("rro").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "rro")).await;
    let volume = node.path("volume");
    std::fs::create_dir_all(volume.join("below")).unwrap();
    let below = volume.join("below").display().to_string();
    assert!(node.inside(&["mount", "-t", "tmpfs", "tmpfs", &below]).status.success());
    let with = |name: &str, recursive| {
        let mount = cri::Mount {
            container_path: "/volume".into(),
            host_path: volume.display().to_string(),
            readonly: true,
            recursive_read_only: recursive,
            ..Default::default()
        };
        let try_both = "for place in . below; do mkdir /volume/$place/new 2>/dev/null && echo $place; done; true";
        cri::ContainerConfig { mounts: vec![mount], ..script(name, try_both) }
    };
    assert_eq!(output_of(&mut client, &node, &id, with("plain", false)).await, "below");
    let recursive = with("recursive", true);
    let created = client.create(&id, recursive.clone()).await.unwrap();
    assert!(client.status(&created).await.mounts[0].recursive_read_only);
    assert_eq!(output_of(&mut client, &node, &id, cri::ContainerConfig { ..with("again", true) }).await, "");
    client.remove_pod(&id).await;
    assert!(node.inside(&["umount", &below]).status.success());
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn ambient_capabilities_are_kept_by_an_ordinary_user() {
    let Some(mut node) = testnode::start("ambient").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "ambient")).await;
    let with = |name: &str, ambient: &[&str]| {
        let mut config = script(name, "cat /proc/self/status");
        security(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
        security(&mut config).capabilities = Some(cri::Capability {
            drop_capabilities: vec!["ALL".into()],
            add_ambient_capabilities: ambient.iter().map(|name| name.to_string()).collect(),
            ..Default::default()
        });
        config
    };
    let sets = output_of(&mut client, &node, &id, with("bind", &["NET_BIND_SERVICE"])).await;
    let bind = format!("{:016x}", 1 << 10);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(sets.contains(&format!("{set}:\t{bind}")), "{set}: {sets}");
    }
    let error = refusal(&mut client, &id, with("wrong", &["NOPE"])).await;
    assert_eq!(error, "config.linux.security_context.capabilities.add_ambient_capabilities: \"NOPE\" is no capability");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn strict_supplemental_groups_leave_out_those_of_the_image() {
    let Some(mut node) = testnode::start("groups").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "groups")).await;
    for (name, policy, expected) in [
        // The user's own group is one of them: without it a file could shut him out through his group.
        ("merge", cri::SupplementalGroupsPolicy::Merge, vec![12, 77, 1000]),
        ("strict", cri::SupplementalGroupsPolicy::Strict, vec![77, 1000]),
    ] {
        let mut config = script(name, "id -G");
        let security = security(&mut config);
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        security.supplemental_groups = vec![77];
        security.supplemental_groups_policy = policy.into();
        let created = client.create(&id, config).await.unwrap();
        let user = client.status(&created).await.user.unwrap().linux.unwrap();
        assert_eq!((user.gid, user.supplemental_groups), (1000, expected.clone()));
        client.runtime.start_container(cri::StartContainerRequest { container_id: created.clone() }).await.unwrap();
        let ended = client.wait_exit(&created).await;
        let log = std::fs::read_to_string(ended.log_path).unwrap();
        let shown: Vec<i64> = log.trim().split(' ').skip(3).map(|id| id.parse().unwrap()).collect();
        let shown = BTreeSet::from_iter(shown);
        assert_eq!(shown, BTreeSet::from_iter(expected), "{name}");
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_sees_the_processes_of_the_one_it_targets() {
    let Some(mut node) = testnode::start("target").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "target")).await;
    let main = client.run(&id, container("main", &["sleep", "4321"])).await;
    let with = |name: &str, target: &str| {
        let mut config = script(name, "ps");
        let options = security(&mut config).namespace_options.as_mut().unwrap();
        options.pid = cri::NamespaceMode::Target.into();
        options.target_id = target.into();
        config
    };
    let shown = output_of(&mut client, &node, &id, with("debug", &main)).await;
    assert!(shown.contains("sleep 4321"), "{shown}");
    // Its end is not the other's.
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);

    let other = client.run_pod(pod(&node, "other")).await;
    let field = "config.linux.security_context.namespace_options.target_id";
    let error = refusal(&mut client, &other, with("stranger", &main)).await;
    assert_eq!(error, format!("{field}: {main:?} is no container of this pod"));
    client.stop(&main, 0).await;
    let error = refusal(&mut client, &id, with("late", &main)).await;
    assert_eq!(error, format!("{field}: container {main} has ended"));
    for pod in [id, other] {
        client.remove_pod(&pod).await;
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn huge_pages_are_limited_or_refused_where_the_node_cannot() {
    let Some(mut node) = testnode::start("hugepages").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "huge")).await;
    let with = |name: &str, page_size: &str, limit| {
        let mut config = script(name, "true");
        let hugepage_limits = vec![cri::HugepageLimit { page_size: page_size.into(), limit }];
        config.linux.as_mut().unwrap().resources =
            Some(cri::LinuxContainerResources { hugepage_limits, ..Default::default() });
        config
    };
    assert_eq!(output_of(&mut client, &node, &id, with("none", "2MB", 0)).await, "");
    let error = refusal(&mut client, &id, with("wrong", "2 MB", 0)).await;
    let field = "config.linux.resources.hugepage_limits[0].page_size";
    assert_eq!(error, format!("{field}: \"2 MB\" is no size as 2MB and 1GB are"));
    let unified = |at: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{at}cgroup.controllers"));
    let has = |at: &str| unified(at).is_ok_and(|controllers| controllers.contains("hugetlb"));
    let limited = has("") || has("unified/") || std::path::Path::new("/sys/fs/cgroup/hugetlb").is_dir();
    let config = with("some", "2MB", 4 << 20);
    if limited {
        let created = client.create(&id, config).await.unwrap();
        let resources = client.status(&created).await.resources.unwrap().linux.unwrap();
        assert_eq!(resources.hugepage_limits[0].limit, 4 << 20);
        // And as the kernel has it, wherever the controller is.
        let group = format!("{}/{id}/{created}", node.cgroup());
        let files = ["hugetlb/G/hugetlb.2MB.limit_in_bytes", "unified/G/hugetlb.2MB.max", "G/hugetlb.2MB.max"];
        let read = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{}", file.replace('G', &group)));
        let kept = files.iter().find_map(|file| read(file).ok());
        assert!(node.cgroup().contains(".slice") || kept.as_deref() == Some("4194304\n"), "{kept:?}");
    } else {
        let error = refusal(&mut client, &id, config).await;
        assert!(error.starts_with("linux.resources.hugepage_limits: 2MB: "), "{error}");
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn cdi_devices_bring_what_their_vendor_says() {
    let spec = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": "vendor.example/box",
        "devices": [{"name": "one", "containerEdits": {
            "env": ["BOX=one"],
            "deviceNodes": [{"path": "/dev/box", "hostPath": "/dev/zero", "permissions": "rw"}],
            "mounts": [{"hostPath": "/bin/busybox", "containerPath": "/opt/box", "options": ["ro", "bind"]}],
            "hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", "touch HOOKED"]}],
            "additionalGids": [77],
        }}],
    });
    let text = std::cell::RefCell::new(String::new());
    let options = |folder: &std::path::Path| {
        *text.borrow_mut() = spec.to_string().replace("HOOKED", &folder.join("hooked").display().to_string());
        testnode::Options { keys: format!("cdi_folders = [{:?}]\n", folder.join("cdi")), ..Default::default() }
    };
    let Some(mut node) = testnode::start_with("cdi", options).await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "cdi")).await;
    let with = |name: &str| {
        let look = "echo $BOX; head -c 3 /dev/box | wc -c; test -x /opt/box && id -G";
        let look = look.replace("head", "busybox head").replace("wc", "busybox wc");
        let device = cri::CdiDevice { name: name.into() };
        cri::ContainerConfig { cdi_devices: vec![device], ..script("box", &look) }
    };
    // The vendor's agent writes its file while the node runs.
    let error = refusal(&mut client, &id, with("vendor.example/box=one")).await;
    assert!(error.starts_with("config.CDI_devices[0].name: \"vendor.example/box=one\" is in no file of "), "{error}");
    testnode::write_file(&node.path("cdi/vendor.json"), &text.borrow());
    let error = refusal(&mut client, &id, with("vendor.example/box=two")).await;
    assert!(error.contains("is in no file of"), "{error}");
    assert!(!node.path("hooked").exists());
    assert_eq!(output_of(&mut client, &node, &id, with("vendor.example/box=one")).await, "one\n3\n0 77");
    assert!(node.path("hooked").exists());
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// A docker-archive whose layers have these files.
fn image_archive(path: &std::path::Path, name: &str, layers: &[&[(&str, &str)]]) {
    let append = |archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).unwrap();
    };
    let mut archive = tar::Builder::new(Vec::new());
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for (index, files) in layers.iter().enumerate() {
        let mut layer = tar::Builder::new(Vec::new());
        files.iter().for_each(|(name, content)| append(&mut layer, name, content.as_bytes()));
        let layer = layer.into_inner().unwrap();
        names.push(format!("{index}.tar"));
        ids.push(wharf_images::Digest::of(&layer).to_string());
        append(&mut archive, &names[index], &layer);
    }
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    append(&mut archive, "config.json", config.to_string().as_bytes());
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    append(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    std::fs::write(path, archive.into_inner().unwrap()).unwrap();
}

#[tokio::test]
async fn images_are_volumes_whole_and_in_part() {
    let Some(mut node) = testnode::start("image-mounts").await else { return };
    let name = "wharf.test/data:1";
    let archive = node.path("data.tar");
    image_archive(&archive, name, &[&[("a/one", "1"), ("run", "#!/bin/sh\necho ran\n")], &[("a/two", "2")]]);
    crate::replicas::wharf(&node, &["load", "-i", archive.to_str().unwrap()]);
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "images")).await;
    let mount = |path: &str, sub_path: &str| cri::Mount {
        container_path: path.into(),
        image: Some(cri::ImageSpec { image: name.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    };
    let look = "cat /whole/a/one /whole/a/two /part/two /file; echo; for place in whole part; do touch /$place/new 2>/dev/null && echo wrote; done; /whole/run 2>/dev/null || echo is no program";
    let mounts = vec![mount("/whole", ""), mount("/part", "a"), mount("/file", "a/one")];
    let config = cri::ContainerConfig { mounts, ..script("look", look) };
    let created = client.create(&id, config).await.unwrap();
    let shown = client.status(&created).await.mounts;
    let image = shown.iter().find(|mount| mount.container_path == "/part").unwrap();
    assert_eq!((image.image_sub_path.as_str(), image.image.as_ref().unwrap().image.as_str()), ("a", name));
    assert!(image.image.as_ref().unwrap().image_ref.starts_with("sha256:"));
    client.runtime.start_container(cri::StartContainerRequest { container_id: created.clone() }).await.unwrap();
    let ended = client.wait_exit(&created).await;
    let log = std::fs::read_to_string(&ended.log_path).unwrap();
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    assert_eq!(lines, ["1221", "ran"]);

    let with = |mount| cri::ContainerConfig { mounts: vec![mount], ..script("wrong", "true") };
    for path in ["../etc", "/a", "none"] {
        let error = refusal(&mut client, &id, with(mount("/x", path))).await;
        assert!(error.starts_with(&format!("config.mounts.image_sub_path: {path:?} ")), "{error}");
    }
    let both = cri::Mount { host_path: "/etc".into(), ..mount("/x", "") };
    assert_eq!(refusal(&mut client, &id, with(both)).await, "config.mounts[0].host_path: is given beside image");
    let written = cri::Mount { readonly: false, ..mount("/x", "") };
    let expected = "config.mounts[0].readonly: is false, and images are not written to";
    assert_eq!(refusal(&mut client, &id, with(written)).await, expected);
    let mut missing = mount("/x", "");
    missing.image.as_mut().unwrap().image = "wharf.test/none:1".into();
    assert_eq!(client.create(&id, with(missing)).await.unwrap_err().code(), tonic::Code::NotFound);
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
