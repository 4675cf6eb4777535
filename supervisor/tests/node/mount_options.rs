//! Options of mounts, which only take away.

use tonic::Code;
use wharf_specs::cri;

use crate::testnode::{self, Client, container, pod};

#[tokio::test]
async fn a_mount_denies_what_its_options_name() {
    let Some(mut node) = testnode::start("mountoptions").await else { return };
    let mut client = Client::of(&node).await;
    let status = client.runtime.status(cri::StatusRequest { verbose: false }).await.unwrap().into_inner();
    assert!(status.features.unwrap().mount_options, "a kubelet is told so");
    let id = client.run_pod(pod(&node, "web")).await;
    let volume = node.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::copy("/bin/busybox", volume.join("busybox")).unwrap();
    let mount = |path: &str, options: &[&str]| cri::Mount {
        container_path: path.into(),
        host_path: volume.display().to_string(),
        mount_options: options.iter().map(|option| option.to_string()).collect(),
        ..Default::default()
    };
    let mut config = container("main", &["sleep", "1000"]);
    config.mounts = vec![mount("/plain", &[]), mount("/data", &["noexec", "nodev", "nosuid"])];
    let main = client.run(&id, config.clone()).await;
    assert_eq!(client.exec(&main, &["/plain/busybox", "echo", "runs"], 10).await.unwrap().stdout, b"runs\n");
    let script = "/data/busybox echo runs || grep ' /data ' /proc/self/mountinfo; echo written >/data/file";
    let output =
        client.exec(&main, &["busybox", "sh", "-c", &script.replace("grep", "busybox grep")], 10).await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let options = shown.split_whitespace().nth(5).unwrap_or_default();
    assert!(["rw", "noexec", "nodev", "nosuid"].iter().all(|option| options.contains(option)), "{shown}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "written\n");
    let mounts = client.status(&main).await.mounts;
    assert_eq!(mounts[1].mount_options, ["noexec", "nodev", "nosuid"]);

    config.metadata.as_mut().unwrap().name = "wrong".into();
    config.mounts[1].mount_options = vec!["nodev".into(), "suid".into()];
    let error = client.create(&id, config).await.unwrap_err();
    let message = r#"config.mounts[1].mount_options[1]: "suid" is none of noexec, nodev, nosuid"#;
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, message));
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
