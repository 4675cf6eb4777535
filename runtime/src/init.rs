//! The child: walks the plan in the kernel's order and becomes the user's program.
//!
//! It runs on a copy of the runtime's memory after `clone3`. Everything it needs was made ready before; it
//! parses nothing and reports each failure as a typed message (see [`crate::handshake`]).
//!
//! The process is made non-dumpable before it joins anything of the container: nobody in there can open its
//! `/proc` entries, and with them the runtime's binary and descriptors, until the user's program runs.

use crate::bind_source::BindSource;
use crate::handshake::{At, Channel, Failure, Message, Step};
use crate::hooks::{self, Hook};
use crate::identity::{self, Filter};
use crate::init_namespaces;
use crate::plan::{Plan, namespace_name};
use crate::rootfs::cgroupfs::CgroupView;
use crate::rootfs::root::PreparedRoot;
use crate::rootfs::{device, finish, mounts};
use crate::terminal;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::event::{self, EPOLLIN, Epoll, SignalFd, SignalSet};
use wharf_sys::mount::{self, Attributes, MS_SHARED};
use wharf_sys::process::CStringArray;
use wharf_sys::{clone, credential, errno, fs, namespace, process, socket};

/// Signals that end a container that waits for its start: HUP, INT, QUIT, TERM. The first process of a pid namespace
/// is not ended by any signal it has not asked for, but SIGKILL.
const ENDING: [i32; 4] = [1, 2, 3, 15];

/// Who comes to the gate.
const STARTER: u64 = 0;
const SIGNAL: u64 = 1;
const CREATOR: u64 = 2;

/// Where the standard descriptors of the container come from.
#[derive(Debug)]
pub(crate) enum ChildStdio {
    Inherit,
    Descriptors([OwnedFd; 3]),
    Terminal { plain_line_feeds: bool },
}

/// What the child waits for once the container is created.
#[derive(Debug)]
pub(crate) enum Gate {
    /// The runtime that created it, on the handshake channel.
    Channel,
    /// Whoever connects to the socket in the state directory.
    Listener(OwnedFd),
}

/// Everything the child uses, prepared before the clone.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) channel: Channel,
    pub(crate) root: PreparedRoot,
    /// Namespaces to join, in order.
    pub(crate) joins: Vec<(Kind, OwnedFd)>,
    /// Where bind sources come from, by index of the mount.
    pub(crate) sources: Vec<BindSource>,
    pub(crate) cgroup: CgroupView,
    pub(crate) stdio: ChildStdio,
    pub(crate) gate: Gate,
    pub(crate) preserve: Vec<OwnedFd>,
    pub(crate) filter: Option<Filter>,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<Hook>,
    pub(crate) args: CStringArray,
    pub(crate) keyring: Option<CString>,
    pub(crate) no_pivot: bool,
    pub(crate) last_capability: u8,
    pub(crate) setgroups_allowed: bool,
    /// Keep the namespaces at hand while waiting for the start, for a runtime that cannot reach them otherwise.
    pub(crate) keep_namespaces: bool,
    /// Tell the runtime which steps are reached.
    pub(crate) trace: bool,
}

