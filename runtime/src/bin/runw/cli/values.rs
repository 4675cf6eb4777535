//! What values of options may be.

use super::options::{Switch, parsed};
use std::str::FromStr;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("allowed: text, json"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

impl FromStr for ListFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => Err("allowed: table, json"),
        }
    }
}

/// Whether refusals of control groups are ignored; without a word of the caller, whoever is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rootless(pub(crate) Option<bool>);

impl FromStr for Rootless {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self(None)),
            _ => text.parse::<Switch>().map(|Switch(on)| Self(Some(on))).map_err(|_| "allowed: true, false, auto"),
        }
    }
}

/// A time between two statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval(pub(crate) Duration);

impl FromStr for Interval {
    type Err = String;

    /// Reads Go's form: numbers with units, such as `1m30s` or `1.5h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration above 0; allowed: numbers with ms, s, m, h, such as 1m30s");
        let (mut seconds, mut rest) = (0.0, text);
        while !rest.is_empty() {
            let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..split].parse().map_err(|_| wrong())?;
            let after = &rest[split..];
            let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            seconds += number
                * match &after[..end] {
                    "ns" => 1e-9,
                    "us" | "µs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return Err(wrong()),
                };
            rest = &after[end..];
        }
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
        duration.map(Self).ok_or_else(wrong)
    }
}

parsed!(LogFormat, ListFormat, Rootless, Interval);
