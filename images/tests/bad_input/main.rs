//! Tables of wrong input: each is refused in one line that names the reference, digest, file or member, what was found
//! and what is expected; the store stays as it was.

#[path = "../fixture/mod.rs"]
mod fixture;

mod archives;
mod documents;
mod files;
mod names;

/// Checks the line of a refusal for what it must name.
fn check(case: &str, line: &str, parts: &[&str]) {
    assert!(!line.contains('\n') && !line.contains('\u{1b}') && line.len() < 1000, "{case}: {line:?}");
    for part in parts {
        assert!(line.contains(part), "{case}: `{part}` is missing in: {line}");
    }
}
