//! The Kubernetes REST API of this node.
//!
//! | file | job |
//! |---|---|
//! | `route.rs` | path → kind, namespace, name, sub-resource |
//! | `server.rs` | verbs: get, list, watch, create, update, patch, delete |
//! | `objects.rs` | what these mean for an object, whatever its kind |
//! | `object_store.rs` | durable storage, versions, change history |
//! | `kinds/` | one file per kind: defaults, validation, table columns |
//! | `pod_log.rs`, `pod_stream.rs` | sub-resources of pods |
//! | `status.rs` | errors as `Status` objects |

mod discovery;
pub mod kinds;
pub mod object_store;
pub mod objects;
pub mod pod_log;
mod pod_stream;
pub mod quantity;
mod query;
mod route;
pub mod selector;
pub mod server;
pub mod status;
pub mod table;
mod watch;
