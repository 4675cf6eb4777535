//! The Kubernetes REST API of this node.
//!
//! | file | job |
//! |---|---|
//! | `route.rs` | path → kind, namespace, name, sub-resource |
//! | `server.rs`, `subresource.rs` | verbs: get, list, watch, create, update, patch, delete |
//! | `accept.rs`, `body.rs` | what is sent and wanted back: media types, sizes, unknown fields |
//! | `objects.rs`, `update.rs`, `deletion.rs` | what the verbs mean for an object, whatever its kind |
//! | `list.rs`, `watch.rs`, `field_labels.rs` | collections, at a version and from a version on, selected by labels and fields |
//! | `generation.rs` | how often what is wanted of an object has changed |
//! | `identity.rs` | what an object says its name is, held against the path |
//! | `metadata.rs` | the form of labels, annotations, finalizers and owners |
//! | `patch/` | JSON patches, merge patches, strategic merge patches |
//! | `apply/` | server-side apply and the managers of fields |
//! | `discovery.rs`, `openapi.rs` | what is served, for clients that ask |
//! | `object_store.rs` | durable storage, versions, change history |
//! | `kinds/` | one file per kind: defaults, validation, table columns |
//! | `scheduling.rs`, `requests.rs` | the node of a pod, and what it asks for of it |
//! | `service_address.rs` | addresses and ports of Services |
//! | `service_families.rs` | IPv4, IPv6 or both |
//! | `account_admission.rs` | the service account of a pod, and its token |
//! | `priority_admission.rs` | the priority of a pod |
//! | `storage_admission.rs` | the class and the protection of claims and volumes |
//! | `metrics.rs` | `metrics.k8s.io`: what pods and the node use |
//! | `health.rs` | `/healthz`, `/livez`, `/readyz` |
//! | `request_count.rs`, `exposition.rs` | `/metrics`: what the API says of itself |
//! | `pod_log.rs`, `pod_stream.rs`, `pod_why.rs` | sub-resources of pods |
//! | `proxy.rs`, `proxy_target.rs` | requests that go on to pods |
//! | `status.rs` | errors as `Status` objects |
//! | `access/` | who asks, and what they may |
//! | `tls/` | clients that come over the network, and who of them is let in |

mod accept;
pub(crate) mod access;
mod account_admission;
mod apply;
mod body;
pub mod deletion;
pub mod discovery;
mod exposition;
mod field_labels;
mod generation;
mod health;
mod identity;
pub mod kinds;
mod list;
mod metadata;
pub mod metrics;
pub mod object_store;
pub mod objects;
mod openapi;
mod patch;
pub mod pod_log;
mod pod_stream;
mod pod_why;
mod priority_admission;
mod proxy;
mod proxy_target;
pub mod quantity;
mod query;
mod request_count;
pub mod requests;
mod route;
pub mod scheduling;
pub mod selector;
pub mod server;
pub mod service_address;
mod service_families;
pub mod status;
mod storage_admission;
mod subresource;
pub mod table;
pub mod tls;
#[doc(hidden)]
pub mod untrusted;
mod update;
mod watch;
