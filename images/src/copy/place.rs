//! Where an image is copied from or to, as skopeo's users write it: `docker://busybox`, `oci-archive:FILE:NAME`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::one_line::OneLine;
use crate::reference::{Reference, ReferenceError};

/// Where an image is, or shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `docker://REFERENCE`: at a registry.
    Registry(Reference),
    /// `store:NAME`: here.
    Store(String),
    /// `oci:DIRECTORY[:NAME]`: in an OCI image layout.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:NAME]`: in a tar of one.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`: in what `docker save` makes.
    DockerArchive(PathBuf, Option<String>),
}

/// Why a text names no such place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    #[error(
        "`{}`: expected docker://REFERENCE, store:NAME, oci:DIRECTORY[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]",
        OneLine(.0)
    )]
    Transport(String),
    #[error("`{}`: expected a {expected} behind the colon", OneLine(.place))]
    Empty { place: String, expected: &'static str },
    #[error("`{}`", OneLine(.place))]
    Reference {
        place: String,
        #[source]
        source: ReferenceError,
    },
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let (transport, rest) = text.split_once(':').ok_or_else(|| PlaceError::Transport(text.into()))?;
        let reference = |name: &str| -> Result<Reference, PlaceError> {
            name.parse().map_err(|source| PlaceError::Reference { place: text.into(), source })
        };
        let empty = |expected| PlaceError::Empty { place: text.into(), expected };
        let file = |expected| -> Result<(PathBuf, Option<String>), PlaceError> {
            let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
            if path.is_empty() {
                return Err(empty(expected));
            }
            if name == Some("") {
                return Err(empty("name"));
            }
            Ok((path.into(), name.map(str::to_owned)))
        };
        match transport {
            "docker" => {
                let name = rest.strip_prefix("//").ok_or_else(|| PlaceError::Transport(text.into()))?;
                reference(name).map(Self::Registry)
            }
            "store" if rest.is_empty() => Err(empty("name")),
            "store" => Ok(Self::Store(rest.into())),
            "oci" => file("directory").map(|(path, name)| Self::Layout(path, name)),
            "oci-archive" => file("file").map(|(path, name)| Self::OciArchive(path, name)),
            "docker-archive" => {
                let (path, name) = file("file")?;
                // Docker reads no name that is none, and completes a short one.
                let name = name.map(|name| reference(&name)).transpose()?.map(|name| name.to_string());
                Ok(Self::DockerArchive(path, name))
            }
            _ => Err(PlaceError::Transport(text.into())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(reference) => return write!(f, "docker://{reference}"),
            Self::Store(name) => return write!(f, "store:{}", OneLine(name)),
            Self::Layout(path, name) => ("oci", path, name),
            Self::OciArchive(path, name) => ("oci-archive", path, name),
            Self::DockerArchive(path, name) => ("docker-archive", path, name),
        };
        write!(f, "{transport}:{}", OneLine(&path.to_string_lossy()))?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{}", OneLine(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_skopeo_reads_them() {
        for (text, whole) in [
            ("docker://busybox", "docker://docker.io/library/busybox:latest"),
            ("docker://127.0.0.1:5000/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", ""),
            ("store:app:1", ""),
            ("oci:/a/b", ""),
            ("oci:dir:latest", ""),
            ("oci-archive:a.tar:registry.example:5000/a:1", ""),
            ("docker-archive:a.tar", ""),
            ("docker-archive:a.tar:app", "docker-archive:a.tar:docker.io/library/app:latest"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), if whole.is_empty() { text } else { whole });
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
        }
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for (text, part) in [
            ("busybox", "expected docker://REFERENCE, store:NAME"),
            ("docker:busybox", "expected docker://REFERENCE"),
            ("dir:/a", "expected docker://REFERENCE"),
            ("", "expected docker://REFERENCE"),
            ("docker://A", "`docker://A`"),
            ("oci:", "expected a directory"),
            ("oci-archive::name", "expected a file"),
            ("oci-archive:a.tar:", "expected a name"),
            ("docker-archive:a.tar:A", "`docker-archive:a.tar:A`"),
            ("store:", "expected a name"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
