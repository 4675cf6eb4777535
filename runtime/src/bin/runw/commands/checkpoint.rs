//! `checkpoint`.

use crate::Fault;
use crate::log::Log;
use crate::store::Store;
use clap::Args;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use wharf_runtime::bundle::Bundle;
use wharf_runtime::checkpoint::{CgroupMode, CheckpointRequest, Options, PageServer};
use wharf_sys::{credential, fs, process};

/// Where images lie if nobody says: in the working directory.
const DEFAULT_IMAGES: &str = "checkpoint";

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, Args)]
pub(crate) struct ImageOptions {
    /// directory of the criu image files; `checkpoint` in the working directory if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) image_path: Option<PathBuf>,
    /// directory of work files and logs; that of the image files if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) work_path: Option<PathBuf>,
    /// allow open tcp connections
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// allow external unix sockets
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// allow shell jobs
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// send memory when it is first touched, by userfaultfd
    #[arg(long)]
    pub(crate) lazy_pages: bool,
    /// keep file locks
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// what criu does with cgroups: soft, full, strict, ignore (default: soft)
    #[arg(long, value_name = "MODE", value_parser = optional::<CgroupMode>)]
    pub(crate) manage_cgroups_mode: Option<Maybe<CgroupMode>>,
    /// namespaces whose content is left out: network, which always is
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    pub(crate) empty_ns: Vec<String>,
    /// remove memory from earlier images that later ones have too
    #[arg(long)]
    pub(crate) auto_dedup: bool,
}

/// An option whose empty value is as good as none.
#[derive(Debug, Clone)]
pub(crate) struct Maybe<T>(Option<T>);

fn optional<T: std::str::FromStr>(text: &str) -> Result<Maybe<T>, T::Err> {
    if text.is_empty() { Ok(Maybe(None)) } else { text.parse().map(|value| Maybe(Some(value))) }
}

impl ImageOptions {
    /// The directory of the images: absolute, as criu has a working directory of its own.
    pub(crate) fn images(&self) -> Result<PathBuf, Fault> {
        let given = self.image_path.as_deref().filter(|path| !path.as_os_str().is_empty());
        absolute(given.unwrap_or(Path::new(DEFAULT_IMAGES)))
    }

    pub(crate) fn work(&self) -> Result<Option<PathBuf>, Fault> {
        self.work_path.as_deref().filter(|path| !path.as_os_str().is_empty()).map(absolute).transpose()
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
pub(crate) fn warn_without_root(command: &str, log: &Log) {
    if credential::effective_user() != 0 {
        log.warn(&format!("{command} is untested with rootless containers"));
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointOptions {
    #[command(flatten)]
    pub(crate) images: ImageOptions,
    /// directory of earlier image files, relative to that of the image files
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_path: Option<PathBuf>,
    /// leave the processes running after the checkpoint
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// leave out tcp connections that are not established yet
    #[arg(long)]
    pub(crate) tcp_skip_in_flight: bool,
    /// give unlinked files a name again where possible
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// descriptor that gets a zero byte once --lazy-pages is ready
    #[arg(long, value_name = "FD", default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) status_fd: i32,
    /// page server to send memory to; with --lazy-pages, where it is served
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = optional::<PageServer>)]
    pub(crate) page_server: Option<Maybe<PageServer>>,
    /// write the memory only, and leave the container running
    #[arg(long)]
    pub(crate) pre_dump: bool,
    pub(crate) id: String,
}

pub(crate) fn run(options: &CheckpointOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    warn_without_root("checkpoint", log);
    let container = store.load(&options.id)?;
    let bundle = Bundle::load(&container.state().bundle)?;
    let (images, work) = (options.images.images()?, options.images.work()?);
    let request = CheckpointRequest {
        work: work.as_deref(),
        parent: options.parent_path.as_deref().filter(|path| !path.as_os_str().is_empty()),
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
