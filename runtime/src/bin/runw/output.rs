//! Standard output of commands that answer.

use std::io::{self, ErrorKind, Write};

/// Prints `text` as it is. A reader that has seen enough (`runw list | head -1`) is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
