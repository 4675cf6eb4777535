//! Somebody else's text inside a message of ours.

use std::fmt;

/// Longer texts are cut: what is wrong with them stands at their beginning, or is their length.
const SHOWN_MAX_CHARS: usize = 300;

/// Shows a text so that it stays one line and does nothing to a terminal.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, character) in self.0.chars().enumerate() {
            match character {
                _ if number == SHOWN_MAX_CHARS => return write!(f, "…"),
                // Directions of writing turn the rest of the line around.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(f, "{}", character.escape_unicode())?;
                }
                _ if character.is_control() => write!(f, "{}", character.escape_debug())?,
                _ => write!(f, "{character}")?,
            }
        }
        Ok(())
    }
}

/// [`OneLine`] for what may be no text at all.
pub(crate) fn one_line(bytes: &[u8]) -> String {
    OneLine(&String::from_utf8_lossy(bytes)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out_and_long_texts_cut() {
        assert_eq!(one_line("ä \"b\"\n\u{1b}[1m\u{202e}".as_bytes()), "ä \"b\"\\n\\u{1b}[1m\\u{202e}");
        assert_eq!(one_line(b"a\xff"), "a\u{fffd}");
        assert_eq!(one_line(&[b'a'; 1000]).chars().count(), SHOWN_MAX_CHARS + 1);
    }
}
