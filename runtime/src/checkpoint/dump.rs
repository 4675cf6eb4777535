//! Checkpoint: the processes of a container are written into image files.

use super::criu::{Criu, Session, Start, Version};
use super::options::{self, Directories, Options, PageServer};
use super::{DUMP_LOG, Error, external, log};
use crate::container::Container;
use crate::error::While;
use crate::plan::Plan;
use crate::state::Status;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Instant;
use wharf_specs::criu::{self, Features, Request, RequestType};
use wharf_specs::oci::Spec;
use wharf_sys::clone::CloneOptions;

/// What the standard descriptors of the container were: the file beside criu's images that a restore reads.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// What is done when everything is written and nothing of the container moves yet. Its error undoes the checkpoint.
pub struct AtRest<'a>(pub &'a mut dyn FnMut() -> io::Result<()>);

impl fmt::Debug for AtRest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtRest")
    }
}

/// What [`Container::checkpoint`] is to do.
#[derive(Debug)]
pub struct CheckpointRequest<'a> {
    /// The configuration the container was created with.
    pub spec: &'a Spec,
    /// Directory of the images; made if it is missing.
    pub images: &'a Path,
    /// Directory of the log; that of the images if there is none. Made if it is missing.
    pub work: Option<&'a Path>,
    /// Directory of earlier images, relative to the images': only memory that has changed since is written.
    pub parent: Option<&'a Path>,
    pub options: Options,
    pub leave_running: bool,
    /// Only write memory, for a later checkpoint with this one as parent; the container runs on.
    pub pre_dump: bool,
    /// Leave out connections that are not established yet.
    pub tcp_skip_in_flight: bool,
    /// Files that were unlinked are given a name again, for the time being.
    pub link_remap: bool,
    /// With lazy pages, where this side serves them.
    pub page_server: Option<PageServer>,
    /// A zero byte is written to it when lazy pages are served.
    pub status_fd: Option<OwnedFd>,
    /// Not with `pre_dump`.
    pub at_rest: Option<AtRest<'a>>,
    /// A criu that is not done by then is killed; the container runs on.
    pub deadline: Option<Instant>,
}

impl<'a> CheckpointRequest<'a> {
    /// A request with the usual choices: the container ends.
    pub fn new(spec: &'a Spec, images: &'a Path) -> Self {
        Self {
            spec,
            images,
            work: None,
            parent: None,
            options: Options::default(),
            leave_running: false,
            pre_dump: false,
            tcp_skip_in_flight: false,
            link_remap: false,
            page_server: None,
            status_fd: None,
            at_rest: None,
            deadline: None,
        }
    }

    fn operation(&self) -> &'static str {
        if self.pre_dump { "pre-dump" } else { "dump" }
    }

    /// The parent must be there, and at a place that is still right when the images are moved together.
    fn check_parent(&self) -> Result<(), crate::Error> {
        let Some(parent) = self.parent else { return Ok(()) };
        let refuse = |problem: &str| Error::Images { path: parent.into(), problem: format!("--parent-path {problem}") };
        if parent.is_absolute() {
            return Err(refuse("must be relative to the image path").into());
        }
        match fs::metadata(self.images.join(parent)) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(refuse("is not a directory").into()),
            Err(error) => Err(refuse(&format!("in the image path: {}", crate::error::cause(&error))).into()),
        }
    }
}

impl Container {
    /// Writes the container's processes into files, from which [`Container::restore`] makes them again. Unless they
    /// are left running, they are gone afterwards, and the container is to be deleted.
    ///
    /// # Errors
    /// If the container does not run, if criu is missing, too old or refuses; the container then runs on.
    pub fn checkpoint(&self, mut request: CheckpointRequest<'_>) -> Result<(), crate::Error> {
        match self.status() {
            Status::Running => {}
            Status::Paused if !self.waits_for_start() => {}
            status => return Err(crate::Error::WrongState { operation: "checkpoint", status }),
        }
        let plan = Plan::compile(request.spec, &self.state().bundle)?;
        external::refuse_shared_mounts(&plan)?;
        let criu = Criu::find()?;
        options::make(request.images)?;
        request.check_parent()?;
        if request.pre_dump {
            let wanted = Features { mem_track: Some(true), lazy_pages: None };
            criu.need_feature("--pre-dump", "memory tracking", wanted)?;
        }
        if request.options.lazy_pages {
            let wanted = Features { mem_track: None, lazy_pages: Some(true) };
            criu.need_feature("--lazy-pages", "userfaultfd", wanted)?;
        }
        let directories = Directories::open(request.images, request.work)?;
        let options = self.dump_options(&request, &plan, &criu, &directories)?;
        if !request.pre_dump {
            let path = request.images.join(DESCRIPTORS);
            let json = serde_json::to_vec(&self.state().stdio).unwrap_or_default();
            fs::write(&path, json).during("write", path.display())?;
        }
        let log = request.work.unwrap_or(request.images).join(DUMP_LOG);
        // An earlier one would explain nothing.
        let _ = fs::remove_file(&log);
        let start = Start {
            options: CloneOptions::default(),
            stdio: super::criu::ChildIo::Null,
            handed: Vec::new(),
            prepare: &|| Ok(Vec::new()),
        };
        let was_frozen = self.cgroup().is_frozen();
        let session = criu.start(request.operation(), start)?;
        let kind = if request.pre_dump { RequestType::PreDump } else { RequestType::Dump };
        session.send(&Request { kind: kind.into(), options: Some(options), ..Request::default() })?;
        // An older criu opens the status descriptor anew, and has done so by its first word.
        let done = converse(&session, &mut request, kind, criu.version < Version::STATUS_READY, &log);
        if let Err(crate::Error::Checkpoint(Error::Late { .. })) = &done {
            // The end of criu lets go of the processes, not of the group that it has frozen.
            drop(session);
            if !was_frozen {
                self.cgroup().freeze(false)?;
            }
            return done;
        }
        done?;
        // After a pre-dump criu waits for the next one.
        if request.pre_dump { Ok(()) } else { session.finish() }
    }

