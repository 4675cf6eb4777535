//! Why CNI could not do what it was asked for.

use std::path::PathBuf;

use super::request::Operation;

/// Each is one line that names the file, the plugin or the field, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// Where `network.mode` is `cni`.
    #[error(
        "no CNI configuration in {folder}: a *.conflist, *.conf or *.json is needed there, \
         or network.mode = \"embedded\" in wharfd.toml"
    )]
    NothingConfigured { folder: PathBuf },
    /// One reason for each file.
    #[error("no CNI configuration is valid: {refused}")]
    NoneValid { refused: String },
    /// No file of that name can be executed in the plugin folders.
    #[error("plugin {program:?} of CNI network {network:?} is in none of {folders}")]
    NoProgram { program: String, network: String, folders: String },
    /// Lists of versions: what the network is still written for, after the plugins before this one.
    #[error("CNI network {network:?} is for version {wanted}, its plugin {program} speaks {spoken}")]
    NoCommonVersion { network: String, wanted: String, program: PathBuf, spoken: String },
    #[error("CNI network {network:?} has no plugins")]
    NoPlugins { network: String },
    /// One execution: what the plugin said, or why there was no answer.
    #[error("plugin {program} of CNI network {network:?}, {operation}: {reason}")]
    Plugin { program: String, network: String, operation: Operation, reason: String },
    /// Every plugin succeeded, and the pod could not be reached all the same.
    #[error("CNI network {network:?}: the last plugin's result has no address for {interface}")]
    NoAddress { network: String, interface: &'static str },
    /// The pod asks for what no plugin has been declared to do.
    #[error("annotation {annotation}: no plugin of CNI network {network:?} declares the capability {capability:?}")]
    NotDeclared { annotation: &'static str, network: String, capability: &'static str },
    /// A name of the pod that cannot be told to plugins.
    #[error("{field}: {found:?} has {character:?} in it, which has a meaning in CNI_ARGS")]
    Name { field: &'static str, found: String, character: char },
    /// The record of an attachment.
    #[error("{path}: {reason}")]
    Record { path: PathBuf, reason: String },
    /// The path to a pod's namespace.
    #[error("{operation}: {reason}")]
    Kernel { operation: String, reason: String },
}

pub type Result<T, E = CniError> = std::result::Result<T, E>;
