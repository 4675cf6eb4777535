//! A container that exists.
//!
//! ```text
//!            create           start                 init ends
//!   (none) ──────────▶ Created ─────▶ Running ──────────────────▶ Stopped
//!                         │           ▲     │                        ▲
//!                         │     resume│     │pause                   │
//!                         │           │     ▼                        │
//!                         │◀─────────▶Paused ────────────────────────┤
//!                         └──────────────────────────────────────────┘
//!                                     kill
//!   delete: only from Stopped, or by force from all
//! ```

use crate::cgroup::{Cgroup, Scope};
use crate::error::{Error, While};
use crate::handshake::{Channel, Message};
use crate::hooks;
use crate::intel_rdt::RdtGroup;
use crate::rootfs::host_mount;
use crate::state::{self, HookState, START_SOCKET, State, Status, process_status};
use crate::time;
use crate::trace::Trace;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wharf_specs::id::ContainerId;
use wharf_specs::oci::{Hooks, LinuxResources, LinuxSeccomp};
use wharf_sys::clone::Child;
use wharf_sys::{credential, errno, pidfd, socket};

/// A container and what the runtime holds of it.
#[derive(Debug)]
pub struct Container {
    parts: Parts,
    created: String,
    owner: u32,
    /// Other side of the container's terminal, if it has one and was created by this process.
    pub terminal: Option<OwnedFd>,
}

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) id: ContainerId,
    pub(crate) child: Child,
    /// Open until the start, where this process created the container for itself.
    pub(crate) channel: Option<Channel>,
    /// Open until the state is saved: an init that nobody could find ends with the process that made it.
    pub(crate) unsaved: Option<Channel>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) cgroup: Cgroup,
    /// The unit, if systemd looks after the group.
    pub(crate) scope: Option<Scope>,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) start_time: u64,
    pub(crate) hooks: Hooks,
    pub(crate) seccomp: Option<Arc<LinuxSeccomp>>,
    pub(crate) own_pid_namespace: bool,
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<(i32, Vec<usize>)>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) stdio: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) trace: Trace,
    /// Where the root is mounted on the host and the number of that mount, for a container without a mount namespace.
    pub(crate) host_mount: Option<(PathBuf, u64)>,
    pub(crate) rdt: Option<RdtGroup>,
}

impl Container {
    pub(crate) fn from_parts(mut parts: Parts) -> Self {
        let terminal = parts.terminal.take();
        Self { parts, created: time::now(), owner: credential::effective_user(), terminal }
    }

