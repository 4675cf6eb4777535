//! AppArmor profiles of the node. On a kernel without AppArmor, that they are refused.

use std::io::Write;
use std::process::{Command, Stdio};

use tonic::Code;
use wharf_specs::cri;
use wharf_specs::cri::security_profile::ProfileType;

use crate::testnode::{self, Client, container, pod};

/// Whether the kernel enforces profiles.
pub fn enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// A profile in the kernel until this is dropped.
struct Profile {
    name: String,
    text: String,
}

impl Profile {
    /// Everything but writing files. `None` where there is nothing that loads one.
    fn load(name: &str) -> Option<Self> {
        let name = format!("{name}-{}", std::process::id());
        let text = format!("profile {name} flags=(attach_disconnected) {{\n  file,\n  signal,\n  deny /** w,\n}}\n");
        let profile = Self { name, text };
        profile.parser("--replace").then_some(profile)
    }

    /// False where there is no parser.
    fn parser(&self, action: &str) -> bool {
        let mut command = Command::new("apparmor_parser");
        let Ok(mut child) = command.args([action, "--skip-cache"]).stdin(Stdio::piped()).spawn() else { return false };
        child.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "apparmor_parser {action}: {}", self.text);
        true
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

fn under(name: &str, command: &[&str]) -> cri::ContainerConfig {
    let mut config = container("held", command);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.apparmor = Some(cri::SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: format!("localhost/{name}"),
    });
    config
}

#[tokio::test]
async fn a_container_is_not_made_under_an_apparmor_profile_that_the_kernel_does_not_have() {
    let Some(mut node) = testnode::start("aarefused").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let error = client.create(&id, under("wharf-none", &["true"])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let reason = if enabled() { "is not loaded on this node" } else { "AppArmor is not enabled on this node" };
    let field = "config.linux.security_context.apparmor: profile \"wharf-none\"";
    assert!(error.message().starts_with(field) && error.message().contains(reason), "{error}");

    for (old, words) in [("localhost/wharf-none", reason), ("localhost/", "is no name"), ("strict", "is neither")] {
        let mut config = container("old", &["true"]);
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        #[allow(deprecated)]
        security.apparmor_profile.push_str(old);
        let error = client.create(&id, config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(words), "{error}");
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn an_apparmor_profile_holds_a_container_and_what_is_executed_in_it() {
    const TEST: &str = "an_apparmor_profile_holds_a_container_and_what_is_executed_in_it";
    let Some(mut node) = testnode::start("aaholds").await else { return };
    if !enabled() {
        println!("SKIP {TEST}: the kernel has no AppArmor");
        return;
    }
    let Some(profile) = Profile::load("wharf-test") else {
        println!("SKIP {TEST}: needs apparmor_parser");
        return;
    };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let script = "echo x >/tmp/x; cat /proc/self/attr/current; exec sleep 1000";
    let held = client.run(&id, under(&profile.name, &["sh", "-c", script])).await;
    let log = client.status(&held).await.log_path;
    let shown = format!("{} (enforce)", profile.name);
    testnode::wait_for("what it says", std::time::Duration::from_secs(20), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&shown))
    });
    assert!(std::fs::read_to_string(&log).unwrap().contains("Permission denied"));
    let executed =
        client.exec(&held, &["sh", "-c", "echo x >/tmp/y || cat /proc/self/attr/current"], 20).await.unwrap();
    assert_eq!(String::from_utf8(executed.stdout).unwrap().trim(), shown);
    client.stop(&held, 0).await;
    client.remove_pod(&id).await;
    drop(profile);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
