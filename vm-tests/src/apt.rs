//! Debian's apt as it is needed here: asked for packages and made to download, never to install. With sources of its own
//! it leaves the machine's configuration and lists alone.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

const MIRROR: &str = "http://deb.debian.org";
const SNAPSHOT: &str = "http://snapshot.debian.org/archive";
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// How apt is called.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    options: Vec<String>,
}

/// A package as apt describes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub package: String,
    pub version: String,
    pub depends: String,
    /// In the archive.
    pub path: String,
    pub sha256: String,
}

impl Apt {
    /// The machine's own sources.
    pub(crate) fn of_the_machine() -> Self {
        Self::default()
    }

    /// Sources such as `debian bookworm-backports main`, with lists that are kept in `work` and fetched now.
    pub(crate) fn with_sources(work: &Path, sources: &[&str]) -> Result<Self> {
        let (lists, cache, file) = (work.join("lists"), work.join("cache"), work.join("sources.list"));
        for directory in [lists.join("partial"), cache.join("archives/partial")] {
            fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let text: String = sources.iter().map(|source| format!("deb {MIRROR}/{source}\n")).collect();
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let settings = [
            format!("Dir::Etc::SourceList={}", file.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            "Acquire::Languages=none".into(),
            // The lists lie where apt's own user may not write.
            "APT::Sandbox::User=root".into(),
        ];
        let apt = Self { options: settings.into_iter().flat_map(|setting| ["-o".into(), setting]).collect() };
        output("apt-get", &apt.arguments(&["update", "-q"]))?;
        Ok(apt)
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        arguments.iter().copied().chain(self.options.iter().map(String::as_str)).collect()
    }

    /// The package that holds the newest kernel: `name`, or the one that it depends on.
    pub(crate) fn newest(&self, name: &str) -> Result<Description> {
        let Some(found) = self.describe(name)? else { bail!("apt knows no package {name}") };
        let real = found.depends.split([',', ' ']).find(|word| word.starts_with("linux-image-"));
        let Some(real) = real else { return Ok(found) };
        self.describe(real)?.with_context(|| format!("apt knows no package {real}"))
    }

    /// The candidate of a package.
    pub(crate) fn describe(&self, package: &str) -> Result<Option<Description>> {
        let show = self.arguments(&["show", "--no-all-versions", package]);
        let shown = Command::new("apt-cache").args(show).output().context("run apt-cache")?;
        Ok(parse(&String::from_utf8_lossy(&shown.stdout)))
    }

    /// Downloads this version of a package into `directory`.
    pub(crate) fn download(&self, package: &str, version: &str, directory: &Path) -> Result<()> {
        let wanted = format!("{package}={version}");
        run(Command::new("apt-get").args(self.arguments(&["download", "-q", &wanted])).current_dir(directory))
    }
}

/// Downloads a file of Debian's archive with this hash: from the mirror, which has what is new, else as it was at `date`.
pub(crate) fn download_pinned(archive: &str, path: &str, date: &str, sha256: &str, target: &Path) -> Result<()> {
    let hash = format!("SHA256:{sha256}");
    let fetch = |url: String| run(Command::new(HELPER).args(["download-file", &url]).arg(target).arg(&hash));
    let newest = fetch(format!("{MIRROR}/{archive}/{path}"));
    newest.or_else(|error| {
        fetch(format!("{SNAPSHOT}/{archive}/{date}/{path}")).map_err(|_| error.context(format!("download {path}")))
    })
}

fn parse(text: &str) -> Option<Description> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().into();
    let found = Description {
        package: field("Package: "),
        version: field("Version: "),
        depends: field("Depends: "),
        path: field("Filename: "),
        sha256: field("SHA256: "),
    };
    (!found.package.is_empty() && !found.version.is_empty()).then_some(found)
}

/// What a program prints that must succeed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}\n{}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}\n{}", command.get_program(), output.status, errors.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_gives_version_dependencies_and_hash() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.1-2\nDepends: linux-image-6.1.0-5 (= 6.1.1-2)\n\
            Filename: pool/a.deb\nSHA256: 00\n";
        let found = parse(text).expect("description");
        assert_eq!((found.version.as_str(), found.depends.as_str()), ("6.1.1-2", "linux-image-6.1.0-5 (= 6.1.1-2)"));
        assert_eq!((found.path.as_str(), found.sha256.as_str()), ("pool/a.deb", "00"));
        assert!(parse("").is_none());
    }
}