    fn dump_options(
        &self,
        request: &CheckpointRequest<'_>,
        plan: &Plan,
        criu: &Criu,
        directories: &Directories,
    ) -> Result<criu::Options, crate::Error> {
        let annotations = request.spec.annotations().as_ref();
        let config = options::config_file(|name| annotations.and_then(|map| map.get(name)));
        let mut options = request.options.request(directories, DUMP_LOG, config);
        options.pid = Some(self.pid());
        options.root = Some(options::text(&self.state().rootfs)?);
        options.leave_running = Some(request.leave_running);
        options.tcp_skip_in_flight = Some(request.tcp_skip_in_flight);
        options.link_remap = Some(request.link_remap);
        if let Some(parent) = request.parent {
            options.parent_img = Some(options::text(parent)?);
            options.track_mem = Some(true);
        }
        options.network_lock = criu.network_lock(&plan.namespaces)?.map(Into::into);
        options.page_server = request
            .page_server
            .as_ref()
            .map(|server| criu::PageServer { address: Some(server.address.clone()), port: Some(server.port.into()) });
        options.freeze_cgroup = match (self.cgroup().v1("freezer"), self.cgroup().unified_path()) {
            (Some(path), _) => Some(options::text(path)?),
            (None, Some(path)) if criu.version >= Version::V2_FREEZER => Some(options::text(path)?),
            // criu stops one process after the other.
            _ => None,
        };
        if criu.version < Version::STATUS_READY {
            options.status_fd = request.status_fd.as_ref().map(AsRawFd::as_raw_fd);
        }
        options.external = external::dump_namespaces(plan, criu, self.pid())?;
        if !request.pre_dump {
            let path = format!("/proc/{}/root", self.pid());
            let root = File::open(&path).during("open", &path)?;
            options.external.extend(external::dump_mounts(plan, self.cgroup(), root.as_fd())?);
        }
        Ok(options)
    }
}

/// Answers criu until it is done. What `at_rest` refuses is refused to criu, which then undoes what it has done.
fn converse(
    session: &Session,
    request: &mut CheckpointRequest<'_>,
    kind: RequestType,
    close_status: bool,
    log: &Path,
) -> Result<(), crate::Error> {
    let mut refused = None;
    loop {
        if let Some(deadline) = request.deadline {
            session.wait_until(deadline)?;
        }
        let received = session.receive();
        if close_status {
            request.status_fd = None;
        }
        let failed = match received {
            Ok((answer, _)) if answer.success => Ok(answer),
            Ok((answer, _)) => Err(session.failure(&answer, None)),
            Err(error) => Err(error),
        };
        let answer = match failed {
            Ok(answer) => answer,
            Err(error) => return Err(refused.unwrap_or_else(|| log::explain(error, log).into())),
        };
        if answer.kind == i32::from(kind) {
            return refused.map_or(Ok(()), Err);
        }
        let Some(notify) = &answer.notify else {
            let problem = format!("an answer of kind {} was not expected", answer.kind);
            return Err(Error::Protocol { operation: request.operation(), problem }.into());
        };
        if notify.script.as_deref() == Some("status-ready")
            && let Some(status) = request.status_fd.take()
        {
            wharf_sys::fs::write_once(status.as_fd(), &[0]).during("write to", "--status-fd")?;
        }
        // The last word before the processes run on or end.
        if notify.script.as_deref() == Some("post-dump")
            && let Some(AtRest(work)) = &mut request.at_rest
        {
            refused = work().during("complete", "the checkpoint").err();
            session.acknowledge(refused.is_none())?;
            continue;
        }
        session.acknowledge(true)?;
    }
}
