//! From words to options, and the help that says which there are.

use super::options::{Flag, Form, Given, Positional, Wrong, value_name};
use lexopt::Arg;
use std::ffi::OsString;
use std::fmt::Write;

/// What a command takes.
pub(crate) struct Syntax {
    /// Tables of options: its own, and those it shares with others.
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) positionals: &'static [Positional],
}

/// What the words ask for.
pub(crate) enum Asked {
    Given(Given),
    Help,
}

impl Syntax {
    fn flag(&self, is_it: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
        self.flags.iter().flat_map(|table| table.iter()).find(|flag| is_it(flag))
    }

    /// Reads the words of one command; with `leave_words`, those up to the first without a dash, which is left.
    pub(crate) fn parse(&self, words: &mut lexopt::Parser, leave_words: bool) -> Result<Asked, Wrong> {
        let mut given = Given::default();
        let has_rest = self.positionals.last().is_some_and(|last| last.form == Form::Rest);
        while let Some(argument) = words.next().map_err(wrong)? {
            // `-db dir` is two options: only a long switch may be given a value, after `=`.
            let is_long = matches!(argument, Arg::Long(_));
            let (flag, spelled) = match argument {
                Arg::Long("help") | Arg::Short('h') => return Ok(Asked::Help),
                Arg::Long(long) => (self.flag(|flag| flag.is_called(long)), format!("--{long}")),
                Arg::Short(short) => (self.flag(|flag| flag.short == Some(short)), format!("-{short}")),
                Arg::Value(word) => {
                    given.positionals.push_back(word);
                    if leave_words {
                        return Ok(Asked::Given(given));
                    }
                    if has_rest && given.positionals.len() + 1 == self.positionals.len() {
                        // What follows is another's, dashes and all.
                        let mut rest = words.raw_args().map_err(wrong)?.peekable();
                        rest.next_if(|word| word == "--");
                        given.positionals.extend(rest);
                    }
                    continue;
                }
            };
            let flag = flag.ok_or_else(|| Wrong(format!("no such option: {spelled}")))?;
            let value = if flag.is_switch() {
                is_long.then(|| words.optional_value()).flatten().unwrap_or_else(|| OsString::from("true"))
            } else {
                words.value().map_err(|_| Wrong(format!("flag needs an argument: {}", flag.long())))?
            };
            given.flags.push((flag, value));
        }
        if let Some(word) = given.positionals.get(self.positionals.len())
            && !has_rest
        {
            return Err(Wrong(format!("{word:?} is one argument too many")));
        }
        Ok(Asked::Given(given))
    }

    /// `[OPTIONS] ID [SIGNAL]`.
    pub(crate) fn usage(&self) -> String {
        let mut text = String::from("[OPTIONS]");
        for Positional { field, form } in self.positionals {
            let name = value_name(field);
            match form {
                Form::Required => write!(text, " {name}"),
                Form::Optional => write!(text, " [{name}]"),
                Form::Rest => write!(text, " [{name}]..."),
            }
            .expect("a string takes all");
        }
        text
    }

    /// A line for each option.
    pub(crate) fn options_help(&self) -> String {
        let mut rows: Vec<(String, String)> = Vec::new();
        for flag in self.flags.iter().flat_map(|table| table.iter()).filter(|flag| !flag.help.is_empty()) {
            let short = flag.short.map_or("    ".into(), |short| format!("-{short}, "));
            let value = if flag.is_switch() { String::new() } else { format!(" {}", flag.value) };
            let default = flag.default.map_or(String::new(), |default| format!(" [default: {default}]"));
            rows.push((format!("{short}{}{value}", flag.long()), format!("{}{default}", flag.help.trim())));
        }
        rows.push(("-h, --help".into(), "print this help".into()));
        table(&rows)
    }
}

/// Two columns, indented.
pub(crate) fn table(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or_default();
    rows.iter().map(|(left, right)| format!("   {left:width$}  {right}\n")).collect()
}

fn wrong(error: lexopt::Error) -> Wrong {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => Wrong(format!("{option} takes no value, found {value:?}")),
        error => Wrong(error.to_string()),
    }
}
