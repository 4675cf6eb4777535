//! Options in tables: a command declares them once, and the parser and the help read them without building anything.
//!
//! Every start of `runw` passes here, and most containers start it several times: a parser that first makes the tree of
//! all commands took half of the time of `runw --version`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What is wrong with the command line, in a line without the name of the program.
#[derive(Debug)]
pub(crate) struct Wrong(pub(crate) String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An option as it is declared.
#[derive(Debug)]
pub(crate) struct Flag {
    /// As the field is named, with underscores.
    pub(crate) field: &'static str,
    pub(crate) short: Option<char>,
    /// What its value is called; empty for a switch, which is on unless `=false` follows.
    pub(crate) value: &'static str,
    pub(crate) default: Option<&'static str>,
    /// Empty for an option that help leaves out.
    pub(crate) help: &'static str,
}

/// A switch.
pub(crate) const fn on() -> Flag {
    takes("")
}

/// An option with a value of this name.
pub(crate) const fn takes(value: &'static str) -> Flag {
    Flag { field: "", short: None, value, default: None, help: "" }
}

impl Flag {
    pub(crate) const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    /// The value of an option that is not given.
    pub(crate) const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    pub(crate) const fn named(self, field: &'static str, help: &'static str) -> Self {
        Self { field, help, ..self }
    }

    /// With its dashes.
    pub(crate) fn long(&self) -> String {
        format!("--{}", self.field.replace('_', "-"))
    }

    pub(crate) fn is_switch(&self) -> bool {
        self.value.is_empty()
    }

    pub(crate) fn is_called(&self, long: &str) -> bool {
        self.field.len() == long.len()
            && self
                .field
                .bytes()
                .zip(long.bytes())
                .all(|(ours, theirs)| ours == theirs || (ours == b'_' && theirs == b'-'))
    }
}

/// An argument without a dash.
#[derive(Debug)]
pub(crate) struct Positional {
    pub(crate) field: &'static str,
    pub(crate) form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Required,
    Optional,
    /// All that follows, options of others among it.
    Rest,
}

/// What was given: values in the order of the command line.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) flags: Vec<(&'static Flag, OsString)>,
    pub(crate) positionals: std::collections::VecDeque<OsString>,
}

impl Given {
    /// The values of one option, the default where there is none.
    fn values<'a>(&'a self, flag: &'static Flag) -> impl Iterator<Item = &'a OsStr> {
        let given = self.flags.iter().filter(|(of, _)| of.field == flag.field);
        let mut values = given.map(|(_, value)| value.as_os_str()).peekable();
        let default = if values.peek().is_none() { flag.default.map(OsStr::new) } else { None };
        values.chain(default)
    }
}

/// The type of an option's field.
pub(crate) trait Read: Sized {
    fn read(flag: &'static Flag, given: &Given) -> Result<Self, Wrong>;
}

/// The type of one value.
pub(crate) trait FromText: Sized {
    /// Nothing for an empty text that is as good as none.
    fn from_text(text: &OsStr) -> Result<Option<Self>, String>;
}

impl FromText for PathBuf {
    fn from_text(text: &OsStr) -> Result<Option<Self>, String> {
        Ok(Some(text).filter(|text| !text.is_empty()).map(Self::from))
    }
}

/// Types whose text is Unicode.
macro_rules! parsed {
    ($($kind:ty),* $(,)?) => {
        $(impl $crate::cli::options::FromText for $kind {
            fn from_text(text: &std::ffi::OsStr) -> Result<Option<Self>, String> {
                let text = text.to_str().ok_or("it is not Unicode")?;
                text.parse::<Self>().map(Some).map_err(|error| error.to_string())
            }
        })*
    };
}
pub(crate) use parsed;

parsed!(String, i32, i64, u16, u32, u64, Switch);

/// On or off, as Go writes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Switch(pub(crate) bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(false)),
            _ => Err("allowed: true, false"),
        }
    }
}

fn parse<T: FromText>(flag: &Flag, text: &OsStr) -> Result<Option<T>, Wrong> {
    T::from_text(text).map_err(|error| Wrong(format!("{} {text:?}: {error}", flag.long())))
}

