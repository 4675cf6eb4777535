//! Messages: one line on standard error, or in the file of `--log` in runc's two forms.

use crate::cli::LogFormat;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use wharf_runtime::Trace;
use wharf_runtime::time::now;

/// The log of this command; copies share it.
#[derive(Clone)]
pub(crate) struct Log(Rc<Settings>);

struct Settings {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
    name: String,
}

impl Log {
    pub(crate) fn open(path: Option<&Path>, format: LogFormat, debug: bool, name: &str) -> Result<Self, String> {
        let open = |path: &Path| {
            let file = File::options().append(true).create(true).open(path);
            file.map_err(|error| format!("open log file {}: {error}", path.display()))
        };
        Ok(Self(Rc::new(Settings { file: path.map(open).transpose()?, format, debug, name: name.to_string() })))
    }

    /// An error ends the program: it is said on standard error in any case.
    pub(crate) fn error(&self, message: &str, bare: bool) {
        let message = one_line(message);
        self.write("error", &message);
        // "NAME run failed: …" begins with the name already.
        let named = message.strip_prefix(&self.0.name).is_some_and(|rest| rest.starts_with(' '));
        if named || bare { eprintln!("{message}") } else { eprintln!("{}: {message}", self.0.name) }
    }

    pub(crate) fn warn(&self, message: &str) {
        let message = &one_line(message);
        self.write("warning", message);
        if self.0.file.is_none() {
            eprintln!("{}: warning: {message}", self.0.name);
        }
    }

    /// Whether debug messages are wanted: for those that take work to put together.
    pub(crate) fn is_debug(&self) -> bool {
        self.0.debug
    }

    pub(crate) fn debug(&self, message: &str) {
        if self.is_debug() {
            self.write("debug", message);
            if self.0.file.is_none() {
                eprintln!("{}", text_line("debug", message).trim_end());
            }
        }
    }

    /// Hears the runtime's steps, if they are wanted.
    pub(crate) fn trace(&self) -> Trace {
        if !self.is_debug() {
            return Trace::default();
        }
        let log = self.clone();
        Trace::new(move |step| log.debug(step))
    }

    fn write(&self, level: &str, message: &str) {
        let Some(mut file) = self.0.file.as_ref() else { return };
        let line = match self.0.format {
            LogFormat::Text => text_line(level, message),
            LogFormat::Json => format!("{}\n", json!({"level": level, "msg": message, "time": now()})),
        };
        // A log that cannot be written must not change what the command does.
        let _ = file.write_all(line.as_bytes());
    }
}

/// Messages quote what stands in configurations and images: it must not be able to add lines, to steer a terminal or
/// to fill a disk.
fn one_line(message: &str) -> String {
    const MAX_CHARACTERS: usize = 4096;
    let shown = |c: char| {
        if c == '\n' {
            ' '
        } else if c.is_control() {
            '\u{fffd}'
        } else {
            c
        }
    };
    let mut line: String = message.chars().take(MAX_CHARACTERS).map(shown).collect();
    if message.chars().nth(MAX_CHARACTERS).is_some() {
        line += "…";
    }
    line
}

fn text_line(level: &str, message: &str) -> String {
    format!("time={:?} level={level} msg={message:?}\n", now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        assert_eq!(one_line("a\nb\x1b[2Jc\rd"), "a b\u{fffd}[2Jc\u{fffd}d");
        assert_eq!(one_line(&"x".repeat(1 << 20)).chars().count(), 4097);
    }
}