impl Init<'_> {
    /// The body of the cloned process; returns only to exit.
    pub(crate) fn run(&self) -> i32 {
        let Err(failure) = self.become_program();
        let _ = self.channel.send(&Message::Failed(failure), &[]);
        1
    }

    fn become_program(&self) -> Result<std::convert::Infallible, Failure> {
        identity::reset_signals();
        process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
        // The maps are written and the cgroups joined once this arrives.
        let states = self.proceed()?;
        // Before anything is joined that others are in, and again once joining has set it back to the system's default.
        process::set_dumpable(false).at(Step::Handshake, "")?;
        self.tell(&self.channel, "nsexec container setup")?;
        self.enter_namespaces()?;
        self.tell(&self.channel, "child process in init()")?;
        process::set_dumpable(false).at(Step::Handshake, "")?;
        process::new_session().at(Step::Session, "")?;
        if let Some(name) = &self.keyring {
            match process::join_session_keyring(name) {
                // A kernel without keyrings, or a quota used up: nothing to protect then.
                Err(error) if matches!(error.raw_os_error(), Some(errno::ENOSYS | errno::EDQUOT | errno::EACCES)) => {}
                other => other.map(drop).at(Step::Keyring, "")?,
            }
        }
        // While the host's /proc is there.
        let namespaces = if self.keep_namespaces { init_namespaces::open_own()? } else { Vec::new() };
        let root = self.build_root(states.first())?;
        self.enter_root(&root)?;
        drop(root);
        // Nothing of the caller's and of the host stays open: close-on-exec is not enough, as until then the working
        // directory and the program can be a path through a descriptor (CVE-2024-21626).
        self.close_all_but_what_the_start_needs(states.iter().chain(&namespaces))?;
        let plan = self.plan;
        if plan.makes_devices() {
            identity::use_own_null();
        }
        identity::assume(&plan.process, self.last_capability, self.setgroups_allowed)?;
        // From 0 to another user the flag was reset to the system's default, which may be "dumpable".
        process::set_dumpable(false).at(Step::Handshake, "")?;
        let environment = identity::environment(&plan.process);
        let program = identity::find_program(&plan.process)?;
        self.channel.send(&Message::Created, &[]).at(Step::Handshake, "")?;

        let connection = self.wait_for_start(&namespaces)?;
        drop(namespaces);
        let report = connection.as_ref().unwrap_or(&self.channel);
        let finish = || -> Result<std::convert::Infallible, Failure> {
            let announce = |listener: OwnedFd| report.send(&Message::SeccompListener, &[listener.as_fd()]);
            identity::confine(&plan.process, self.filter.as_ref(), announce, || match states.get(1) {
                Some(state) => {
                    let confined = || identity::confine_hook(&plan.process, self.filter.as_ref());
                    hooks::run_all_confined(&self.start_container, state.as_fd(), Some(&environment), &confined)
                }
                None => Ok(()),
            })?;
            // The report must survive the layout of descriptors, which may take its number.
            let above = 3 + self.preserve.len() as i32;
            let kept = process::duplicate_above(report.as_fd(), above).at(Step::Stdio, "")?;
            identity::place_descriptors(&self.preserve)?;
            self.tell(report, "init: closing the pipe to signal completion")?;
            let error = process::exec(&program, &self.args, &environment);
            let failure = Failure {
                step: Step::Exec,
                errno: errno::number(&error),
                object: program.to_string_lossy().into_owned(),
            };
            let _ = Channel::from_socket(kept).send(&Message::Failed(failure), &[]);
            process::exit_now(1)
        };
        let Err(failure) = finish();
        let _ = report.send(&Message::Failed(failure), &[]);
        process::exit_now(1)
    }

    fn tell(&self, to: &Channel, step: &str) -> Result<(), Failure> {
        if !self.trace {
            return Ok(());
        }
        to.send(&Message::Trace(step.into()), &[]).at(Step::Handshake, "")
    }

    /// Waits for the runtime; descriptors that come along are the hooks' state, as it is now and once created.
    fn proceed(&self) -> Result<Vec<OwnedFd>, Failure> {
        match self.channel.receive().at(Step::Handshake, "")? {
            Some((Message::Proceed, descriptors)) => Ok(descriptors),
            // The runtime has gone, and with it the reason to exist.
            _ => process::exit_now(1),
        }
    }

    fn enter_namespaces(&self) -> Result<(), Failure> {
        for (kind, fd) in &self.joins {
            let named = || format!("{} by path", namespace_name(*kind));
            namespace::join(fd.as_fd(), *kind as i32).at(Step::JoinNamespace, named())?;
        }
        let plan = self.plan;
        if plan.namespaces.separate(Kind::User) {
            // The ids of the container's root, until the process's own are set.
            credential::set_group(0).at(Step::User, "group 0 of the user namespace")?;
            credential::set_user(0).at(Step::User, "0 of the user namespace")?;
        }
        if plan.namespaces.makes(Kind::Cgroup) {
            // Not with the clone: the root of the namespace is the group the process is in, and the v1 groups were
            // joined after it.
            namespace::unshare(clone::CLONE_NEWCGROUP).at(Step::Unshare, "cgroup")?;
        }
        if plan.namespaces.makes(Kind::Network) {
            namespace::loopback_up().at(Step::Loopback, "")?;
        }
        Ok(())
    }

    /// Builds the root file system and runs the hooks that see it before it is entered.
    fn build_root(&self, state: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
        let plan = self.plan;
        let root = if plan.namespaces.separate(Kind::Mount) {
            self.root.mount(plan.root_propagation)?
        } else {
            self.root.mount_on_host()?
        };
        let mask = process::set_umask(0);
        let sources = mounts::Sources {
            prepared: &self.sources,
            wanted: &|index| self.fetch_source(index),
            locked: plan.namespaces.separate(Kind::User),
        };
        mounts::mount_all(root.as_fd(), &plan.mounts, &sources, &self.cgroup)?;
        process::set_umask(mask);
        if plan.makes_devices() {
            device::make_all(root.as_fd(), &plan.devices, plan.namespaces.separate(Kind::User))?;
            device::make_links(root.as_fd())?;
        }
        self.lay_out_stdio(root.as_fd())?;
        if plan.has_runtime_hooks() {
            self.channel.send(&Message::HooksDue, &[]).at(Step::Handshake, "")?;
            self.proceed()?;
        }
        if let Some(state) = state {
            // Callers' hooks name files of the container from where they are.
            process::change_directory(root.as_fd()).at(Step::Rootfs, "as working directory")?;
            hooks::run_all(&self.create_container, state.as_fd(), None)?;
        }
        Ok(root)
    }

    fn fetch_source(&self, index: usize) -> Result<OwnedFd, Failure> {
        self.channel.send(&Message::SourceWanted(index), &[]).at(Step::Handshake, "")?;
        // If the runtime could not open it, it has gone, and this process with it.
        self.proceed()?.into_iter().next().ok_or_else(|| process::exit_now(1))
    }

    fn lay_out_stdio(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        match &self.stdio {
            ChildStdio::Inherit => Ok(()),
            ChildStdio::Descriptors([stdin, stdout, stderr]) => {
                identity::place_stdio([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
            }
            ChildStdio::Terminal { plain_line_feeds } => {
                let pty = terminal::open(root, self.plan.process.console_size, *plain_line_feeds)?;
                terminal::bind_console(root, pty.peer.as_fd())?;
                terminal::take(pty.peer.as_fd())?;
                self.channel.send(&Message::Terminal, &[pty.master.as_fd()]).at(Step::Handshake, "")
            }
        }
    }

    fn enter_root(&self, root: &OwnedFd) -> Result<(), Failure> {
        let plan = self.plan;
        finish::write_sysctls(&plan.sysctls)?;
        if let Some(name) = &plan.hostname {
            namespace::set_hostname(name.as_bytes()).at(Step::Hostname, name)?;
        }
        if let Some(name) = &plan.domainname {
            namespace::set_domainname(name.as_bytes()).at(Step::Domainname, name)?;
        }
        crate::label::set_exec_label(&plan.process)?;
        let null = if plan.masked_paths.is_empty() { None } else { Some(finish::open_null()?) };
        let shared = plan.root_propagation.is_some_and(|(flag, _)| flag == MS_SHARED);
        if plan.namespaces.separate(Kind::Mount) {
            mounts::enter(root.as_fd(), self.root.path(), self.no_pivot, shared)?;
        } else {
            mounts::enter_by_chroot(root.as_fd()).at(Step::ChangeRoot, self.root.path().to_string_lossy())?;
        }
        if let Some((propagation, recursive)) = plan.root_propagation {
            let attributes = Attributes { propagation, ..Attributes::default() };
            mount::set_attributes(root.as_fd(), attributes, recursive).at(Step::Propagation, "the new root")?;
        }
        finish::make_readonly(root.as_fd(), &plan.readonly_paths)?;
        if let Some(null) = null {
            finish::mask(root.as_fd(), &plan.masked_paths, null)?;
        }
        finish::close_dev(root.as_fd(), &plan.mounts)?;
        if plan.readonly_root {
            let readonly = Attributes { set: mount::MOUNT_ATTR_RDONLY, ..Attributes::default() };
            mount::set_attributes(root.as_fd(), readonly, false).at(Step::ReadonlyPath, "the root")?;
        }
        Ok(())
    }

    fn close_all_but_what_the_start_needs<'a>(
        &'a self,
        held: impl Iterator<Item = &'a OwnedFd>,
    ) -> Result<(), Failure> {
        let mut kept: Vec<BorrowedFd<'_>> = vec![self.channel.as_fd()];
        if let Gate::Listener(listener) = &self.gate {
            kept.push(listener.as_fd());
        }
        kept.extend(self.preserve.iter().chain(held).map(AsFd::as_fd));
        process::close_all_but(&kept).at(Step::Stdio, "to be closed")
    }

    /// Waits at the gate. Returns the connection to report on, if it is not the handshake channel.
    fn wait_for_start(&self, namespaces: &[OwnedFd]) -> Result<Option<Channel>, Failure> {
        let Gate::Listener(listener) = &self.gate else {
            return match self.channel.receive().at(Step::Gate, "")? {
                Some((Message::Start, _)) => Ok(None),
                _ => process::exit_now(1),
            };
        };
        let signals = SignalSet::of(&ENDING);
        event::set_signal_mask(&signals).at(Step::Gate, "")?;
        let ending = SignalFd::new(&signals).at(Step::Gate, "")?;
        let epoll = Epoll::new().at(Step::Gate, "")?;
        epoll.add(listener.as_fd(), STARTER, EPOLLIN).at(Step::Gate, "")?;
        epoll.add(ending.as_fd(), SIGNAL, EPOLLIN).at(Step::Gate, "")?;
        epoll.add(self.channel.as_fd(), CREATOR, EPOLLIN).at(Step::Gate, "")?;
        let mut ready = Vec::new();
        loop {
            epoll.wait(&mut ready, -1).at(Step::Gate, "")?;
            if let Ok(Some(signal)) = ending.read() {
                process::exit_now(128 + signal.number);
            }
            let is_ready = |token| ready.iter().any(|event| event.token == token);
            if is_ready(CREATOR) {
                match self.channel.receive() {
                    // The state is saved: others know of this container and can start or delete it.
                    Ok(Some((Message::Proceed, _))) => epoll.remove(self.channel.as_fd()).at(Step::Gate, "")?,
                    _ => process::exit_now(1),
                }
            }
            if !is_ready(STARTER) {
                continue;
            }
            let connection = Channel::from_socket(socket::accept(listener.as_fd()).at(Step::Gate, "")?);
            // Someone who connects and leaves has only looked.
            match connection.receive() {
                Ok(Some((Message::Start, _))) => {
                    event::set_signal_mask(&SignalSet::empty()).at(Step::Gate, "")?;
                    return Ok(Some(connection));
                }
                Ok(Some((Message::Namespaces, _))) => {
                    let namespaces: Vec<_> = namespaces.iter().map(AsFd::as_fd).collect();
                    // Whoever has gone meanwhile needs no answer.
                    let _ = connection.send(&Message::Namespaces, &namespaces);
                }
                _ => {}
            }
        }
    }
}

