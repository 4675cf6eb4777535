//! Why a plugin failed, in one line, and which versions it speaks.

use std::fmt;

use serde_json::Value;

use super::version::is_version;
use super::{Result, Version, list, missing, parse_object, unexpected};

/// Characters of a plugin's words that are shown.
const SHOWN: usize = 1024;

/// The error object of section 5. Its text is one line, whatever the plugin wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFailure {
    pub code: u64,
    pub message: String,
    pub details: String,
}

impl PluginFailure {
    /// `None` where the bytes are no error object: one has a code that is not 0.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let object = parse_object(bytes).ok()?;
        let code = object.get("code")?.as_u64().filter(|code| *code != 0)?;
        let text = |key: &str| one_line(object.get(key).and_then(Value::as_str).unwrap_or_default());
        Some(Self { code, message: text("msg"), details: text("details") })
    }

    /// What the specification says of its reserved codes.
    fn meaning(&self) -> Option<&'static str> {
        Some(match self.code {
            1 => "incompatible CNI version",
            2 => "unsupported field in the network configuration",
            3 => "container unknown or does not exist",
            4 => "invalid environment variables",
            5 => "I/O failure",
            6 => "content could not be decoded",
            7 => "invalid network configuration",
            11 => "try again later",
            50 => "the plugin is not available",
            51 => "the plugin is not available, and existing pods may have limited connectivity",
            _ => return None,
        })
    }
}

impl fmt::Display for PluginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}", self.code)?;
        if let Some(meaning) = self.meaning() {
            write!(f, " ({meaning})")?;
        }
        for part in [&self.message, &self.details] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

/// Foreign words as one line of bounded length: white space of any kind becomes one blank, control characters go.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        let shown = line.chars().count();
        if shown >= SHOWN {
            line.push('…');
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !c.is_control()).take(SHOWN - shown));
    }
    line
}

/// The answer to VERSION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionAnswer {
    /// As the plugin wrote them, unknown ones too.
    pub supported: Vec<String>,
}

impl VersionAnswer {
    /// Reads what a plugin wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let object = parse_object(bytes)?;
        let versions = list(&object, "", "supportedVersions")?
            .ok_or_else(|| missing("supportedVersions", "a plugin says here what it speaks"))?;
        let version = |(index, version): (usize, &Value)| match version.as_str() {
            Some(text) if is_version(text) => Ok(text.to_string()),
            _ => Err(unexpected(format!("supportedVersions[{index}]"), version, "is no version such as \"1.1.0\"")),
        };
        Ok(Self { supported: versions.iter().enumerate().map(version).collect::<Result<_>>()? })
    }

    /// Whether `version` is among them.
    pub fn supports(&self, version: Version) -> bool {
        self.supported.iter().any(|supported| supported == version.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_one_line_with_the_code_s_meaning() {
        let text =
            br#"{"cniVersion": "1.0.0", "code": 7, "msg": "Invalid\nConfiguration", "details": "too \u001b[1m small"}"#;
        let failure = PluginFailure::parse(text).unwrap();
        assert_eq!(failure.to_string(), "code 7 (invalid network configuration): Invalid Configuration: too [1m small");
        let own = PluginFailure::parse(br#"{"code": 999, "msg": "x"}"#).unwrap();
        assert_eq!(own.to_string(), "code 999: x");
        for text in ["", "{}", "[]", r#"{"code": 0}"#, r#"{"code": "7"}"#] {
            assert_eq!(PluginFailure::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(one_line("  a \r\n\t b\u{7} "), "a b");
        assert!(one_line(&"x".repeat(1 << 20)).len() <= SHOWN + 4);
        assert!(one_line(&"x ".repeat(1 << 20)).chars().count() <= SHOWN + 2);
    }

    #[test]
    fn version_answers_say_what_is_spoken() {
        let answer =
            VersionAnswer::parse(br#"{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "7.0.0"]}"#).unwrap();
        assert!(answer.supports(Version::V0_4_0) && !answer.supports(Version::V1_0_0));
        for (text, expected) in [
            ("{}", "supportedVersions is missing"),
            (r#"{"supportedVersions": "1.0.0"}"#, r#"supportedVersions: "1.0.0" is no list"#),
            (r#"{"supportedVersions": [1]}"#, "supportedVersions[0]: 1 is no version"),
        ] {
            let error = VersionAnswer::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
