//! What is built from this workspace for the guest: the programs, the init, and test programs.

use anyhow::{Context, Result, ensure};
use rustix::fs::FlockOperation;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a user runs, and the init of the guest.
const PROGRAMS: [&str; 4] = ["runw", "wharf", "wharfd", "wharf-shim"];
const INIT: &str = "guest-init";

/// The programs of Wharf and the guest's init, by file.
#[derive(Debug)]
pub struct Programs {
    pub init: PathBuf,
    pub programs: Vec<PathBuf>,
}

/// The integration tests of a package.
#[derive(Debug)]
pub struct Suites {
    /// Test programs by name.
    pub suites: Vec<(String, PathBuf)>,
    /// The package's binaries. A suite knows them by these very paths (`CARGO_BIN_EXE_…`).
    pub binaries: Vec<PathBuf>,
}

/// Builds the programs in the profile that this crate was built in.
pub fn programs() -> Result<Programs> {
    let mut arguments = vec!["build", "--workspace", "--bin", INIT];
    for program in PROGRAMS {
        arguments.extend(["--bin", program]);
    }
    let mut built: Vec<PathBuf> = artifacts(&arguments)?.into_iter().map(|artifact| artifact.file).collect();
    let init = built.iter().position(|file| file.ends_with(INIT)).context("cargo built no guest-init")?;
    Ok(Programs { init: built.swap_remove(init), programs: built })
}

/// Builds the guest's init alone.
pub fn init() -> Result<PathBuf> {
    let built = artifacts(&["build", "--workspace", "--bin", INIT])?;
    built.into_iter().next().map(|artifact| artifact.file).context("cargo built no guest-init")
}

/// Builds the integration tests in `directory/tests`, the directory being that of a package of this workspace.
pub fn suites(directory: &str) -> Result<Suites> {
    let folder = workspace().join(directory).join("tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    // A test program is a file, or a directory with its `main.rs`.
    let sources = files.filter(|path| path.extension().is_some_and(|it| it == "rs") || path.join("main.rs").exists());
    let mut names: Vec<String> =
        sources.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    // The whole workspace decides the features of dependencies, as in `scripts/test`: nothing is compiled twice.
    let mut arguments = vec!["test", "--no-run", "--workspace"];
    for name in &names {
        arguments.extend(["--test", name]);
    }
    // Another package may have a program of the same name.
    let built = artifacts(&arguments)?.into_iter().filter(|it| !it.is_test || it.source.starts_with(&folder));
    let (tests, binaries): (Vec<_>, Vec<_>) = built.partition(|it| it.is_test);
    let mut suites: Vec<_> = tests.into_iter().map(|it| (it.name, it.file)).collect();
    suites.sort();
    Ok(Suites { suites, binaries: binaries.into_iter().map(|it| it.file).collect() })
}

/// Where cargo builds: the cache of kernels lies there too.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The cache of kernels and root file systems, and a lock on it: whoever waits for it finds what the one before made.
pub(crate) fn locked_cache() -> Result<(PathBuf, File)> {
    let cache = target_directory().join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock")).with_context(|| format!("make a lock in {}", cache.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("lock {}", cache.display()))?;
    Ok((cache, lock))
}

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

struct Artifact {
    name: String,
    source: PathBuf,
    file: PathBuf,
    is_test: bool,
}

fn artifacts(arguments: &[&str]) -> Result<Vec<Artifact>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(arguments).args(["--locked", "--quiet", "--message-format=json-render-diagnostics"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.current_dir(workspace()).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo {}: {}", arguments.join(" "), output.status);
    Ok(parse_artifacts(&String::from_utf8_lossy(&output.stdout)))
}

/// The executables in cargo's messages.
fn parse_artifacts(messages: &str) -> Vec<Artifact> {
    let message = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(Artifact {
            name: message["target"]["name"].as_str()?.to_string(),
            source: message["target"]["src_path"].as_str()?.into(),
            file: message["executable"].as_str()?.into(),
            is_test: message["profile"]["test"].as_bool()?,
        })
    };
    messages.lines().filter_map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_taken_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"lib","src_path":"/w/src/lib.rs"},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"suite","src_path":"/w/tests/suite.rs"},"profile":{"test":true},"executable":"/t/suite-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let artifacts = parse_artifacts(messages);
        assert_eq!(artifacts.len(), 1);
        assert_eq!((artifacts[0].name.as_str(), artifacts[0].is_test), ("suite", true));
    }
}