    /// Finds a container again that was created with a state directory.
    ///
    /// # Errors
    /// If there is no readable state. That the container has ended is none.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let state = State::load(directory)?;
        let id = ContainerId::parse(&state.id)
            .map_err(|error| Error::State { path: directory.to_path_buf(), problem: error.to_string() })?;
        let pidfd = match pidfd::open(state.pid) {
            // Checked after opening: from here on the descriptor cannot mean another process.
            Ok(pidfd) if process_status(state.pid).is_some_and(|(_, start)| start == state.start_time) => Some(pidfd),
            Ok(_) => None,
            Err(error) if error.raw_os_error() == Some(errno::ESRCH) => None,
            Err(error) => return Err(error).during("open process", state.pid),
        };
        let pidfd = match pidfd {
            Some(pidfd) => pidfd,
            // The process has gone: any descriptor that is no pidfd makes signals fail as they must.
            None => OwnedFd::from(File::open("/dev/null").during("open", "/dev/null")?),
        };
        let (created, owner) = (state.created, state.owner);
        let parts = Parts {
            id,
            child: Child { pid: state.pid, pidfd },
            channel: None,
            unsaved: None,
            terminal: None,
            cgroup: Cgroup::from_paths(state.cgroup_paths),
            scope: state.systemd_scope,
            bundle: state.bundle,
            rootfs: state.rootfs,
            annotations: state.annotations,
            start_time: state.start_time,
            hooks: state.hooks,
            seccomp: state.seccomp,
            own_pid_namespace: state.own_pid_namespace,
            personality: state.personality,
            memory_policy: state.memory_policy,
            state_dir: Some(directory.to_path_buf()),
            stdio: state.stdio,
            warnings: Vec::new(),
            trace: Trace::default(),
            host_mount: state.host_mount,
            rdt: state.rdt,
        };
        Ok(Self { parts, created, owner, terminal: None })
    }

    /// Writes the state that [`Container::load`] reads. From then on the container does not end with this process.
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        self.state().save(directory)?;
        if let Some(init) = &self.parts.unsaved {
            // That it has ended meanwhile is for its status to say.
            let _ = init.send(&Message::Proceed, &[]);
        }
        Ok(())
    }

    /// What there is to know about the container.
    pub fn state(&self) -> State {
        let parts = &self.parts;
        State {
            oci_version: state::OCI_VERSION.into(),
            id: parts.id.to_string(),
            pid: parts.child.pid,
            start_time: parts.start_time,
            bundle: parts.bundle.clone(),
            rootfs: parts.rootfs.clone(),
            created: self.created.clone(),
            owner: self.owner,
            annotations: parts.annotations.clone(),
            cgroup_paths: parts.cgroup.paths(),
            systemd_scope: parts.scope.clone(),
            hooks: parts.hooks.clone(),
            seccomp: parts.seccomp.clone(),
            own_pid_namespace: parts.own_pid_namespace,
            personality: parts.personality,
            memory_policy: parts.memory_policy.clone(),
            stdio: parts.stdio.clone(),
            host_mount: parts.host_mount.clone(),
            rdt: parts.rdt.clone(),
        }
    }

    pub fn id(&self) -> &ContainerId {
        &self.parts.id
    }

    /// Process id of the init in the caller's pid namespace.
    pub fn pid(&self) -> i32 {
        self.parts.child.pid
    }

    /// The init. Readable once it has ended; the caller that created the container reaps it.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.parts.child.pidfd.as_fd()
    }

    /// The control group.
    pub fn cgroup(&self) -> &Cgroup {
        &self.parts.cgroup
    }

    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.parts.scope.as_ref()
    }

    /// Changes limits, devices excepted.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        match &self.parts.scope {
            Some(scope) => Ok(scope.update(&self.parts.cgroup, resources)?),
            None => Ok(self.parts.cgroup.update(resources)?),
        }
    }

    /// Changes the cache and memory bandwidth schemata of the container's class (`linux.intelRdt`).
    ///
    /// # Errors
    /// Lines of another form, a container without a class, or what resctrl refuses.
    pub fn update_rdt(&self, l3: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
        let lines = crate::intel_rdt::lines_of_update(l3, bandwidth).map_err(Error::Unsupported)?;
        match &self.parts.rdt {
            _ if lines.is_empty() => Ok(()),
            Some(group) => group.update(&lines),
            None => Err(Error::Unsupported(format!(
                "container {} has no class of service; one is made where config.json has linux.intelRdt",
                self.parts.id
            ))),
        }
    }

    /// What was left out on the way, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.parts.warnings
    }

    /// Gives a process what all of the container have.
    pub(crate) fn complete(&self, process: &mut crate::plan::Process) {
        process.personality = self.parts.personality;
        process.memory_policy = self.parts.memory_policy.clone();
    }

    pub(crate) fn seccomp(&self) -> Option<&LinuxSeccomp> {
        self.parts.seccomp.as_deref()
    }

    /// The status, from what the kernel says.
    pub fn status(&self) -> Status {
        let state = self.state();
        match (&self.parts.state_dir, &self.parts.channel) {
            (_, Some(_)) if state.init_alive() => Status::Created,
            (Some(directory), _) => state.status(directory),
            (None, _) => state.status(Path::new("/nonexistent")),
        }
    }

    /// Runs the user's program (runtime-spec, runtime.md#start). Returns once it was executed, or with the step
    /// that prevented it; then the init has ended. Poststart hooks are run.
    pub fn start(&mut self) -> Result<(), Error> {
        let (channel, socket) = match self.parts.channel.take() {
            Some(channel) => (channel, None),
            None => {
                if self.parts.cgroup.is_frozen() {
                    // It would not hear, and this wait for it.
                    return Err(Error::WrongState { operation: "start", status: self.status() });
                }
                let (channel, path) = self.connect_gate("start")?;
                (channel, Some(path))
            }
        };
        let unheard = |error: &io::Error| {
            // Somebody else came to the gate at the same time and was first.
            socket.is_some() && matches!(error.raw_os_error(), Some(errno::ECONNRESET | errno::EPIPE))
        };
        match channel.send(&Message::Start, &[]) {
            Err(error) if unheard(&error) => return Err(self.not_at_the_gate("start")),
            result => result.during("start container", &self.parts.id)?,
        }
        let result = self.wait_for_exec(&channel, &unheard);
        if let Some(path) = socket {
            let _ = std::fs::remove_file(path);
        }
        result?;
        if let Some(list) = self.parts.hooks.poststart() {
            let state = self.hook_state(Status::Running)?;
            hooks::run_all(&hooks::prepare("poststart", Some(list)), state.as_fd(), None)?;
        }
        Ok(())
    }

    /// Whether the init waits at the gate, frozen or not.
    pub(crate) fn waits_for_start(&self) -> bool {
        self.parts.state_dir.as_ref().is_some_and(|directory| directory.join(START_SOCKET).exists())
    }

    /// Reaches the init that waits, on behalf of `operation`.
    pub(crate) fn connect_gate(&self, operation: &'static str) -> Result<(Channel, PathBuf), Error> {
        let Some(directory) = &self.parts.state_dir else {
            return Err(Error::WrongState { operation, status: self.status() });
        };
        let open = File::open(directory).during("open", directory.display())?;
        match socket::connect(socket::Kind::SeqPacket, &socket_path(&open)) {
            Ok(socket) => Ok((Channel::from_socket(socket), directory.join(START_SOCKET))),
            Err(error) if matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ECONNREFUSED)) => {
                Err(self.not_at_the_gate(operation))
            }
            Err(error) => Err(error).during("connect to", directory.join(START_SOCKET).display()),
        }
    }

    /// The init has gone through the gate, whether the socket is still there or not.
    fn not_at_the_gate(&self, operation: &'static str) -> Error {
        let status = match self.status() {
            Status::Created => Status::Running,
            status => status,
        };
        Error::WrongState { operation, status }
    }

    fn wait_for_exec(&self, channel: &Channel, unheard: &dyn Fn(&io::Error) -> bool) -> Result<(), Error> {
        loop {
            let received = match channel.receive_heard_from(self.pid()) {
                Err(error) if unheard(&error) => return Err(self.not_at_the_gate("start")),
                // The init died before it heard of the start.
                Err(error) if error.raw_os_error() == Some(errno::ECONNRESET) => return Ok(()),
                received => received.during("talk to the container's init", "")?,
            };
            match received {
                Some((Message::Failed(failure), _)) => return Err(Error::Step(failure)),
                Some((Message::SeccompListener, descriptors)) => self.hand_over_listener(descriptors)?,
                Some((Message::Trace(step), _)) => self.parts.trace.say(|| step),
                Some(_) => {}
                // Exec closed the channel. If it is the init's death instead (a filter that does not even allow exec),
                // that is the container's end, and the caller learns it from the exit status.
                None => return Ok(()),
            }
        }
    }

    fn hand_over_listener(&self, descriptors: Vec<OwnedFd>) -> Result<(), Error> {
        let (Some(listener), Some(seccomp)) = (descriptors.into_iter().next(), &self.parts.seccomp) else {
            return Ok(());
        };
        crate::seccomp_listener::hand_over(listener, seccomp, &self.state(), self.status())
    }

    pub(crate) fn hook_state(&self, status: Status) -> Result<File, Error> {
        let parts = &self.parts;
        let state = HookState {
            oci_version: state::OCI_VERSION,
            id: parts.id.as_str(),
            status,
            pid: if status == Status::Stopped { 0 } else { parts.child.pid },
            bundle: &parts.bundle,
            annotations: &parts.annotations,
        };
        state.file()
    }

    /// Sends a signal to the init.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        match pidfd::send_signal(self.pidfd(), signal) {
            Err(error) if matches!(error.raw_os_error(), Some(errno::ESRCH | errno::EBADF)) => {
                Err(Error::WrongState { operation: "kill", status: Status::Stopped })
            }
            result => result.during("send signal to", self.pid()),
        }
    }

    /// Kills what is left, removes the control group and runs the poststop hooks. The init need not be reaped yet.
    ///
    /// # Errors
    /// The first failure; the other steps are done all the same.
    pub fn delete(self) -> Result<(), Error> {
        let killed = self.parts.cgroup.kill_all().during("kill the processes of", &self.parts.id);
        // The rest of a pid namespace is killed by the kernel with its init; the groups are empty after that.
        // A unit is stopped before: its own end would be a failure to systemd, which would keep it.
        let there = self.parts.cgroup.path().is_some_and(Path::exists);
        let stopped = self.parts.scope.as_ref().map_or(Ok(()), Scope::stop);
        let removed = self.parts.cgroup.remove();
        let unmounted = match &self.parts.host_mount {
            Some((path, id)) => host_mount::detach(path, *id).during("unmount", path.display()),
            None => Ok(()),
        };
        let rdt = self.parts.rdt.as_ref().map_or(Ok(()), RdtGroup::remove);
        let mut hook_result = Ok(());
        if let Some(list) = self.parts.hooks.poststop() {
            let state = self.hook_state(Status::Stopped)?;
            for hook in hooks::prepare("poststop", Some(list)) {
                // All of them, whatever one says (runtime-spec, runtime.md#lifecycle, step 13).
                let result = hooks::run_all(std::slice::from_ref(&hook), state.as_fd(), None);
                hook_result = hook_result.and(result);
            }
        }
        // Of a group that has gone, a manager that has gone too (its user has left) is no hindrance.
        if there {
            stopped?;
        }
        removed?;
        killed?;
        unmounted?;
        rdt.during("remove from resctrl", &self.parts.id)?;
        hook_result.map_err(Error::Step)
    }
}

/// The start socket's path through an open state directory, short whatever the directory's own is.
pub(crate) fn socket_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{START_SOCKET}", directory.as_raw_fd()))
}
