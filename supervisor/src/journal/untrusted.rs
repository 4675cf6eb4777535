//! What lies on the disk, as a function of bytes: what a fuzz target and the test here call. None of it may panic or take
//! long, whatever the bytes are. Not part of the interface.

use super::file;

/// A pod's journal. True if it says something; written again, it says the same.
pub fn journal(bytes: &[u8]) -> bool {
    let Some((owner, entries)) = file::parse(bytes) else { return false };
    let mut lines = vec![serde_json::to_string(&owner).unwrap_or_default()];
    lines.extend(entries.iter().map(|entry| serde_json::to_string(entry).unwrap_or_default()));
    let again = file::parse(lines.join("\n").as_bytes());
    assert_eq!(again.as_ref(), Some(&(owner, entries)));
    again.is_some_and(|(_, entries)| !entries.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_journal_that_is_almost_right_breaks_anything() {
        let seed = include_bytes!("../../../fuzz/seeds/journal/pod.jsonl");
        assert!(journal(seed));
        for at in 0..seed.len() {
            journal(&seed[..at]);
            for byte in *b"\"{}[]0-,:\\\n\xff" {
                let mut slip = seed.to_vec();
                slip[at] = byte;
                journal(&slip);
                slip.insert(at, byte);
                journal(&slip);
            }
        }
    }
}
