//! An image as the rest of Wharf sees it: identity, names, layers and its typed configuration.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::manifest::Platform;

/// One image of the store. Two manifests over the same config (gzip and zstd, say) are one image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The config's digest: what CRI calls the image id and returns as image ref.
    pub id: Digest,
    /// Full tagged names, `docker.io/library/busybox:latest`, sorted.
    pub repo_tags: Vec<String>,
    /// Full names by digest, `docker.io/library/busybox@sha256:…`, sorted; empty for images that were loaded.
    pub repo_digests: Vec<String>,
    /// The digest of the image manifest (never of an index).
    pub manifest_digest: Digest,
    /// Bytes of config and layers as stored (compressed), each blob once.
    pub size: u64,
    /// What the image's author configured.
    pub config: ImageConfig,
    /// Uncompressed layer digests, base first (image-spec, "rootfs.diff_ids").
    pub diff_ids: Vec<Digest>,
    /// RFC 3339, as the config has it.
    pub created: Option<String>,
    /// What the image was built for.
    pub platform: Platform,
    /// Whether it is to be kept whoever wants room.
    pub is_pinned: bool,
}

/// The `config` object of an image configuration (image-spec, "Properties"). Absent and `null` are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `name`, `uid`, `name:group` or `uid:gid`; empty for root. See [`crate::user`].
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `port/protocol`, as in `8080/tcp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Absolute paths in the image that want storage of their own.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// A signal's name or number; empty for SIGTERM.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
}

/// The whole configuration document (image-spec, "Image Configuration"), as far as it is read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ConfigDocument {
    pub created: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    pub variant: Option<String>,
    #[serde(default, deserialize_with = "object_or_default")]
    pub config: ImageConfig,
    #[serde(default, deserialize_with = "object_or_default")]
    pub rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl ConfigDocument {
    /// Of an artifact, whose only snapshot is named by its manifest.
    pub(crate) fn of_artifact(manifest: Digest) -> Self {
        Self { rootfs: RootFs { diff_ids: vec![manifest] }, ..Self::default() }
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() }
    }
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// As [`or_default`], but a list of the fields' values is no object.
fn object_or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    match Option::<serde_json::Map<String, serde_json::Value>>::deserialize(deserializer)? {
        Some(object) => serde_json::from_value(object.into()).map_err(serde::de::Error::custom),
        None => Ok(T::default()),
    }
}

/// Sets are written as objects with empty values.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let set: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(deserializer)?;
    Ok(set.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_of_docker_configs_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"User":"","ExposedPorts":{"80/tcp":{}},
            "Env":null,"Entrypoint":null,"Cmd":["sh"],"Volumes":null,"WorkingDir":"/w","Labels":null,
            "OnBuild":null,"Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let document: ConfigDocument = serde_json::from_str(text).unwrap();
        assert_eq!(document.config.cmd, ["sh"]);
        assert_eq!(document.config.exposed_ports, ["80/tcp"]);
        assert_eq!(document.config.working_dir, "/w");
        assert!(document.config.volumes.is_empty() && document.rootfs.diff_ids.is_empty());
        assert_eq!(document.platform().to_string(), "linux/amd64");
    }
}
