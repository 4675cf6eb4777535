//! SPDY/3.1 as a server of Kubernetes' streams needs it: [`frame`]s, [`headers`] in their compressed blocks, and the
//! [`session`] that says what a frame means to the streams of a connection.

pub mod frame;
pub mod headers;
pub mod session;

pub use frame::{Frame, FrameReader};
pub use session::{Event, Session};

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    #[error("spdy: control frame of version {0}, not 3")]
    Version(u16),
    #[error("spdy: {frame} frame of {length} bytes, at most {max} are taken")]
    TooLong { frame: &'static str, length: usize, max: usize },
    #[error("spdy: {frame} frame: {problem}")]
    Malformed { frame: &'static str, problem: &'static str },
    #[error("spdy: header block: {0}")]
    Headers(&'static str),
    #[error("spdy: stream {stream}: {problem}")]
    Stream { stream: u32, problem: &'static str },
}

/// Why one stream ended (section 2.6.3).
pub mod reset {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INVALID_STREAM: u32 = 2;
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
    pub const FLOW_CONTROL_ERROR: u32 = 7;
    pub const STREAM_ALREADY_CLOSED: u32 = 9;
}
