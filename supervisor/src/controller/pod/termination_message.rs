//! The last words of a container: what it has written to its termination message file, or the end of its log.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::observed::{declared, ephemeral};
use super::worker::Worker;
use crate::api::pod_log::log_tail;
use crate::pod::status::ContainerStatus;

/// Most bytes of the file that are shown, its last ones, as the kubelet has it.
const LONGEST: u64 = 4096;
/// Likewise of a log.
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

impl Worker {
    /// Reads what containers that have ended since left as their termination messages.
    pub(super) fn hear_last_words(&mut self, pod: &Pod) {
        let spec = pod.spec.clone().unwrap_or_default();
        let ephemeral = ephemeral(&spec);
        for container in declared(&spec).map(|(_, container)| container).chain(&ephemeral) {
            for ended in self.attempts(&container.name).iter().filter(|attempt| attempt.finished_at != 0) {
                let words = self.last_words_of(container, ended);
                self.last_words.insert(ended.id.clone(), words);
            }
        }
    }

    /// Those of a container that has ended, at whatever moment of a pass.
    pub(super) fn last_words_of(&self, container: &Container, ended: &ContainerStatus) -> String {
        if let Some(known) = self.last_words.get(&ended.id) {
            return known.clone();
        }
        if container.termination_message_path.as_deref().is_none_or(str::is_empty) {
            return String::new();
        }
        let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let path = file(&self.folder(), &container.name, ended.config.attempt);
        let log = ended.log_path.as_deref().filter(|_| falls_back && ended.exit_code != 0);
        read(&path, log)
    }
}

/// The file of an attempt of a container; `folder` is its pod's own.
pub(super) fn file(folder: &Path, container: &str, attempt: u32) -> PathBuf {
    folder.join("containers").join(container).join(attempt.to_string())
}

/// Makes the file, empty; whichever user the container has may write there.
pub(super) fn make(file: &Path) -> io::Result<()> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    made.set_permissions(Permissions::from_mode(0o666))
}

/// What a container that has ended left; `log` is looked at where that is its policy, it failed and wrote nothing.
pub(super) fn read(file: &Path, log: Option<&Path>) -> String {
    let written = tail(file).unwrap_or_default();
    let words = match (written.is_empty(), log) {
        (true, Some(log)) => log_tail(log, LOG_LINES, LOG_BYTES).unwrap_or_default(),
        _ => written,
    };
    String::from_utf8_lossy(&words).into_owned()
}

fn tail(file: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST)))?;
    let mut words = Vec::new();
    file.take(LONGEST).read_to_end(&mut words)?;
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_message_is_shown_and_the_log_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), "c", 3);
        let log = folder.path().join("log");
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F a\n2026-01-01T00:00:01Z stderr F b\n").unwrap();
        assert_eq!(read(&file, None), "");
        make(&file).unwrap();
        assert_eq!((read(&file, None).as_str(), read(&file, Some(&log)).as_str()), ("", "a\nb\n"));
        std::fs::write(&file, "x".repeat(5000) + "end").unwrap();
        let shown = read(&file, Some(&log));
        assert!(shown.len() == 4096 && shown.ends_with("xend"));
    }
}
