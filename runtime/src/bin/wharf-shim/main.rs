//! `runw`, an OCI runtime.
fn main() {}
