//! Every fuzz target in one program, chosen by `WHARF_FUZZ_TARGET`: they share most of what has to be compiled.
#![no_main]

use std::fs::File;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use wharf_images::untrusted as images;
use wharf_runtime::untrusted as runtime;
use wharf_specs::{cdi, cni, criu_image, streaming};
use wharf_supervisor::api::untrusted as api;
use wharf_supervisor::dns::untrusted as dns;
use wharf_supervisor::journal::untrusted as journal;

/// Whether the input was taken, which libFuzzer is not told.
type Target = fn(&[u8]) -> bool;

/// Each has a folder of its name in `seeds/`.
const TARGETS: &[(&str, Target)] = &[
    ("apply", api::apply),
    ("cdi", cdi::untrusted::spec),
    ("channel", streaming::untrusted::channel),
    ("cni_network", cni::untrusted::network),
    ("cni_result", cni::untrusted::result),
    ("config", runtime::config),
    ("criu_core", criu_image::untrusted::core),
    ("dns", dns::datagram),
    ("document", images::document),
    ("files", images::files),
    ("handshake", runtime::handshake),
    ("journal", journal::journal),
    ("layer", |bytes| images::layer(bytes, DIRECTORY.path()).expect("a directory of our own")),
    ("layout", runtime::layout),
    ("manifest", api::manifest),
    ("patch", api::patch),
    ("process", runtime::process),
    ("protobuf", api::protobuf),
    ("reference", images::reference),
    ("resources", |bytes| runtime::resources(bytes, GROUP.path())),
    ("seccomp", runtime::seccomp),
    ("shim", runtime::shim),
    ("spdy", streaming::untrusted::spdy),
    ("state", runtime::state),
];

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("WHARF_FUZZ_TARGET").unwrap_or_default();
    let all: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("WHARF_FUZZ_TARGET is `{name}`, expected one of {}", all.join(", "))).1
});

/// Layers are unpacked here, one after the other.
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("temp dir"));

/// A directory with every control file, which takes whatever is written.
static GROUP: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("temp dir");
    for name in include_str!("../seeds/control-files").lines() {
        File::create(directory.path().join(name)).expect("make file");
    }
    directory
});

fuzz_target!(|bytes: &[u8]| {
    CHOSEN(bytes);
});
