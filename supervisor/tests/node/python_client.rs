//! The official Python client of Kubernetes, from PyPI, against the API door.

use std::process::{Command, Stdio};

use crate::kubectl::proxy;
use crate::replicas::{LIMIT, assert_nothing_left, list};
use crate::testnode::{self, IMAGE, wait_for};

#[tokio::test]
async fn the_official_python_client_works() {
    let Some(python) = testnode::tool("python/bin/python") else {
        println!(
            "SKIP the_official_python_client_works: no client: scripts/python-tools installs it; WHARF_TEST_TOOLS says where"
        );
        return;
    };
    let Some(node) = testnode::start("python").await else { return };
    let server = format!("http://{}", proxy(node.path("run/api.sock")));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/client.py");
    let output = Command::new(python).args([script, &server, IMAGE]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    wait_for("the end of the pods", LIMIT, || list(&node, "pods").is_empty());
    assert_nothing_left(node);
}
