//! What callers can ask of a checkpoint and a restore.

use super::Error;
use crate::error::While;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str::FromStr;
use wharf_specs::criu;
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::fs;

/// An annotation that names a configuration file of criu's, or with an empty value none.
const CONFIG_ANNOTATION: &str = "org.criu.config";
/// The configuration file of criu's that is used without the annotation. criu passes over one that is not there.
const DEFAULT_CONFIG: &str = "/etc/criu/runc.conf";
/// criu's level of debugging: its log is the only thing that explains a failure.
const LOG_LEVEL: i32 = 4;

/// What criu does with control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    Soft,
    Full,
    Strict,
    /// The groups are those the runtime makes.
    Ignore,
}

impl FromStr for CgroupMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "soft" => Ok(Self::Soft),
            "full" => Ok(Self::Full),
            "strict" => Ok(Self::Strict),
            "ignore" => Ok(Self::Ignore),
            _ => Err(format!("{text:?} is not a cgroups mode; allowed: soft, full, strict, ignore")),
        }
    }
}

/// Where memory is sent instead of into the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    pub address: String,
    pub port: u16,
}

impl FromStr for PageServer {
    type Err = String;

    /// `ADDRESS:PORT`, an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a page server; allowed: ADDRESS:PORT");
        let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let address = match address.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
            None if address.contains(':') => return Err(wrong()),
            None => address,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if address.is_empty() {
            return Err(wrong());
        }
        Ok(Self { address: address.into(), port })
    }
}

impl fmt::Display for PageServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// What checkpoint and restore have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Connections stay connections.
    pub tcp_established: bool,
    /// Unix sockets may be connected to processes outside.
    pub ext_unix_sk: bool,
    /// The container may share session and terminal with processes outside.
    pub shell_job: bool,
    /// File locks are kept.
    pub file_locks: bool,
    /// Memory that a later image has too is removed from an earlier one.
    pub auto_dedup: bool,
    /// Memory is sent when it is first touched.
    pub lazy_pages: bool,
    /// None is criu's default.
    pub cgroup_mode: Option<CgroupMode>,
}

/// The directories of a request, open as long as criu needs them.
#[derive(Debug)]
pub(super) struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
}

impl Directories {
    /// Opens them; the work directory is made if it is missing.
    pub(super) fn open(images: &Path, work: Option<&Path>) -> Result<Self, crate::Error> {
        if let Some(path) = work {
            make(path)?;
        }
        let open = |path: &Path, what| open(path).during(what, path.display());
        Ok(Self {
            images: open(images, "open images directory")?,
            work: work.map(|path| open(path, "open work directory")).transpose()?,
        })
    }

    /// The same, opened by someone else: images, then work.
    pub(super) fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        Some(Self { images: descriptors.next()?, work: descriptors.next() })
    }
}

/// Opens a directory.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    fs::open_at(None, &fs::c_path(path)?, fs::O_RDONLY | fs::O_DIRECTORY, 0, 0)
}

/// Makes a directory that only the caller can look into.
pub(super) fn make(path: &Path) -> Result<(), crate::Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).during("make directory", path.display())
}

impl Options {
    /// The part of a request that is the same in both directions.
    pub(super) fn request(&self, directories: &Directories, log: &str, config: Option<&str>) -> criu::Options {
        let mode = match self.cgroup_mode {
            None => criu::CgroupMode::Default,
            Some(CgroupMode::Soft) => criu::CgroupMode::Soft,
            Some(CgroupMode::Full) => criu::CgroupMode::Full,
            Some(CgroupMode::Strict) => criu::CgroupMode::Strict,
            Some(CgroupMode::Ignore) => criu::CgroupMode::Ignore,
        };
        criu::Options {
            images_dir_fd: directories.images.as_raw_fd(),
            work_dir_fd: directories.work.as_ref().map(AsRawFd::as_raw_fd),
            log_level: Some(LOG_LEVEL),
            log_file: Some(log.into()),
            config_file: config.map(Into::into),
            notify_scripts: Some(true),
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(mode.into()),
            // What is in a network namespace is for whoever made it to bring back.
            empty_ns: Some(Kind::Network as u32),
            orphan_pts_master: Some(true),
            tcp_established: Some(self.tcp_established),
            ext_unix_sk: Some(self.ext_unix_sk),
            shell_job: Some(self.shell_job),
            file_locks: Some(self.file_locks),
            auto_dedup: Some(self.auto_dedup),
            lazy_pages: Some(self.lazy_pages),
            ..criu::Options::default()
        }
    }
}

/// The configuration file of criu's for a container.
pub(super) fn config_file<'a>(mut annotation: impl FnMut(&str) -> Option<&'a String>) -> Option<&'a str> {
    match annotation(CONFIG_ANNOTATION) {
        Some(path) => Some(path.as_str()).filter(|path| !path.is_empty()),
        None => Some(DEFAULT_CONFIG),
    }
}

/// Text for criu, whose protocol knows UTF-8 only.
pub(super) fn text(path: &Path) -> Result<String, Error> {
    let problem = || "criu takes UTF-8 paths only; rename it".to_string();
    path.to_str().map(Into::into).ok_or_else(|| Error::Images { path: path.into(), problem: problem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_are_an_address_and_a_port() {
        let parse = |text: &str| text.parse::<PageServer>().map(|server| (server.address, server.port));
        assert_eq!(parse("0.0.0.0:27"), Ok(("0.0.0.0".into(), 27)));
        assert_eq!(parse("[::1]:27"), Ok(("::1".into(), 27)));
        for wrong in ["", "host", ":27", "host:", "host:0", "host:70000", "::1:27", "[::1:27", "host:x"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn modes_are_named() {
        assert_eq!("ignore".parse(), Ok(CgroupMode::Ignore));
        assert!("".parse::<CgroupMode>().is_err() && "none".parse::<CgroupMode>().is_err());
    }

    #[test]
    fn the_annotation_names_the_configuration_or_none() {
        let (some, empty) = ("/x".to_string(), String::new());
        assert_eq!(config_file(|_| None), Some("/etc/criu/runc.conf"));
        assert_eq!(config_file(|_| Some(&empty)), None);
        assert_eq!(config_file(|name| (name == "org.criu.config").then_some(&some)), Some("/x"));
    }

    #[test]
    fn a_request_says_what_the_options_say() {
        let directory = tempfile::tempdir().expect("temp dir");
        let work = directory.path().join("work");
        let directories = Directories::open(directory.path(), Some(&work)).expect("open");
        let options = Options { lazy_pages: true, cgroup_mode: Some(CgroupMode::Ignore), ..Options::default() };
        let request = options.request(&directories, "dump.log", None);
        assert_eq!(request.manage_cgroups_mode, Some(0));
        assert_eq!((request.lazy_pages, request.tcp_established), (Some(true), Some(false)));
        assert_eq!(request.work_dir_fd, directories.work.as_ref().map(AsRawFd::as_raw_fd));
        assert_eq!(request.empty_ns, Some(0x4000_0000));
        assert_eq!(Options::default().request(&directories, "dump.log", None).manage_cgroups_mode, Some(6));
        assert!(Directories::open(&directory.path().join("none"), None).is_err());
    }
}
