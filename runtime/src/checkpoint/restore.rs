//! Restore: a container is made from the image files of a checkpoint.

use super::criu::{ChildIo, Criu, Session, Start, Version};
use super::dump::DESCRIPTORS;
use super::external::{self, Namespaces};
use super::options::{self, Directories, Options};
use super::{Error, RESTORE_LOG, log, stage};
use crate::container::{Container, Parts};
use crate::create::{CgroupDriver, Stdio, is_privileged};
use crate::error::While;
use crate::hooks;
use crate::intel_rdt::{RdtGroup, RdtGuard};
use crate::placement::{Placement, Wanted};
use crate::plan::Plan;
use crate::rootfs::Rootfs;
use crate::rootfs::root::PreparedRoot;
use crate::state::{self, HookState, Status, process_status};
use crate::trace::Trace;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wharf_specs::criu::{self, CgroupRoot, Notify, Request, RequestType, Response};
use wharf_specs::id::ContainerId;
use wharf_specs::oci::{LinuxNamespaceType as Kind, Spec};
use wharf_sys::clone::{self, Child, CloneOptions, spawn};
use wharf_sys::fs::{O_DIRECTORY, O_PATH};
use wharf_sys::mount::{self, Attributes};
use wharf_sys::{errno, namespace, pidfd, terminal};

/// Directory in the state directory on which criu finds the root; on the host it stays empty.
const ROOT: &str = "criu-root";

/// Everything [`Container::restore`] needs.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    pub id: ContainerId,
    /// Absolute directory of the bundle.
    pub bundle: &'a Path,
    /// The configuration the container had at its checkpoint; sources of mounts, groups and namespaces may differ.
    pub spec: &'a Spec,
    pub rootfs: Rootfs,
    /// Standard descriptors that were pipes are replaced by these; a terminal comes from the images.
    pub stdio: Stdio,
    /// Directory of the container's state.
    pub state_dir: &'a Path,
    /// Directory of the images.
    pub images: &'a Path,
    /// Directory of the log; that of the images if there is none. Made if it is missing.
    pub work: Option<&'a Path>,
    pub options: Options,
    /// Another security label for the processes, `TYPE:NAME`.
    pub lsm_profile: Option<&'a str>,
    /// Another SELinux context for the mounts.
    pub lsm_mount_context: Option<&'a str>,
    /// Do without the control groups the caller may not make; none: only if the caller is not privileged.
    pub ignore_cgroup_refusals: Option<bool>,
    pub cgroup_driver: CgroupDriver,
    /// A criu that is not done by then is killed, with what it has restored.
    pub deadline: Option<Instant>,
    /// Told the steps as they are reached.
    pub trace: Trace,
}

impl<'a> RestoreRequest<'a> {
    /// A request with the usual choices: inherited stdio.
    pub fn new(
        id: ContainerId,
        bundle: &'a Path,
        spec: &'a Spec,
        rootfs: Rootfs,
        state_dir: &'a Path,
        images: &'a Path,
    ) -> Self {
        Self {
            id,
            bundle,
            spec,
            rootfs,
            stdio: Stdio::Inherit,
            state_dir,
            images,
            work: None,
            options: Options::default(),
            lsm_profile: None,
            lsm_mount_context: None,
            ignore_cgroup_refusals: None,
            cgroup_driver: CgroupDriver::Cgroupfs,
            deadline: None,
            trace: Trace::default(),
        }
    }
}

/// The empty directory for the root, removed again.
struct RootPlace(PathBuf);

