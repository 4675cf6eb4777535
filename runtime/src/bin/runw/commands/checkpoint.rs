//! `checkpoint`.

use crate::Fault;
use crate::cli::{on, options, parsed, takes};
use crate::log::Log;
use crate::store::Store;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use wharf_runtime::bundle::Bundle;
use wharf_runtime::checkpoint::{CgroupMode, CheckpointRequest, Options, PageServer};
use wharf_sys::{credential, fs, process};

/// Where images lie if nobody says: in the working directory.
const DEFAULT_IMAGES: &str = "checkpoint";

options! {
    /// What `checkpoint` and `restore` have in common.
    ImageOptions {
        /// directory of the criu image files; `checkpoint` in the working directory if not given
        image_path: Option<PathBuf> = takes("DIR"),
        /// directory of work files and logs; that of the image files if not given
        work_path: Option<PathBuf> = takes("DIR"),
        /// allow open tcp connections
        tcp_established: bool = on(),
        /// allow external unix sockets
        ext_unix_sk: bool = on(),
        /// allow shell jobs
        shell_job: bool = on(),
        /// send memory when it is first touched, by userfaultfd
        lazy_pages: bool = on(),
        /// keep file locks
        file_locks: bool = on(),
        /// what criu does with cgroups: soft, full, strict, ignore (default: soft)
        manage_cgroups_mode: Option<Maybe<CgroupMode>> = takes("MODE"),
        /// namespaces whose content is left out: network, which always is
        empty_ns: Vec<EmptyNamespace> = takes("NAMESPACE"),
        /// remove memory from earlier images that later ones have too
        auto_dedup: bool = on(),
    }
}

/// An option whose empty value is as good as none.
#[derive(Debug, Clone)]
pub(crate) struct Maybe<T>(Option<T>);

impl<T: FromStr> FromStr for Maybe<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

/// The only namespace that can be left out.
#[derive(Debug)]
pub(crate) struct EmptyNamespace;

impl FromStr for EmptyNamespace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "network" { Ok(Self) } else { Err("allowed: network") }
    }
}

parsed!(Maybe<CgroupMode>, Maybe<PageServer>, EmptyNamespace);

impl ImageOptions {
    /// The directory of the images: absolute, as criu has a working directory of its own.
    pub(crate) fn images(&self) -> Result<PathBuf, Fault> {
        let given = self.image_path.as_deref();
        absolute(given.unwrap_or(Path::new(DEFAULT_IMAGES)))
    }

    pub(crate) fn work(&self) -> Result<Option<PathBuf>, Fault> {
        self.work_path.as_deref().map(absolute).transpose()
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroup_mode: self.manage_cgroups_mode.as_ref().and_then(|mode| mode.0),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Fault> {
    std::path::absolute(path).map_err(|error| Fault::new(format!("{}: {error}", path.display())))
}

/// criu wants root; what it says otherwise does not name that.
pub(crate) fn warn(command: &str, options: &ImageOptions, log: &Log) {
    if !options.empty_ns.is_empty() {
        log.debug("--empty-ns network: its content is left out of every checkpoint");
    }
    if credential::effective_user() != 0 {
        log.warn(&format!("{command} is untested with rootless containers"));
    }
}

options! {
    /// Of `checkpoint`.
    CheckpointOptions with images: ImageOptions [id: String] {
        /// directory of earlier image files, relative to that of the image files
        parent_path: Option<PathBuf> = takes("DIR"),
        /// leave the processes running after the checkpoint
        leave_running: bool = on(),
        /// leave out tcp connections that are not established yet
        tcp_skip_in_flight: bool = on(),
        /// give unlinked files a name again where possible
        link_remap: bool = on(),
        /// descriptor that gets a zero byte once --lazy-pages is ready
        status_fd: i32 = takes("FD").or("-1"),
        /// page server to send memory to; with --lazy-pages, where it is served
        page_server: Option<Maybe<PageServer>> = takes("ADDRESS:PORT"),
        /// write the memory only, and leave the container running
        pre_dump: bool = on(),
    }
}

pub(crate) fn run(options: &CheckpointOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    warn("checkpoint", &options.images, log);
    let container = store.load(&options.id)?;
    let bundle = Bundle::load(&container.state().bundle)?;
    let (images, work) = (options.images.images()?, options.images.work()?);
    let request = CheckpointRequest {
        work: work.as_deref(),
        parent: options.parent_path.as_deref(),
        options: options.images.options(),
        leave_running: options.leave_running,
        pre_dump: options.pre_dump,
        tcp_skip_in_flight: options.tcp_skip_in_flight,
        link_remap: options.link_remap,
        page_server: options.page_server.as_ref().and_then(|server| server.0.clone()),
        status_fd: status_descriptor(options)?,
        ..CheckpointRequest::new(&bundle.spec, &images)
    };
    container.checkpoint(request)?;
    log.debug(&format!("container {} is checkpointed in {}", options.id, images.display()));
    if options.leave_running || options.pre_dump {
        return Ok(0);
    }
    let id = container.id().clone();
    let deleted = container.delete();
    store.forget(&id)?;
    if let Err(error) = deleted {
        // The images are complete all the same.
        log.warn(&error.to_string());
    }
    Ok(0)
}

fn status_descriptor(options: &CheckpointOptions) -> Result<Option<OwnedFd>, Fault> {
    let number = options.status_fd;
    if number == -1 {
        return Ok(None);
    }
    if !options.images.lazy_pages {
        return Err(Fault::new("--status-fd is only for --lazy-pages"));
    }
    let fail = |problem: String| Fault::new(format!("invalid --status-fd argument {number}: {problem}"));
    let take = || -> std::io::Result<Option<OwnedFd>> {
        let descriptor = process::duplicate_inherited(number)?;
        if !fs::is_writable(descriptor.as_fd())? {
            return Ok(None);
        }
        // The reader waits for the end of the file too, which comes when the duplicate is closed.
        process::place(std::fs::File::open("/dev/null")?.as_fd(), number)?;
        Ok(Some(descriptor))
    };
    match take() {
        Ok(Some(descriptor)) => Ok(Some(descriptor)),
        Ok(None) => Err(fail("not writable".into())),
        Err(error) => Err(fail(error.to_string())),
    }
}
