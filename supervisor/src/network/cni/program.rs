//! Plugins' programs: where they are, which versions they speak, and one execution of one of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use wharf_specs::cni::VersionAnswer;

use super::execute::execute;
use super::orphan::MARK;
use super::request::{Operation, Request};
use super::{CniError, NetworkList, QUESTION_LIMIT, Result, Version};

pub(super) struct Programs {
    folders: Vec<PathBuf>,
    /// `CNI_PATH`.
    path: OsString,
    /// By which a later daemon of this node finds what it did not start.
    mark: OsString,
    /// What each program said of its versions; `None` where it did not say.
    spoken: Mutex<HashMap<PathBuf, (Identity, Option<VersionAnswer>)>>,
}

/// Changes when a program is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Programs {
    pub(super) fn new(folders: Vec<PathBuf>, state: &Path) -> Self {
        // No folder has a colon in its name: that is checked where the configuration is read.
        let path = folders.iter().map(|folder| folder.as_os_str()).collect::<Vec<_>>().join(":".as_ref());
        Self { folders, path, mark: state.into(), spoken: Mutex::default() }
    }

    /// The first file of that name that can be executed.
    fn find(&self, program: &str, network: &str) -> Result<PathBuf> {
        let is_program =
            |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        self.folders.iter().map(|folder| folder.join(program)).find(is_program).ok_or_else(|| CniError::NoProgram {
            program: program.into(),
            network: network.into(),
            folders: self.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The newest version that the network is written for and all its plugins speak, section 1. The programs that
    /// give addresses have to be there as well.
    pub(super) async fn select(&self, list: &NetworkList) -> Result<Version> {
        let mut common = list.versions.clone();
        for plugin in &list.plugins {
            if let Some(ipam) = plugin.object.get("ipam").and_then(|ipam| ipam["type"].as_str()) {
                self.find(ipam, &list.name)?;
            }
            let program = self.find(&plugin.program, &list.name)?;
            // One that does not tell is taken to speak what the configuration asks of it.
            let Some(answer) = self.versions_of(&program, list.newest()).await else { continue };
            let wanted = common.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(", ");
            common.retain(|version| answer.supports(*version));
            if common.is_empty() {
                let spoken = answer.supported.join(", ");
                return Err(CniError::NoCommonVersion { network: list.name.clone(), wanted, program, spoken });
            }
        }
        common.last().copied().ok_or_else(|| CniError::NoPlugins { network: list.name.clone() })
    }

    async fn versions_of(&self, program: &Path, version: Version) -> Option<VersionAnswer> {
        let identity = identity(program)?;
        let known = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(program).cloned();
        if let Some((_, answer)) = known.filter(|(then, _)| *then == identity) {
            return answer;
        }
        let input = json!({"cniVersion": version.as_str()}).to_string();
        let variables = self.variables(Operation::Version, Vec::new());
        let answer = match execute(program, &variables, input.as_bytes(), QUESTION_LIMIT).await {
            Ok(output) => VersionAnswer::parse(&output).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &answer {
            tracing::warn!(program = %program.display(), error, "CNI plugin does not say which versions it speaks");
        }
        let answer = answer.ok();
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken.insert(program.into(), (identity, answer.clone()));
        answer
    }

    /// Executes one request; the answer is what the plugin wrote.
    pub(super) async fn run(&self, request: &Request<'_>, limit: Duration) -> Result<Vec<u8>> {
        let program = self.find(request.program(), request.network())?;
        let variables = self.variables(request.operation(), request.environment());
        let started = std::time::Instant::now();
        let outcome = execute(&program, &variables, &request.input(), limit).await;
        let milliseconds = started.elapsed().as_millis();
        let (operation, network) = (request.operation(), request.network());
        tracing::debug!(%operation, network, program = %program.display(), milliseconds, ok = outcome.is_ok(), "CNI plugin");
        outcome.map_err(|error| request.failed(error))
    }

    fn variables(&self, operation: Operation, more: Vec<(&'static str, OsString)>) -> Vec<(&'static str, OsString)> {
        let own =
            [("CNI_COMMAND", operation.to_string().into()), ("CNI_PATH", self.path.clone()), (MARK, self.mark.clone())];
        own.into_iter().chain(more).collect()
    }
}

fn identity(program: &Path) -> Option<Identity> {
    let file = program.metadata().ok()?;
    Some(Identity {
        device: file.dev(),
        inode: file.ino(),
        size: file.size(),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}
