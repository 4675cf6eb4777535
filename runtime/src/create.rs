//! `create`: from a checked plan to a container that waits for its start.
//!
//! Whatever was made before a failure is taken back by guards: the child is killed and reaped, the control
//! group removed. Nothing of the caller changes: no working directory, mask, namespace or signal.

mod conversation;
mod request;

pub(crate) use conversation::ended;
pub use request::{CreateRequest, Stdio};

use crate::bind_source;
use crate::container::{Container, Parts};
use crate::error::{Error, While};
use crate::handshake::{Channel, Message};
use crate::hooks;
use crate::identity::Filter;
use crate::idmap;
use crate::init::{ChildStdio, Gate, Init, run_stage};
use crate::intel_rdt::{RdtGroup, RdtGuard};
use crate::joins;
use crate::label;
use crate::net_device::MovedDevices;
use crate::placement::{Placement, Wanted};
use crate::plan::Plan;
use crate::rootfs::Rootfs;
use crate::rootfs::cgroupfs::CgroupView;
use crate::rootfs::host_mount::HostMountGuard;
use crate::rootfs::mapped_overlay;
use crate::rootfs::root::PreparedRoot;
use crate::seccomp::FilterSource;
use crate::state::{HookState, START_SOCKET, Status, process_status};
use crate::{capabilities, state};
use conversation::Conversation;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wharf_specs::id::ContainerId;
use wharf_specs::oci::LinuxNamespaceType as Kind;
pub use wharf_specs::shim::CgroupDriver;
use wharf_sys::clone::{Child, CloneOptions, spawn};
use wharf_sys::pidfd;
use wharf_sys::process::CStringArray;
use wharf_sys::{credential, errno, limit, socket};

const SIGKILL: i32 = 9;
/// What a caller needs for ids, mounts and groups of its own making: CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// Kills and reaps a child unless it is released.
pub(crate) struct ChildGuard {
    child: Option<Child>,
}

impl ChildGuard {
    pub(crate) fn new(child: Child) -> Self {
        Self { child: Some(child) }
    }

    pub(crate) fn child(&self) -> &Child {
        self.child.as_ref().expect("the child is there until it is released")
    }

    pub(crate) fn release(mut self) -> Child {
        self.child.take().expect("the child is there until it is released")
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            let _ = pidfd::send_signal(child.pidfd.as_fd(), SIGKILL);
            let _ = pidfd::wait(child.pidfd.as_fd());
        }
    }
}

/// Removes the start socket unless it is kept.
struct SocketGuard(Option<PathBuf>);

