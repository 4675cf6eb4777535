//! `regex` as `regex-lite`. `oci-spec` checks one field with an expression, `execCPUAffinity`, and the engine that makes
//! long texts fast would be a quarter of `runw`. Nothing here or in our dependencies needs Unicode's classes.

pub use regex_lite::*;
