//! What a guest said it had done, to be compared with what is there after a power cut.
//!
//! | the guest says | afterwards the thing |
//! |---|---|
//! | `begin make THING` | may be there or not |
//! | `done make THING` | must be there |
//! | `begin remove THING` | may be there or not |
//! | `done remove THING` | must not be there |

use std::collections::{BTreeMap, BTreeSet};

/// Presence by thing; what is not in it was never made.
#[derive(Debug, Default)]
pub struct Ledger {
    expected: BTreeMap<String, Presence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Gone,
    Either,
}

impl Ledger {
    /// Takes a line of the guest; others than those above are none of its business.
    pub fn note(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let presence = match (words.next(), words.next()) {
            (Some("begin"), Some("make" | "remove")) => Presence::Either,
            (Some("done"), Some("make")) => Presence::There,
            (Some("done"), Some("remove")) => Presence::Gone,
            _ => return,
        };
        if let Some(thing) = words.next() {
            self.expected.insert(thing.into(), presence);
        }
    }

    /// Compares with all that is there now, which is what is known from here on. Returns what contradicts.
    pub fn compare(&mut self, found: &BTreeSet<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (thing, expected) in &mut self.expected {
            match (*expected, found.contains(thing)) {
                (Presence::There, false) => wrong.push(format!("{thing} was made, and is lost")),
                (Presence::Gone, true) => wrong.push(format!("{thing} was removed, and is back")),
                (_, true) => *expected = Presence::There,
                (_, false) => *expected = Presence::Gone,
            }
        }
        wrong.extend(
            found
                .iter()
                .filter(|thing| !self.expected.contains_key(*thing))
                .map(|thing| format!("{thing} was never made")),
        );
        wrong
    }
}
