//! Programs of others: Debian's, or newer ones from paths in variables.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a program is, and what it says of itself.
#[derive(Clone, Debug)]
pub struct Peer {
    pub path: PathBuf,
    pub version: String,
}

impl Peer {
    /// `WHARF_BENCH_NAME` (upper case, `_` for `-`) if it is set, else what `PATH` leads to. `Err` says why there is
    /// none.
    pub fn find(name: &str) -> Result<Self, String> {
        let variable = format!("WHARF_BENCH_{}", name.to_uppercase().replace('-', "_"));
        let path = match std::env::var_os(&variable) {
            Some(path) => PathBuf::from(path),
            None => on_path(name).ok_or_else(|| format!("{name} is not installed (`scripts/install bench`)"))?,
        };
        if !path.is_file() {
            return Err(format!("{variable} is `{}`, which is no file", path.display()));
        }
        let version = version_of(&path).unwrap_or_else(|| name.to_owned());
        Ok(Self { path, version })
    }

    pub fn command(&self) -> Command {
        Command::new(&self.path)
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The first line of `--version`.
fn version_of(path: &Path) -> Option<String> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
