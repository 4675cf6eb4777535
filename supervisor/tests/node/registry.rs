//! Debian's registry inside a node's network.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::testnode::{TestNode, wait_for};

pub const REGISTRY: &str = "127.0.0.1:5000";

/// What this machine lacks for one.
pub fn missing() -> Option<String> {
    let programs = ["/usr/bin/docker-registry", "/usr/bin/skopeo"];
    programs.into_iter().find(|program| !Path::new(program).is_file()).map(|program| format!("no {program}"))
}

/// Who may come in where a login is asked for.
pub const LOGIN: &str = "somebody:open-sesame";
/// The same, as `htpasswd -B` writes it.
const PASSWORDS: &str = "somebody:$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO\n";

pub struct Registry(Child);

impl Registry {
    pub fn start(node: &TestNode) -> Self {
        Self::start_with(node, "")
    }

    /// One that wants [`LOGIN`].
    pub fn start_closed(node: &TestNode) -> Self {
        let passwords = node.path("passwords");
        std::fs::write(&passwords, PASSWORDS).unwrap();
        Self::start_with(node, &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", passwords.display()))
    }

    fn start_with(node: &TestNode, more: &str) -> Self {
        let config = node.path("registry.yml");
        let storage = node.path("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = node
            .enter()
            .args(["docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self(child);
        wait_for("the registry", Duration::from_secs(10), || {
            let answers =
                node.inside(&["skopeo", "list-tags", "--tls-verify=false", &format!("docker://{REGISTRY}/none")]);
            !String::from_utf8_lossy(&answers.stderr).contains("connection refused")
        });
        registry
    }

    /// Sends `image` of a docker-archive in the node's folder there as `target`; returns its digest.
    pub fn push(&self, node: &TestNode, archive: &str, image: &str, target: &str) -> String {
        let source = format!("docker-archive:{}:{image}", node.path(archive).display());
        let target = format!("docker://{REGISTRY}/{target}");
        let digest = node.path("digest");
        let file = digest.to_str().unwrap();
        let pushed = node.inside(&[
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            "--dest-creds",
            LOGIN,
            "--digestfile",
            file,
            &source,
            &target,
        ]);
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        std::fs::read_to_string(digest).unwrap().trim().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
