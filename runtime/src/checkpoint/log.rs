//! The reason of a failure, from criu's log.

use super::Error;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// As much of the end of a log as is looked at.
const TAIL_BYTES: u64 = 256 << 10;

/// A failure with the reason that the log gives, and the place of the log, if there is one.
pub(super) fn explain(error: Error, path: &Path) -> Error {
    match error {
        Error::Failed { operation, reason, log: None } => {
            let log = path.exists().then(|| path.to_path_buf());
            Error::Failed { operation, reason: last_error(path).unwrap_or(reason), log }
        }
        other => other,
    }
}

/// The last error in a log, if there is one.
fn last_error(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    find(&String::from_utf8_lossy(&tail))
}

/// The last line with an error, without its time. The very last ones usually only say that a whole has failed.
fn find(text: &str) -> Option<String> {
    let errors = || text.lines().rev().filter_map(|line| line.find("Error").map(|at| line[at..].trim_end()));
    let closing = |line: &str| line.ends_with("FAILED.") || line.ends_with("failed with -1");
    errors().find(|line| !closing(line)).or_else(|| errors().next()).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_error_that_says_more_than_failed() {
        let log = "(00.01) Warn  (a.c:1): x\n(00.02) Error (files.c:7): Can't dump ghost file\n\
            (00.03) unlocking\n(00.04) Error (cr.c:9): Dump files (pid: 9) failed with -1\n(00.04) Error (cr-dump.c:99): Dumping FAILED.\n";
        assert_eq!(find(log).as_deref(), Some("Error (files.c:7): Can't dump ghost file"));
        assert_eq!(find("(1) Error (cr.c:1): Dumping FAILED.\n").as_deref(), Some("Error (cr.c:1): Dumping FAILED."));
        assert_eq!(find("(1) fine\n"), None);
    }
}