impl Drop for SocketGuard {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Container {
    /// Creates a container (runtime-spec, runtime.md#lifecycle, steps 1 to 5): afterwards all of its
    /// environment exists and its init waits for [`Container::start`].
    ///
    /// The caller must be single-threaded, as the child runs on a copy of its memory.
    ///
    /// # Errors
    /// A refusal of the configuration, before anything was made; or the step that failed, after everything was
    /// taken back.
    pub fn create(request: CreateRequest<'_>) -> Result<Self, Error> {
        let plan = Plan::compile(request.spec, request.bundle)?;
        if let Some((field, problem)) = label::unsupported(&plan.process) {
            return Err(Error::Refused(crate::plan::Refusal { field: format!("process.{field}"), problem }));
        }
        let privileged = is_privileged()?;
        let profile = request.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let filter = match profile.map(FilterSource::compile).transpose()? {
            Some(source) => Some(Filter { program: source.program(request.seccomp_cache)?, flags: source.flags }),
            None => None,
        };
        let joins = joins::open_all(&plan)?;
        // Before the child in this function, so that it is given up after it.
        let wanted = Wanted {
            id: &request.id,
            spec: request.spec,
            driver: request.cgroup_driver,
            ignore_refusals: request.ignore_cgroup_refusals,
        };
        let mut place = Placement::prepare(&wanted, &plan, privileged)?;

        let minimum = 3 + request.preserve_fds.len() as i32;
        let (ours, theirs) = Channel::pair(minimum).during("make handshake channel", "")?;
        let (gate, socket_guard) = make_gate(request.state_dir)?;
        let id_maps = idmap::Mapper::new(&plan.namespaces, privileged);
        let stage = Stage::of(&plan, &joins);
        let hook_lists = (
            hooks::prepare("createContainer", plan.hooks.create_container().as_ref()),
            hooks::prepare("startContainer", plan.hooks.start_container().as_ref()),
        );
        let terminal_size = match &request.stdio {
            Stdio::Terminal { size, .. } => *size,
            _ => None,
        };
        let mounted_on = match &request.rootfs {
            Rootfs::Path(path) => path.as_path(),
            Rootfs::Overlay { .. } => request.bundle,
        };
        let host_mount = (!plan.namespaces.separate(Kind::Mount)).then_some(mounted_on);
        let host_mount = host_mount.map(HostMountGuard::new).transpose().during("find rootfs of", &request.id)?;
        let mut init = Init {
            root: prepare_root(&request, &plan, privileged)?,
            sources: bind_source::prepare(&plan, mounted_on, privileged)?,
            cgroup: CgroupView::new(place.seen(), plan.namespaces.separate(Kind::Cgroup))
                .during("prepare the view of cgroups", "")?,
            stdio: match request.stdio {
                Stdio::Inherit => ChildStdio::Inherit,
                Stdio::Fds { stdin, stdout, stderr } => ChildStdio::Descriptors([stdin, stdout, stderr]),
                Stdio::Terminal { plain_line_feeds, .. } => ChildStdio::Terminal { plain_line_feeds },
            },
            plan: &plan,
            channel: theirs,
            joins: Vec::new(),
            gate,
            preserve: request.preserve_fds,
            filter,
            create_container: hook_lists.0,
            start_container: hook_lists.1,
            args: CStringArray::new(plan.process.args.clone()),
            keyring: request.new_keyring.then(|| keyring_name(&request.id)),
            no_pivot: request.no_pivot,
            last_capability: capabilities::last(),
            setgroups_allowed: id_maps.setgroups_allowed(),
            keep_namespaces: !privileged && plan.namespaces.separate(Kind::User),
            trace: request.trace.is_on(),
        };
        let unified = place.target()?;
        // The child has a copy of this end too. Were it to keep that, it would never hear that the runtime has gone.
        let ours = Cell::new(Some(ours));
        let options =
            |namespaces| CloneOptions { namespaces, cgroup: unified.as_ref().map(AsFd::as_fd), sibling: false };
        let child = match &stage {
            Stage::None { clone } => {
                init.joins = joins;
                spawn(options(*clone), || {
                    drop(ours.take());
                    init.run()
                })
            }
            Stage::Needed { clone } => {
                let unshare = plan.namespaces.makes(Kind::User);
                spawn(options(0), || {
                    drop(ours.take());
                    run_stage(&init, unshare, *clone, &joins)
                })
            }
        }
        .during("clone the container's init", "")?;
        let mut guard = ChildGuard::new(child);
        let ours = ours.into_inner().expect("only the child takes it");
        let Init { channel, stdio, preserve, gate, sources, .. } = init;
        drop((channel, stdio, preserve, gate, sources, unified));

        let annotations: BTreeMap<String, String> =
            request.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        place.admit(guard.child().pid, request.id.as_str(), request.spec, &plan)?;
        limit::reset_affinity(guard.child().pid);
        if let Some(score) = plan.process.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", guard.child().pid);
            let path = Path::new(&path);
            match std::fs::write(path, score.to_string()) {
                // Without privilege the value may only rise; what is inherited then stays.
                Err(error) if !privileged && error.raw_os_error() == Some(errno::EACCES) => {}
                result => result.during("set oom_score_adj to", score)?,
            }
        }
        let hook_state = |pid, status| {
            let state = HookState {
                oci_version: state::OCI_VERSION,
                id: request.id.as_str(),
                status,
                pid,
                bundle: request.bundle,
                annotations: &annotations,
            };
            state.file()
        };
        let move_devices = |pid| -> Result<Option<MovedDevices<'_>>, Error> {
            if plan.net_devices.is_empty() {
                return Ok(None);
            }
            let namespace = match plan.namespaces.joined(Kind::Network) {
                Some(join) => join.path.clone(),
                None => PathBuf::from(format!("/proc/{pid}/ns/net")),
            };
            let namespace = File::open(&namespace).during("open namespace", namespace.display())?;
            MovedDevices::new(&plan.net_devices, namespace.into()).map(Some)
        };
        let proceed = |pid| -> Result<(), Error> {
            let mut files = Vec::new();
            if plan.has_container_hooks() {
                files = vec![hook_state(pid, Status::Creating)?, hook_state(pid, Status::Created)?];
            }
            let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            ours.send(&Message::Proceed, &descriptors).during("talk to the container's init", "")
        };
        let mut conversation = Conversation {
            cgroup: place.cgroup.clone(),
            warnings: plan.warnings.iter().cloned().chain(place.warning(&plan)).collect(),
            terminal: None,
            trace: request.trace.clone(),
        };
        match stage {
            Stage::None { .. } => {
                if plan.namespaces.makes(Kind::User) {
                    id_maps.write(guard.child().pid)?;
                }
            }
            Stage::Needed { .. } => {
                ours.send(&Message::Proceed, &[]).during("talk to the container's init", "")?;
                loop {
                    match conversation.next(&ours, &guard)? {
                        (Message::MapIds, _) => {
                            id_maps.write(guard.child().pid)?;
                            ours.send(&Message::Proceed, &[]).during("talk to the container's init", "")?;
                        }
                        (Message::Init(pid), descriptors) => {
                            let Some(pidfd) = descriptors.into_iter().next() else { continue };
                            let stage = std::mem::replace(&mut guard, ChildGuard::new(Child { pid, pidfd })).release();
                            let _ = pidfd::wait(stage.pidfd.as_fd());
                            break;
                        }
                        _ => {}
                    }
                }
            }
        }
        let devices = move_devices(guard.child().pid)?;
        let rdt = plan.intel_rdt.as_ref().map(|rdt| RdtGroup::create(rdt, &request.id, guard.child().pid));
        let rdt = RdtGuard::new(rdt.transpose()?);
        place.list_devices(&plan)?;
        proceed(guard.child().pid)?;
        place.limit(&plan)?;
        loop {
            match conversation.next(&ours, &guard)? {
                (Message::HooksDue, _) => {
                    let state = hook_state(guard.child().pid, Status::Creating)?;
                    #[allow(deprecated, reason = "prestart hooks are deprecated, but callers still use them")]
                    let prestart = hooks::prepare("prestart", plan.hooks.prestart().as_ref());
                    if !prestart.is_empty() {
                        // To these the container was "created" already when the standard (1.0) brought them up.
                        let created = hook_state(guard.child().pid, Status::Created)?;
                        hooks::run_all(&prestart, created.as_fd(), None)?;
                    }
                    let create_runtime = hooks::prepare("createRuntime", plan.hooks.create_runtime().as_ref());
                    hooks::run_all(&create_runtime, state.as_fd(), None)?;
                    ours.send(&Message::Proceed, &[]).during("talk to the container's init", "")?;
                }
                (Message::SourceWanted(index), _) => {
                    let mount = plan.mounts.get(index).ok_or_else(|| ended(guard.child(), "created"))?;
                    let source = bind_source::open_late(mount, &plan, guard.child().pidfd.as_fd())?;
                    ours.send(&Message::Proceed, &[source.as_fd()]).during("talk to the container's init", "")?;
                }
                (Message::Created, _) => break,
                _ => {}
            }
        }
        let terminal = conversation.terminal;
        if let (Some(terminal), Some(size)) = (&terminal, terminal_size) {
            wharf_sys::terminal::set_size(terminal.as_fd(), size).during("set terminal size", "")?;
        }
        let host_mount =
            host_mount.map(HostMountGuard::keep).transpose().during("find the mounted rootfs of", &request.id)?;
        let child = guard.release();
        if let Some(devices) = devices {
            devices.keep();
        }
        let (cgroup, scope) = place.keep();
        std::mem::forget(socket_guard);
        let start_time = process_status(child.pid).map_or(0, |(_, start)| start);
        let stdio = crate::checkpoint::stdio_of(child.pid);
        let (channel, unsaved) = if request.state_dir.is_none() { (Some(ours), None) } else { (None, Some(ours)) };
        Ok(Self::from_parts(Parts {
            id: request.id,
            child,
            channel,
            unsaved,
            terminal,
            cgroup,
            scope,
            bundle: request.bundle.to_path_buf(),
            rootfs: request.rootfs.shown().to_path_buf(),
            annotations,
            start_time,
            hooks: plan.hooks.clone(),
            seccomp: profile.cloned().map(Arc::new),
            own_pid_namespace: plan.namespaces.makes(Kind::Pid),
            personality: plan.process.personality,
            memory_policy: plan.process.memory_policy.clone(),
            state_dir: request.state_dir.map(Path::to_path_buf),
            stdio,
            warnings: conversation.warnings,
            trace: request.trace,
            host_mount,
            rdt: rdt.keep(),
        }))
    }
}

