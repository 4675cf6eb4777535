#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

/// Layers are unpacked here, one after the other.
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("temp dir"));

fuzz_target!(|bytes: &[u8]| {
    wharf_images::untrusted::layer(bytes, DIRECTORY.path()).expect("a directory of our own");
});
