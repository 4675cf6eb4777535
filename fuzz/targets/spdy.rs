#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    wharf_specs::streaming::untrusted::spdy(bytes);
});
