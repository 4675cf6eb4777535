//! Identifiers that become parts of paths.

use std::fmt;

/// Longest container id accepted; longer ones do not fit beside their suffixes in one path component.
pub const MAX_CONTAINER_ID_BYTES: usize = 200;

/// Why a container id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("container id is empty")]
    Empty,
    #[error("container id {id:?} is {length} bytes long, the limit is {MAX_CONTAINER_ID_BYTES}")]
    TooLong { id: String, length: usize },
    #[error("container id {id:?} is a directory reference")]
    DirectoryReference { id: String },
    #[error("container id {id:?} has {found:?}; allowed are letters, digits and _ + - .")]
    Character { id: String, found: char },
}

/// A container id that is safe as one path component: ASCII letters, digits, `_ + - .`, as runc accepts them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks `id` against the rules of runc.
    pub fn parse(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() {
            return Err(InvalidId::Empty);
        }
        if id.len() > MAX_CONTAINER_ID_BYTES {
            let shown = id.chars().take(32).collect();
            return Err(InvalidId::TooLong { id: shown, length: id.len() });
        }
        if id == "." || id == ".." {
            return Err(InvalidId::DirectoryReference { id: id.into() });
        }
        match id.chars().find(|c| !(c.is_ascii_alphanumeric() || "_+-.".contains(*c))) {
            Some(found) => Err(InvalidId::Character { id: id.into(), found }),
            None => Ok(Self(id.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for ContainerId {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_runc_accepts() {
        for id in ["a", "web-1", "a.b_c+d", "0123456789abcdef"] {
            assert_eq!(ContainerId::parse(id).map(|i| i.to_string()), Ok(id.to_string()));
        }
    }

    #[test]
    fn refuses_what_could_leave_the_state_directory() {
        for id in ["", ".", "..", "a/b", "../x", "a b", "a\0", "é", &"x".repeat(201)] {
            assert!(ContainerId::parse(id).is_err(), "{id:?} was accepted");
        }
    }
}
