//! What reads foreign bytes here, as a function of bytes: what the fuzz target and the smoke test call. None of it may
//! panic or take long, whatever the bytes are. Not part of the interface.

/// The image of a thread. True if it was taken.
pub fn core(bytes: &[u8]) -> bool {
    match super::rights(bytes) {
        Ok(_) => true,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control), "{text:?}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_almost_right_breaks_the_parser() {
        let seed = include_bytes!("../../../fuzz/seeds/criu_core/sleep");
        assert!(core(seed));
        for at in 0..seed.len() {
            core(&seed[..at]);
            for byte in [0, 1, 0x08, 0x7f, 0x80, 0xff] {
                let mut image = seed.to_vec();
                image[at] = byte;
                core(&image);
            }
        }
    }
}
