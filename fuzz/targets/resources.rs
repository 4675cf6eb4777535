#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::sync::LazyLock;
use tempfile::TempDir;

/// A directory with every control file, which takes whatever is written.
static GROUP: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("temp dir");
    for name in include_str!("../seeds/control-files").lines() {
        File::create(directory.path().join(name)).expect("make file");
    }
    directory
});

fuzz_target!(|bytes: &[u8]| {
    wharf_runtime::untrusted::resources(bytes, GROUP.path());
});
