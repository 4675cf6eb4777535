//! What clients of `exec`, `attach` and `port-forward` speak: SPDY/3.1 and Kubernetes' channel protocols. Bytes in,
//! meaning out; who reads and writes them is elsewhere.

pub mod channel;
pub mod spdy;
pub mod untrusted;
