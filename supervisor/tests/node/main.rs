//! A whole node on a real kernel, through its doors. Needs root; each test has a node of its own ([`testnode`]).

mod api_requests;
mod cni_plugins;
mod cni_protocol;
mod container_fields;
mod copied_roots;
mod cri;
mod crictl;
mod crictl_node;
mod crictl_streams;
mod critest;
mod critest_images;
mod events;
mod exec_and_logs;
mod figures;
mod kills;
mod kubectl;
mod kubectl_objects;
mod kubectl_typed;
mod leaks;
mod mount_options;
mod network;
mod pod_limits;
mod registry;
mod replicas;
mod retries;
mod runtime_handlers;
mod streaming;
#[path = "../../../runtime/tests/support/terminal.rs"]
mod terminal;
mod testnode;
mod user_namespaces;
mod wharf_command;