/// An overlay for a container with a user namespace is mounted here: its layers need their ids mapped, which takes
/// privileges over their file systems.
fn prepare_root(request: &CreateRequest<'_>, plan: &Plan, privileged: bool) -> Result<PreparedRoot, Error> {
    let separate = |kind| plan.namespaces.separate(kind);
    if privileged && separate(Kind::User) && separate(Kind::Mount) {
        let users = bind_source::container_users(plan)?;
        if let Some(root) = mapped_overlay::mount(&request.rootfs, users.as_fd(), request.bundle)? {
            return Ok(PreparedRoot::Mounted(root));
        }
    }
    PreparedRoot::new(&request.rootfs, request.bundle).during("prepare rootfs", "")
}

/// Whether the init is cloned by an intermediate process.
enum Stage {
    /// The init is cloned at once, into these namespaces.
    None { clone: i32 },
    /// The namespaces of the init must belong to a user namespace that is joined, or that is made after others were
    /// joined; or there are time offsets to be set before anyone enters; or a pid namespace is joined, which counts
    /// for children only.
    Needed { clone: i32 },
}

impl Stage {
    fn of(plan: &Plan, joins: &[(Kind, OwnedFd)]) -> Self {
        let later = Kind::Cgroup as i32 | Kind::Time as i32;
        let new = plan.namespaces.new & !later;
        let joined = |kind| joins.iter().any(|(joined, _)| *joined == kind);
        let user_after_joins = plan.namespaces.makes(Kind::User) && !joins.is_empty();
        if user_after_joins || joined(Kind::User) || joined(Kind::Pid) || plan.namespaces.makes(Kind::Time) {
            Stage::Needed { clone: new & !(Kind::User as i32) }
        } else {
            Stage::None { clone: new }
        }
    }
}

fn make_gate(state_dir: Option<&Path>) -> Result<(Gate, SocketGuard), Error> {
    let Some(directory) = state_dir else { return Ok((Gate::Channel, SocketGuard(None))) };
    // Through the descriptor: the path of a socket is limited to 107 bytes, the state directory is not.
    let open = File::open(directory).during("open", directory.display())?;
    let short = crate::container::socket_path(&open);
    let listener = socket::listen(socket::Kind::SeqPacket, &short, 1).during("listen in", directory.display())?;
    Ok((Gate::Listener(listener), SocketGuard(Some(directory.join(START_SOCKET)))))
}

/// Whether the caller may do what takes root and CAP_SYS_ADMIN.
pub(crate) fn is_privileged() -> Result<bool, Error> {
    let held = credential::capabilities().during("read capabilities", "")?;
    Ok(credential::effective_user() == 0 && held.effective & SYS_ADMIN != 0)
}

fn keyring_name(id: &ContainerId) -> std::ffi::CString {
    std::ffi::CString::new(format!("_ses.{id}")).unwrap_or_default()
}