impl Drop for RootPlace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Container {
    /// Makes a container from the images of a checkpoint; its processes run on where they were. The caller reaps its
    /// init, and is single-threaded, as for [`Container::create`].
    ///
    /// # Errors
    /// If criu is missing, too old or refuses; everything was taken back then.
    pub fn restore(request: RestoreRequest<'_>) -> Result<Self, crate::Error> {
        let plan = Plan::compile(request.spec, request.bundle)?;
        external::refuse_shared_mounts(&plan)?;
        let criu = Criu::find()?;
        request.trace.say(|| format!("criu {}", criu.version));
        for (option, what) in
            [(request.lsm_profile, "--lsm-profile"), (request.lsm_mount_context, "--lsm-mount-context")]
        {
            if option.is_some() {
                criu.need(Version::LABELS, what)?;
            }
        }
        drop(Directories::open(request.images, request.work)?);
        let recorded = read_descriptors(request.images)?;
        let privileged = is_privileged()?;
        let mut namespaces = Namespaces::open(&plan, &criu)?;
        let wanted = Wanted {
            id: &request.id,
            spec: request.spec,
            driver: request.cgroup_driver,
            ignore_refusals: request.ignore_cgroup_refusals,
        };
        let mut group = Placement::prepare(&wanted, &plan, privileged)?;
        group.limit(&plan)?;

        let place = RootPlace(request.state_dir.join(ROOT));
        fs::create_dir(&place.0).during("make directory", place.0.display())?;
        let root = PreparedRoot::new(&request.rootfs, request.bundle).during("prepare rootfs", "")?;
        let root_place = wharf_sys::fs::c_path(&place.0).during("prepare rootfs", "")?;
        let directories: Vec<&Path> = std::iter::once(request.images).chain(request.work).collect();
        let prepare = || stage::prepare(&root, &root_place, &plan.mounts, &directories);
        let unified = group.target()?;
        let (stdio, terminal) = match request.stdio {
            Stdio::Inherit => (ChildIo::Inherit, None),
            Stdio::Fds { stdin, stdout, stderr } => (ChildIo::Descriptors([stdin, stdout, stderr]), None),
            Stdio::Terminal { size, plain_line_feeds } => (ChildIo::Null, Some((size, plain_line_feeds))),
        };
        // Into the group before it restores anything: what it restores stays there.
        let options =
            CloneOptions { namespaces: clone::CLONE_NEWNS, cgroup: unified.as_ref().map(AsFd::as_fd), sibling: false };
        let handed = std::mem::take(&mut namespaces.handed);
        let log = request.work.unwrap_or(request.images).join(RESTORE_LOG);
        // An earlier one would explain nothing.
        let _ = fs::remove_file(&log);
        let mut session = criu.start("restore", Start { options, stdio, handed, prepare: &prepare })?;
        let directories = Directories::from_descriptors(std::mem::take(&mut session.opened));
        let annotations: BTreeMap<String, String> =
            request.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut restore = Restore {
            session: &session,
            plan: &plan,
            id: &request.id,
            bundle: request.bundle,
            annotations: &annotations,
            wants_terminal: terminal.is_some(),
            deadline: request.deadline,
            terminal: None,
            trace: &request.trace,
        };
        // What criu restores inherits its class.
        let rdt = plan.intel_rdt.as_ref().map(|rdt| RdtGroup::create(rdt, &request.id, session.pid()));
        let rdt = RdtGuard::new(rdt.transpose()?);
        let run = |restore: &mut Restore<'_>| -> Result<Child, crate::Error> {
            group.admit(session.pid(), request.id.as_str(), request.spec, &plan)?;
            let protocol = |problem: &str| Error::Protocol { operation: "restore", problem: problem.into() };
            let directories = directories.ok_or_else(|| protocol("its directories were not opened"))?;
            let mut wire =
                request.options.request(&directories, RESTORE_LOG, options::config_file(|name| annotations.get(name)));
            wire.root = Some(options::text(&place.0)?);
            wire.rst_sibling = Some(true);
            wire.evasive_devices = Some(true);
            wire.lsm_profile = request.lsm_profile.map(Into::into);
            wire.lsm_mount_context = request.lsm_mount_context.map(Into::into);
            wire.cg_root = groups_of(session.pid())?;
            wire.external = external::restore_mounts(&plan, &group.cgroup)?;
            wire.join_ns = namespaces.joined;
            wire.inherit_fd = namespaces.inherited;
            wire.inherit_fd.extend(external::inherited_stdio(&recorded));
            let pid = restore.converse(wire, &log)?;
            let child = Child { pid, pidfd: pidfd::open(pid).during("open process", pid)? };
            if let (Some(master), Some((size, plain))) = (&restore.terminal, terminal) {
                if let Some(size) = size {
                    terminal::set_size(master.as_fd(), size).during("set terminal size", "")?;
                }
                if plain {
                    terminal::clear_output_translation(master.as_fd()).during("set up terminal", "")?;
                }
            }
            Ok(child)
        };
        let result = run(&mut restore);
        let terminal = restore.terminal.take();
        let stdio = external::stdio_of(session.pid());
        let child = match result {
            Ok(child) => child,
            Err(error) => {
                session.abandon();
                group.abandon();
                return Err(error);
            }
        };
        let guard = crate::create::ChildGuard::new(child);
        if let Err(error) = session.finish() {
            drop(guard);
            group.abandon();
            return Err(error);
        }
        let child = guard.release();
        let (cgroup, scope) = group.keep();
        let start_time = process_status(child.pid).map_or(0, |(_, start)| start);
        Ok(Self::from_parts(Parts {
            id: request.id,
            child,
            channel: None,
            terminal,
            cgroup,
            scope,
            bundle: request.bundle.to_path_buf(),
            rootfs: request.rootfs.shown().to_path_buf(),
            annotations,
            start_time,
            hooks: plan.hooks.clone(),
            seccomp: request.spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()).map(Arc::new),
            own_pid_namespace: plan.namespaces.makes(Kind::Pid),
            personality: plan.process.personality,
            memory_policy: plan.process.memory_policy.clone(),
            unsaved: None,
            state_dir: Some(request.state_dir.to_path_buf()),
            stdio,
            warnings: plan.warnings.clone(),
            trace: request.trace,
            host_mount: None,
            rdt: rdt.keep(),
        }))
    }
}

