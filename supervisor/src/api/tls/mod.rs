//! The API over TLS, for clients that are not root on this machine. Nothing is answered before a client has shown who it
//! is; what it may then is `access/`'s.
//!
//! | file | job |
//! |---|---|
//! | `authority.rs` | the node's certificate authority: the server's certificate, clients' certificates |
//! | `subject.rs` | who a certificate is for |
//! | `token.rs` | bearer tokens, for clients that cannot have certificates |
//! | `issued.rs` | which certificates and tokens there are, and which were taken back |
//! | `door.rs` | connections, and who is let in |
//! | `private_file.rs` | keys on disk |
//! | `unverified.rs` | towards pods: TLS with whoever answers |

mod authority;
mod door;
mod issued;
mod private_file;
mod subject;
mod token;
pub(super) mod unverified;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use authority::{Authority, Identity, MAX_USER_BYTES, check_names};
pub use door::{Bound, Door};
pub use issued::{Credential, CredentialId, Issued};
pub use private_file::write_private;
pub use token::TokenKey;

pub use super::access::MASTERS;

/// How pods reach the API of their node, and are known by it.
#[derive(Clone)]
pub struct PodApi {
    pub address: SocketAddr,
    /// The certificate that they trust.
    pub authority: Arc<str>,
    pub tokens: Arc<TokenKey>,
}

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
    #[error("the name of a group {found:?} is not 1 to {MAX_USER_BYTES} printable characters without spaces")]
    Group { found: String },
    #[error("{found} groups are more than a client may be in")]
    Groups { found: usize },
}
