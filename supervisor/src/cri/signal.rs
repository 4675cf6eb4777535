//! Signals: the protocol's names to the engine's and back.

use wharf_specs::cri::Signal;

use crate::pod::bundle::parse_signal;

/// `None` leaves it to the image.
pub(super) fn name(signal: Signal) -> Option<String> {
    match signal {
        Signal::RuntimeDefault => None,
        // `SIGNAL_SIGRTMINPLUS3` is `SIGRTMIN+3` elsewhere.
        other => {
            let name = other.as_str_name().trim_start_matches("SIGNAL_");
            Some(name.replace("PLUS", "+").replace("MINUS", "-"))
        }
    }
}

/// The protocol's value for a number.
pub(super) fn from_number(number: i32) -> Signal {
    (1..=65)
        .filter_map(|value| Signal::try_from(value).ok())
        .find(|signal| name(*signal).and_then(|name| parse_signal(&name)) == Some(number))
        .unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_protocol_has_a_number() {
        for signal in (1..=65).filter_map(|value| Signal::try_from(value).ok()) {
            let name = name(signal).unwrap();
            assert!(parse_signal(&name).is_some(), "{name}");
        }
        assert_eq!(from_number(15), Signal::Sigterm);
        assert_eq!(from_number(37), Signal::Sigrtminplus3);
        assert_eq!(name(Signal::RuntimeDefault), None);
    }
}