// As runc has it: of an option that is given twice, the last counts.
impl<T: FromText> Read for Option<T> {
    fn read(flag: &'static Flag, given: &Given) -> Result<Self, Wrong> {
        given.values(flag).last().map_or(Ok(None), |text| parse(flag, text))
    }
}

impl<T: FromText> Read for Vec<T> {
    fn read(flag: &'static Flag, given: &Given) -> Result<Self, Wrong> {
        given.values(flag).filter_map(|text| parse(flag, text).transpose()).collect()
    }
}

impl<T: FromText> Read for T {
    fn read(flag: &'static Flag, given: &Given) -> Result<Self, Wrong> {
        Option::read(flag, given)?.ok_or_else(|| Wrong(format!("flag needs an argument: {}", flag.long())))
    }
}

impl Read for bool {
    fn read(flag: &'static Flag, given: &Given) -> Result<Self, Wrong> {
        Ok(Option::<Switch>::read(flag, given)?.is_some_and(|switch| switch.0))
    }
}

/// The type of a positional's field.
pub(crate) trait Take: Sized {
    const FORM: Form;
    fn from_words(name: &str, given: &mut Given) -> Result<Self, Wrong>;
}

impl Take for Option<String> {
    const FORM: Form = Form::Optional;

    fn from_words(name: &str, given: &mut Given) -> Result<Self, Wrong> {
        let text = given.positionals.pop_front();
        text.map(|text| {
            text.into_string().map_err(|text| Wrong(format!("{} {text:?}: it is not Unicode", value_name(name))))
        })
        .transpose()
    }
}

impl Take for String {
    const FORM: Form = Form::Required;

    fn from_words(name: &str, given: &mut Given) -> Result<Self, Wrong> {
        Option::from_words(name, given)?.ok_or_else(|| Wrong(format!("{} is missing", value_name(name))))
    }
}

impl Take for Vec<String> {
    const FORM: Form = Form::Rest;

    fn from_words(name: &str, given: &mut Given) -> Result<Self, Wrong> {
        std::iter::from_fn(|| Option::from_words(name, given).transpose()).collect()
    }
}

/// As help and messages call a positional.
pub(crate) fn value_name(field: &str) -> String {
    field.to_uppercase()
}

/// Declares the options of a command: the struct, whose fields their comments explain, and its tables. After `with`, the
/// options that it shares with another; in brackets, the arguments without a dash.
macro_rules! options {
    (
        $(#[$attribute:meta])*
        $name:ident $(with $part:ident: $shared:ty)? $([$($positional:ident: $taken:ty),*])? {
            $($(#[doc = $help:literal])* $field:ident: $kind:ty = $flag:expr,)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        pub(crate) struct $name {
            $(pub(crate) $part: $shared,)?
            $(pub(crate) $field: $kind,)*
            $($(pub(crate) $positional: $taken,)*)?
        }

        impl $name {
            pub(crate) const FLAGS: &'static [$crate::cli::options::Flag] =
                &[$($flag.named(stringify!($field), concat!($($help),*)),)*];
            #[allow(dead_code, reason = "a table that others share is no command")]
            pub(crate) const POSITIONALS: &'static [$crate::cli::options::Positional] = &[$($(
                $crate::cli::options::Positional {
                    field: stringify!($positional),
                    form: <$taken as $crate::cli::options::Take>::FORM,
                },
            )*)?];

            #[allow(unused_mut, unused_variables, reason = "a command may have no options")]
            pub(crate) fn read(
                given: &mut $crate::cli::options::Given,
            ) -> Result<Self, $crate::cli::options::Wrong> {
                $(let $part = <$shared>::read(given)?;)?
                let mut flags = Self::FLAGS.iter();
                $(let $field = $crate::cli::options::Read::read(flags.next().expect("a flag for each field"), given)?;)*
                $($(let $positional = $crate::cli::options::Take::from_words(stringify!($positional), given)?;)*)?
                Ok(Self { $($part,)? $($field,)* $($($positional,)*)? })
            }
        }
    };
}
pub(crate) use options;