/// A restore under way.
struct Restore<'a> {
    session: &'a Session,
    plan: &'a Plan,
    id: &'a ContainerId,
    bundle: &'a Path,
    annotations: &'a BTreeMap<String, String>,
    wants_terminal: bool,
    deadline: Option<Instant>,
    terminal: Option<OwnedFd>,
    trace: &'a Trace,
}

impl Restore<'_> {
    /// Asks for the restore and does what criu notifies of. Returns the pid of the container's init.
    fn converse(&mut self, options: criu::Options, log: &Path) -> Result<i32, crate::Error> {
        let request = Request { kind: RequestType::Restore.into(), options: Some(options), ..Request::default() };
        self.session.send(&request)?;
        let mut refused = None;
        let answer = loop {
            if let Some(deadline) = self.deadline {
                self.session.wait_until(deadline)?;
            }
            let (answer, descriptors) = match self.session.receive() {
                Ok(received) => received,
                Err(error) => return Err(refused.unwrap_or_else(|| log::explain(error, log).into())),
            };
            match &answer.notify {
                Some(notify) if answer.success && answer.kind == i32::from(RequestType::Notify) => {
                    let result = self.notified(notify, descriptors);
                    // criu takes back what it has made, and says so.
                    self.session.acknowledge(result.is_ok())?;
                    refused = refused.or(result.err());
                }
                _ => break answer,
            }
        };
        match (refused, answer) {
            (Some(error), _) => Err(error),
            (None, Response { success: true, restore: Some(restored), .. }) => {
                if self.wants_terminal && self.terminal.is_none() {
                    let problem = "true, but the container had no terminal at its checkpoint";
                    return Err(crate::plan::Refusal::new("process.terminal", problem).into());
                }
                Ok(restored.pid)
            }
            (None, answer) if answer.success => {
                let problem = format!("an answer of kind {} was not expected", answer.kind);
                Err(Error::Protocol { operation: "restore", problem }.into())
            }
            (None, answer) => Err(log::explain(self.session.failure(&answer, None), log).into()),
        }
    }

    fn notified(&mut self, notify: &Notify, descriptors: Vec<OwnedFd>) -> Result<(), crate::Error> {
        self.trace.say(|| format!("criu: {}", notify.script.as_deref().unwrap_or_default()));
        match (notify.script.as_deref(), notify.pid) {
            (Some("setup-namespaces"), Some(pid)) => {
                if self.plan.namespaces.makes(Kind::Network) {
                    loopback_up(pid)?;
                }
                self.run_hooks(pid)
            }
            // Everything is there and nothing runs yet.
            (Some("post-restore"), Some(pid)) if self.plan.readonly_root => make_root_readonly(pid),
            (Some("orphan-pts-master"), _) if self.wants_terminal => {
                self.terminal = descriptors.into_iter().next();
                Ok(())
            }
            (Some("orphan-pts-master"), _) => {
                let problem = "is not true, but the container had a terminal at its checkpoint";
                Err(crate::plan::Refusal::new("process.terminal", problem).into())
            }
            _ => Ok(()),
        }
    }

    /// Those of the runtime's namespaces, as when the container was created.
    fn run_hooks(&self, pid: i32) -> Result<(), crate::Error> {
        #[allow(deprecated, reason = "prestart hooks are deprecated, but callers still use them")]
        let prestart = hooks::prepare("prestart", self.plan.hooks.prestart().as_ref());
        let create_runtime = hooks::prepare("createRuntime", self.plan.hooks.create_runtime().as_ref());
        for (hooks, status) in [(prestart, Status::Created), (create_runtime, Status::Creating)] {
            if hooks.is_empty() {
                continue;
            }
            let state = HookState {
                oci_version: state::OCI_VERSION,
                id: self.id.as_str(),
                status,
                pid,
                bundle: self.bundle,
                annotations: self.annotations,
            };
            hooks::run_all(&hooks, state.file()?.as_fd(), None)?;
        }
        Ok(())
    }
}

