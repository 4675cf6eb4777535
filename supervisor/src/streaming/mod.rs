//! Streams of processes and ports over the network, for both doors.
//!
//! ```text
//! upgrade ─┬─ spdy ──────┬─► remote_command (exec, attach)
//!          └─ websocket ─┴─► port_forward
//! ```
//!
//! | file | job |
//! |---|---|
//! | [`server`], `tokens` | where the CRI door sends its clients: a port on the loopback, each URL good for one use |
//! | [`upgrade`] | which transport and protocol a request is upgraded to |
//! | `spdy`, `websocket` | a client's streams over SPDY/3.1 or the channels of a WebSocket |
//! | [`remote_command`] | a process' streams to a client's |
//! | [`port_forward`] | connections into a pod's network |
//! | `tunnel` | what the API's proxy carries once both ends have changed the protocol |
//!
//! Memory is bounded: a client that does not read stops the process' output in its pipe, a process that does not read
//! stops the client. A client that does neither for [`IDLE_LIMIT`] is given up.

mod activity;
pub mod port_forward;
pub mod remote_command;
pub mod server;
mod spdy;
mod tokens;
mod tunnel;
pub mod upgrade;
mod websocket;

use std::time::Duration;

pub use server::StreamingServer;
pub use tokens::StreamRequest;
pub use tunnel::copy_both;

/// A connection on which nothing moves either way is ended; the kubelet's default.
pub const IDLE_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// From a connection, or from the first of a pair of streams, until all of its streams are there.
pub const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// For the last messages and the closing handshake.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// For a client to take what was sent and to close the connection, once its session is over. It may be slow to read.
const LINGER_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Read from a process or a port at a time.
const CHUNK_BYTES: usize = 32 << 10;
