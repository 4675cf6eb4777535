//! A stock kubelet over a node of its own: `make kubelet` builds it and runs this. It has no API server but one of ours
//! that holds a node and its pods ([`api_server`]), or none at all, with pods from a folder.

mod api_server;
mod bound_pods;
mod kubelet;
#[allow(dead_code, unused_imports, reason = "shared with the tests of the node")]
#[path = "../node/testnode/mod.rs"]
mod testnode;

mod static_pods;
