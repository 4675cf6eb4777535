//! What reads foreign bytes here, as functions of bytes: what the fuzz target and the smoke test call. None of it may
//! panic or take long, whatever the bytes are. Not part of the interface.

use super::{Spec, parse_device};

/// A file in each form, and a device's name. True if one of them was taken.
pub fn spec(bytes: &[u8]) -> bool {
    let mut taken = false;
    for yaml in [false, true] {
        match Spec::parse(bytes, yaml) {
            Ok(spec) => {
                taken = true;
                for device in &spec.devices {
                    let full = format!("{}={}", spec.kind, device.name);
                    assert_eq!(parse_device(&full), Some((spec.kind.as_str(), device.name.as_str())));
                }
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains(char::is_control), "{text:?}");
            }
        }
    }
    if let Ok(name) = std::str::from_utf8(bytes) {
        taken |= parse_device(name).is_some();
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_almost_right_breaks_the_parser() {
        let seed = include_bytes!("../../../fuzz/seeds/cdi/gpu.json");
        assert!(spec(seed) && spec(b"vendor.example/gpu=0"));
        for at in 0..seed.len() {
            spec(&seed[..at]);
            for byte in *b"\"{[0-\\,\xff\n" {
                let mut text = seed.to_vec();
                text[at] = byte;
                spec(&text);
            }
        }
    }
}
