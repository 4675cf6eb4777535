//! The API over TLS, for clients that are not root on this machine. Whoever may come in is root on this node's pods, so
//! nothing is answered before a client has shown who it is.
//!
//! | file | job |
//! |---|---|
//! | `authority.rs` | the node's certificate authority: the server's certificate, clients' certificates |
//! | `token.rs` | bearer tokens, for clients that cannot have certificates |
//! | `door.rs` | connections, and who is let in |
//! | `private_file.rs` | keys on disk |

mod authority;
mod door;
mod private_file;
mod token;

use std::path::PathBuf;

pub use authority::{Authority, Identity, MAX_USER_BYTES};
pub use door::Door;
pub use private_file::write_private;
pub use token::TokenKey;

/// Where keys lie in the node's DATA.
pub const FOLDER: &str = "pki";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path}: not a key that wharfd has written")]
    Key { path: PathBuf },
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("prepare TLS")]
    Rustls(#[from] rustls::Error),
    #[error("prepare TLS")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("api.listen: listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the name of a user {found:?} is not 1 to {MAX_USER_BYTES} printable characters without spaces")]
    User { found: String },
}
