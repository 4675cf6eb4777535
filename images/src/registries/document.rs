//! Reading a TOML file so that whatever is wrong has its line.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Thousands of registries fit in it.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What is wrong with `registries.toml`, a `hosts.toml`, or a file that one of them names.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    #[error("read {file}")]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{file}: is longer than {FILE_MAX_BYTES} bytes")]
    TooLong { file: PathBuf },
    #[error("{file}: is no text in UTF-8")]
    Encoding { file: PathBuf },
    #[error("{file}: line {line}: {problem}")]
    Content { file: PathBuf, line: usize, problem: String },
    #[error("proxy named by {variable}: expected a URL as in http://proxy.example:3128")]
    Proxy { variable: &'static str },
    #[error("{file} ({origin}): {problem}")]
    Certificate { file: PathBuf, origin: String, problem: String },
}

pub(super) struct Document {
    pub(super) path: PathBuf,
    text: String,
}

impl Document {
    /// `None` if the file is not there and need not be.
    pub(super) fn read(path: &Path, is_required: bool) -> Result<Option<Self>, RegistriesError> {
        let failed = |source| RegistriesError::Read { file: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if !is_required && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            other => other.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(RegistriesError::TooLong { file: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|_| RegistriesError::Encoding { file: path.to_owned() })?;
        Ok(Some(Self { path: path.to_owned(), text }))
    }

    #[cfg(test)]
    pub(super) fn of_text(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, RegistriesError> {
        toml::from_str(&self.text).map_err(|error| {
            let problem = error.message().replace('\n', " ");
            self.problem(error.span().unwrap_or_default(), problem)
        })
    }

    /// The line on which `place` begins, from 1.
    pub(super) fn line(&self, place: &Range<usize>) -> usize {
        self.text.bytes().take(place.start).filter(|byte| *byte == b'\n').count() + 1
    }

    pub(super) fn problem(&self, place: Range<usize>, problem: impl Into<String>) -> RegistriesError {
        RegistriesError::Content { file: self.path.clone(), line: self.line(&place), problem: problem.into() }
    }
}