/// Makes the root of a process read-only: criu bound it as it found it, and it must make directories in there.
fn make_root_readonly(pid: i32) -> Result<(), crate::Error> {
    in_namespace(pid, ("mnt", clone::CLONE_NEWNS), "make the root read-only in", || {
        let root = wharf_sys::fs::open_at(None, c"/", O_PATH | O_DIRECTORY, 0, 0)?;
        let readonly = Attributes { set: mount::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        mount::set_attributes(root.as_fd(), readonly, false)
    })
}

/// Sets the loopback device up in the network namespace of a process; criu makes the namespace empty.
fn loopback_up(pid: i32) -> Result<(), crate::Error> {
    in_namespace(pid, ("net", clone::CLONE_NEWNET), "set loopback device up in", namespace::loopback_up)
}

/// Does something in a namespace of a process, by a child that enters it.
fn in_namespace(
    pid: i32,
    (name, kind): (&str, i32),
    what: &'static str,
    work: impl FnOnce() -> io::Result<()>,
) -> Result<(), crate::Error> {
    let path = format!("/proc/{pid}/ns/{name}");
    let file = File::open(&path).during("open namespace", &path)?;
    let child = spawn(CloneOptions::default(), || {
        let result = namespace::join(file.as_fd(), kind).and_then(|()| work());
        result.map_or_else(|error| errno::number(&error), |()| 0)
    })
    .during("clone", "")?;
    match pidfd::wait(child.pidfd.as_fd()).during("wait for", "a child")? {
        pidfd::Exit::Code(0) => Ok(()),
        pidfd::Exit::Code(number) => Err(errno::error(number)).during(what, &path),
        pidfd::Exit::Signal(_) => Err(errno::error(errno::EIO)).during(what, &path),
    }
}

/// What the checkpoint has written of the standard descriptors.
fn read_descriptors(images: &Path) -> Result<Vec<String>, crate::Error> {
    let path = images.join(DESCRIPTORS);
    let fail = |problem: String| Error::Images { path: path.clone(), problem };
    let text = fs::read(&path)
        .map_err(|error| fail(format!("{}; is this the image path of a checkpoint?", crate::error::cause(&error))))?;
    Ok(serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?)
}

/// The groups that a process is in, as criu wants to know them for those that it restores.
fn groups_of(pid: i32) -> Result<Vec<CgroupRoot>, crate::Error> {
    let path = format!("/proc/{pid}/cgroup");
    Ok(parse_groups(&fs::read_to_string(&path).during("read", &path)?))
}

/// One for each controller, also of those that share a hierarchy (cgroups(7)); the unified one has the empty name.
fn parse_groups(text: &str) -> Vec<CgroupRoot> {
    let mut roots = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            roots.push(CgroupRoot { controller: Some(controller.into()), path: path.into() });
        }
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller_has_its_group() {
        let roots = parse_groups("7:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/d\n");
        let roots: Vec<_> =
            roots.iter().map(|root| (root.controller.as_deref().unwrap(), root.path.as_str())).collect();
        assert_eq!(roots, [("cpu", "/a"), ("cpuacct", "/a"), ("name=systemd", "/b:c"), ("", "/d")]);
    }

    #[test]
    fn a_directory_without_images_is_called_so() {
        let directory = tempfile::tempdir().expect("temp dir");
        let error = read_descriptors(directory.path()).expect_err("nothing there").to_string();
        assert!(error.contains("descriptors.json: ENOENT") && error.contains("image path"), "{error}");
        fs::write(directory.path().join(DESCRIPTORS), "[1]").expect("write");
        assert!(read_descriptors(directory.path()).is_err());
    }
}
