//! A whole node on a real kernel, through its doors. Needs root; each test has a node of its own ([`testnode`]).

mod cni_plugins;
mod cni_protocol;
mod cri;
mod crictl;
mod crictl_streams;
mod kubectl;
mod network;
mod replicas;
mod streaming;
#[path = "../../../runtime/tests/support/terminal.rs"]
mod terminal;
mod testnode;
mod wharf_command;