/// The intermediate process, for what only a process inside the user namespace can do: it joins or makes that
/// namespace and clones the init as its own sibling, so that the pid namespace and all others belong to it.
pub(crate) fn run_stage(init: &Init<'_>, unshare_user: bool, init_namespaces: i32, joins: &[(Kind, OwnedFd)]) -> i32 {
    let work = || -> Result<(), Failure> {
        process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
        init.proceed()?;
        if !unshare_user {
            // Whoever is in those namespaces must not get at this process. (The maps of a new user namespace can only be
            // written while it is dumpable; nobody else sees it before its init is cloned.)
            process::set_dumpable(false).at(Step::Handshake, "")?;
        }
        join_all(joins)?;
        if unshare_user {
            namespace::unshare(clone::CLONE_NEWUSER).at(Step::Unshare, "user")?;
            init.channel.send(&Message::MapIds, &[]).at(Step::Handshake, "")?;
            init.proceed()?;
        }
        if init.plan.namespaces.separate(Kind::User) {
            credential::set_group(0).at(Step::User, "group 0 of the user namespace")?;
            credential::set_user(0).at(Step::User, "0 of the user namespace")?;
        }
        if init.plan.namespaces.makes(Kind::Time) {
            namespace::unshare(clone::CLONE_NEWTIME).at(Step::Unshare, "time")?;
            let offsets = &init.plan.namespaces.time_offsets;
            if !offsets.is_empty() {
                let write = || {
                    if init.plan.namespaces.makes(Kind::User) {
                        // Or the file would belong to the host's root. Nobody else is in this user namespace yet.
                        process::set_dumpable(true)?;
                    }
                    let file = fs::open_at(None, c"/proc/self/timens_offsets", fs::O_WRONLY, 0, 0)?;
                    fs::write_once(file.as_fd(), offsets)
                };
                let written = write();
                process::set_dumpable(false).at(Step::Handshake, "")?;
                written.at(Step::TimeOffsets, "")?;
            }
        }
        let options = clone::CloneOptions { namespaces: init_namespaces, cgroup: None, sibling: true };
        let child = clone::spawn(options, || init.run()).at(Step::Clone, "init")?;
        init.channel.send(&Message::Init(child.pid), &[child.pidfd.as_fd()]).at(Step::Handshake, "")
    };
    match work() {
        Ok(()) => 0,
        Err(failure) => {
            let _ = init.channel.send(&Message::Failed(failure), &[]);
            1
        }
    }
}

/// Joins namespaces, with the rights the caller has now where that is enough, for they are lost with the user namespace;
/// those that belong to the user namespace after it (an ordinary user's).
fn join_all(joins: &[(Kind, OwnedFd)]) -> Result<(), Failure> {
    let join = |(kind, fd): &(Kind, OwnedFd)| namespace::join(fd.as_fd(), *kind as i32);
    let named = |(kind, _): &(Kind, OwnedFd)| format!("{} by path", namespace_name(*kind));
    let (users, others): (Vec<_>, Vec<_>) = joins.iter().partition(|(kind, _)| *kind == Kind::User);
    let mut later = Vec::new();
    for other in others {
        match join(other) {
            Err(error) if errno::number(&error) == errno::EPERM && !users.is_empty() => later.push(other),
            result => result.at(Step::JoinNamespace, named(other))?,
        }
    }
    for one in users.into_iter().chain(later) {
        join(one).at(Step::JoinNamespace, named(one))?;
    }
    Ok(())
}
