//! `restore`.

use super::checkpoint::{ImageOptions, warn};
use super::create::{Announcement, announced, destroy};
use crate::cli::{on, options, takes};
use crate::log::Log;
use crate::store::Store;
use crate::{Fault, console, foreground};
use std::path::PathBuf;
use wharf_runtime::bundle::Bundle;
use wharf_runtime::checkpoint::RestoreRequest;
use wharf_runtime::{Container, ContainerId, Rootfs, Stdio};

options! {
    /// Of `restore`.
    RestoreOptions with images: ImageOptions [id: String] {
        /// the bundle directory
        bundle: PathBuf = takes("DIR").short('b').or("."),
        /// leave the container running and return
        detach: bool = on().short('d'),
        /// unix socket that receives the terminal's descriptor
        console_socket: Option<PathBuf> = takes("PATH"),
        /// file to write the init's pid to
        pid_file: Option<PathBuf> = takes("FILE"),
        /// do not adopt orphans of the container
        no_subreaper: bool = on(),
        /// refused: criu enters the root by pivot_root
        no_pivot: bool = on(),
        /// security label for the processes instead of theirs
        lsm_profile: Option<String> = takes("TYPE:NAME"),
        /// selinux context for the mounts instead of theirs
        lsm_mount_context: Option<String> = takes("CONTEXT"),
    }
}

pub(crate) fn run(options: &RestoreOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    warn("restore", &options.images, log);
    if options.no_pivot {
        return Err(Fault::new("--no-pivot is not possible with restore: criu enters the root by pivot_root"));
    }
    let id = ContainerId::parse(&options.id)?;
    let bundle = Bundle::load(&options.bundle)?;
    bundle.warnings.iter().for_each(|warning| log.warn(warning));
    let terminal = bundle.spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
    console::check(terminal, options.detach, options.console_socket.as_deref())?;
    let signals = if options.detach { None } else { Some(foreground::Signals::block()?) };
    if !options.detach && !options.no_subreaper {
        wharf_sys::process::set_child_subreaper(true)?;
    }
    let rootfs = if bundle.spec.root().is_some() { bundle.rootfs()? } else { bundle.path.clone() };
    let state = store.reserve(&id)?;
    let (images, work) = (options.images.images()?, options.images.work()?);
    let mut request = RestoreRequest::new(id, &bundle.path, &bundle.spec, Rootfs::Path(rootfs), state.path(), &images);
    if terminal {
        request.stdio = Stdio::Terminal { size: None, plain_line_feeds: !options.detach };
    }
    request.work = work.as_deref();
    request.options = options.images.options();
    request.lsm_profile = options.lsm_profile.as_deref().filter(|label| !label.is_empty());
    request.lsm_mount_context = options.lsm_mount_context.as_deref().filter(|context| !context.is_empty());
    request.ignore_cgroup_refusals = store.ignore_cgroup_refusals;
    request.cgroup_driver = store.cgroup_driver;
    request.trace = log.trace();
    let told = Announcement {
        pidfd_socket: None,
        console_socket: options.console_socket.as_deref(),
        pid_file: options.pid_file.as_deref(),
    };
    let mut container = announced(Container::restore(request)?, &state, &told)?;
    log.debug(&format!("restored container {} with init {}", container.id(), container.pid()));
    let Some(signals) = signals else {
        state.keep();
        return Ok(0);
    };
    let terminal = container.terminal.take();
    let result = foreground::attend(container.pidfd(), terminal, &signals);
    destroy(container)?;
    result
}
