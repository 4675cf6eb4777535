//! What must be known of a connected pod until it is disconnected: `DATA/network/attachments/ID.json`.
//!
//! Beneath DATA, as plugins keep their notes of addresses across a reboot, and so must what is needed to have them
//! given back. Everything that ADD was told stands here: DEL is told the same, whatever the configuration says by then.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CniError, PluginConfig, Result, Version};

/// One interface of one pod, section 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// Of the pod sandbox: `CNI_CONTAINERID`.
    pub(super) id: String,
    pub(super) interface: String,
    pub(super) network: String,
    pub(super) version: Version,
    pub(super) disable_check: bool,
    pub(super) plugins: Vec<PluginConfig>,
    /// `CNI_NETNS`.
    pub(super) namespace: PathBuf,
    /// `CNI_ARGS`.
    pub(super) arguments: String,
    /// What the pod asks for, by capability; each plugin is told those it declares.
    pub(super) capabilities: Map<String, Value>,
    /// Of the last plugin's ADD, in the form of `version`; `None` until then.
    pub(super) result: Option<Value>,
}

pub(super) struct AttachmentStore {
    directory: PathBuf,
}

impl AttachmentStore {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).create(directory).map_err(|error| failed(directory, error))?;
        Ok(Self { directory: directory.into() })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// `None` where pod `id` is not connected.
    pub(super) fn read(&self, id: &str) -> Result<Option<Attachment>> {
        let path = self.path(id);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(&path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Whole and on the disk when it returns, or as it was before.
    pub(super) fn write(&self, attachment: &Attachment) -> Result<()> {
        let path = self.path(&attachment.id);
        let temporary = self.directory.join(format!("{}.new", attachment.id));
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(attachment)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            self.sync()
        };
        write().map_err(|error| failed(&path, error))
    }

    /// Gone already is done.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => self.sync().map_err(|error| failed(&path, error)),
        }
    }

    /// Of every pod that is connected, or was about to be.
    pub(super) fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_string)).collect()
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> CniError {
    CniError::Record { path: path.into(), reason: error.to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;
    use wharf_specs::cni::NetworkList;

    pub(in super::super) fn attachment() -> Attachment {
        let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge"}, {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
        ]});
        let list = NetworkList::parse(list.to_string().as_bytes()).unwrap();
        let capabilities = json!({"portMappings": [{"hostPort": 8080}], "dns": {"servers": []}});
        Attachment {
            id: "a".into(),
            interface: "eth0".into(),
            network: list.name,
            version: Version::V1_0_0,
            disable_check: false,
            plugins: list.plugins,
            namespace: "/nonexistent/netns".into(),
            arguments: "IgnoreUnknown=1".into(),
            capabilities: capabilities.as_object().unwrap().clone(),
            result: None,
        }
    }

    #[test]
    fn attachments_are_read_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = AttachmentStore::open(dir.path()).unwrap();
        assert_eq!(store.read("a").unwrap(), None);
        let mut attachment = attachment();
        store.write(&attachment).unwrap();
        attachment.result = Some(json!({"cniVersion": "1.0.0"}));
        store.write(&attachment).unwrap();
        assert_eq!(store.read("a").unwrap(), Some(attachment));
        assert_eq!(store.ids(), ["a"]);
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert!(store.ids().is_empty() && fs::read_dir(dir.path()).unwrap().next().is_none());
        fs::write(dir.path().join("b.json"), "{").unwrap();
        assert!(store.read("b").unwrap_err().to_string().contains("b.json: EOF"));
    }
}
