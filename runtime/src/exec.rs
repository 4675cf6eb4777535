//! `exec`: one more process in a container that runs.

use crate::capabilities;
use crate::cgroup::{Cgroup, SubGroup};
use crate::container::Container;
use crate::create::{ChildGuard, Stdio, ended};
use crate::error::{Error, While};
use crate::handshake::{At, Channel, Failure, Message, Step};
use crate::identity::{self, Filter};
use crate::init::ChildStdio;
use crate::init_namespaces::Namespaces;
use crate::label;
use crate::plan;
use crate::rootfs::mounts;
use crate::seccomp::FilterSource;
use crate::state::Status;
use crate::terminal;
use crate::trace::Trace;
use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use wharf_specs::oci::{LinuxNamespaceType as Kind, Process};
use wharf_sys::clone::{CloneOptions, spawn};
use wharf_sys::process::CStringArray;
use wharf_sys::{credential, errno, limit, pidfd, process};

/// What [`Container::exec`] runs.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    pub process: &'a Process,
    pub stdio: Stdio,
    /// Handed to the process from descriptor 3 on, in order.
    pub preserve_fds: Vec<OwnedFd>,
    /// Directory in which compiled seccomp filters are kept.
    pub seccomp_cache: Option<&'a Path>,
    /// Run in these groups below the container's own.
    pub sub_cgroups: Vec<SubGroup>,
    /// Also in a paused container, where the process then waits.
    pub ignore_paused: bool,
    /// Told the steps as they are reached.
    pub trace: Trace,
}

impl<'a> ExecRequest<'a> {
    /// A request with the usual choices.
    pub fn new(process: &'a Process, stdio: Stdio) -> Self {
        Self {
            process,
            stdio,
            preserve_fds: Vec::new(),
            seccomp_cache: None,
            sub_cgroups: Vec::new(),
            ignore_paused: false,
            trace: Trace::default(),
        }
    }
}

/// A process started by [`Container::exec`]. The caller reaps it.
#[derive(Debug)]
pub struct ExecProcess {
    /// Process id in the caller's pid namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Other side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// What was left out on the way, one line each.
    pub warnings: Vec<String>,
}

struct Execution<'a> {
    plan: &'a plan::Process,
    channel: Channel,
    target: &'a OwnedFd,
    namespaces: Namespaces,
    stdio: ChildStdio,
    preserve: Vec<OwnedFd>,
    filter: Option<Filter>,
    args: CStringArray,
    last_capability: u8,
    setgroups_allowed: bool,
    in_user_namespace: bool,
    trace: bool,
    /// Root of the container, if it shares the mount namespace of the runtime.
    root: Option<OwnedFd>,
}

impl Container {
    /// Runs another process in the container's namespaces and control group. Returns once it was executed.
    ///
    /// # Errors
    /// If the container is not running, or the step that failed.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<ExecProcess, Error> {
        match self.status() {
            Status::Running | Status::Created => {}
            Status::Paused if request.ignore_paused => {}
            Status::Paused => return Err(Error::Unsupported("cannot exec in a paused container".into())),
            status => return Err(Error::WrongState { operation: "exec in", status }),
        }
        let mut warnings = Vec::new();
        let mut plan = plan::Process::compile(request.process, "process", &mut warnings)?;
        self.complete(&mut plan);
        if let Some((field, problem)) = label::unsupported(&plan) {
            return Err(Error::Refused(plan::Refusal { field: format!("process.{field}"), problem }));
        }
        let filter = match self.seccomp() {
            Some(profile) => {
                let source = FilterSource::compile(profile)?;
                Some(Filter { program: source.program(request.seccomp_cache)?, flags: source.flags })
            }
            None => None,
        };
        // Opened anew: the init's own descriptor may be of a process that has gone.
        let target = pidfd::open(self.pid()).during("open process", self.pid())?;
        let namespaces = Namespaces::of(self)?;
        // Looked at after opening: from here on the descriptor cannot mean another process that has got the number.
        if !self.state().init_alive() || pidfd::poll_exit(target.as_fd(), 0).unwrap_or(true) {
            return Err(Error::WrongState { operation: "exec in", status: Status::Stopped });
        }
        // Without a mount namespace to join, the root of the container's init is what makes its file system.
        let root = if namespaces.contain(Kind::Mount) { None } else { other_root(self.pid())? };
        let minimum = 3 + request.preserve_fds.len() as i32;
        let (ours, theirs) = Channel::pair(minimum).during("make handshake channel", "")?;
        let terminal_size = match &request.stdio {
            Stdio::Terminal { size, .. } => *size,
            _ => None,
        };
        let execution = Execution {
            args: CStringArray::new(plan.args.clone()),
            plan: &plan,
            channel: theirs,
            target: &target,
            stdio: match request.stdio {
                Stdio::Inherit => ChildStdio::Inherit,
                Stdio::Fds { stdin, stdout, stderr } => ChildStdio::Descriptors([stdin, stdout, stderr]),
                Stdio::Terminal { plain_line_feeds, .. } => ChildStdio::Terminal { plain_line_feeds },
            },
            preserve: request.preserve_fds,
            filter,
            last_capability: capabilities::last(),
            setgroups_allowed: fs::read_to_string(format!("/proc/{}/setgroups", self.pid()))
                .is_ok_and(|t| t.trim() == "allow"),
            in_user_namespace: namespaces.contain(Kind::User),
            namespaces,
            trace: request.trace.is_on(),
            root,
        };
        let stages = execution.namespaces.contain(Kind::Pid);
        // As in `create`: whoever holds this end cannot hear that the runtime has gone.
        let ours = Cell::new(Some(ours));
        let body = || {
            drop(ours.take());
            if stages { execution.run_stage() } else { execution.run() }
        };
        // To move a process into a group makes the kernel wait for all processors, for milliseconds; one that begins
        // there need not be moved. Its first affinity may be one that the group does not allow.
        let cgroup = self.cgroup().below(&request.sub_cgroups)?;
        let group = match &plan.affinity_initial {
            None => cgroup.open_unified().ok().flatten(),
            Some(_) => None,
        };
        let options = CloneOptions { cgroup: group.as_ref().map(AsFd::as_fd), ..CloneOptions::default() };
        let (child, unified) = match spawn(options, body) {
            // Why it cannot begin there is for the one who moves it to find out.
            Err(_) if group.is_some() => (spawn(CloneOptions::default(), body), true),
            child => (child, group.is_none()),
        };
        let child = child.during("clone a process", "")?;
        drop(group);
        let mut guard = ChildGuard::new(child);
        let ours = ours.into_inner().expect("only the child takes it");
        let Execution { channel, stdio, preserve, namespaces, .. } = execution;
        drop((channel, stdio, preserve, namespaces));
        if let Some(cpus) = &plan.affinity_initial {
            limit::set_affinity(guard.child().pid, cpus)
                .during("set cpu affinity", "process.execCPUAffinity.initial")?;
            request.trace.say(|| format!("nsexec[{}]: affinity: {}", guard.child().pid, mask_of(cpus)));
        }
        self.join_cgroup(&cgroup, guard.child().pid, &request.sub_cgroups, unified)?;
        if plan.affinity_initial.is_none() {
            limit::reset_affinity(guard.child().pid);
        }
        if let Some(cpus) = &plan.affinity_final {
            limit::set_affinity(guard.child().pid, cpus).during("set cpu affinity", "process.execCPUAffinity.final")?;
        }
        if let Some(score) = plan.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", guard.child().pid);
            fs::write(path, score.to_string()).during("set oom_score_adj to", score)?;
        }
        ours.send(&Message::Proceed, &[]).during("talk to the process", "")?;
        let mut terminal = None;
        loop {
            match ours.receive_from(guard.child().pid).during("talk to the process", "")? {
                Some((Message::Failed(failure), _)) => return Err(Error::Step(failure)),
                Some((Message::Terminal, descriptors)) => terminal = descriptors.into_iter().next(),
                Some((Message::Init(pid), descriptors)) => {
                    let Some(pidfd) = descriptors.into_iter().next() else { continue };
                    let child = wharf_sys::clone::Child { pid, pidfd };
                    let stage = std::mem::replace(&mut guard, ChildGuard::new(child)).release();
                    let _ = pidfd::wait(stage.pidfd.as_fd());
                    ours.send(&Message::Proceed, &[]).during("talk to the process", "")?;
                }
                Some((Message::Start, _)) => break,
                Some((Message::Trace(step), _)) => request.trace.say(|| step),
                Some(_) => {}
                None => return Err(ended(guard.child(), "started")),
            }
        }
        if let (Some(terminal), Some(size)) = (&terminal, terminal_size) {
            wharf_sys::terminal::set_size(terminal.as_fd(), size).during("set terminal size", "")?;
        }
        loop {
            match ours.receive_from(guard.child().pid).during("talk to the process", "")? {
                Some((Message::Failed(failure), _)) => return Err(Error::Step(failure)),
                Some((Message::SeccompListener, descriptors)) => {
                    if let (Some(listener), Some(seccomp)) = (descriptors.into_iter().next(), self.seccomp()) {
                        crate::seccomp_listener::hand_over(listener, seccomp, &self.state(), Status::Running)?;
                    }
                }
                Some((Message::Trace(step), _)) => request.trace.say(|| step),
                Some(_) => {}
                None => break,
            }
        }
        let child = guard.release();
        Ok(ExecProcess { pid: child.pid, pidfd: child.pidfd, terminal, warnings })
    }

    /// `cgroup` is the container's own, or what `below` names in it; `unified`: also into that of cgroup v2, where the
    /// process has not begun.
    fn join_cgroup(&self, cgroup: &Cgroup, pid: i32, below: &[SubGroup], unified: bool) -> Result<(), Error> {
        match cgroup.add(pid, unified) {
            // The container has moved its own processes further down (systemd in a container), or elsewhere, and the
            // group has gone: join its init there.
            Err(crate::cgroup::Error::Join { source, .. })
                if below.is_empty()
                    && matches!(
                        source.raw_os_error(),
                        Some(errno::EBUSY | errno::EOPNOTSUPP | errno::ENOENT | errno::ENODEV)
                    ) =>
            {
                Ok(cgroup.of_process(self.pid())?.add(pid, true)?)
            }
            // A user may not move processes out of a login session; systemd may.
            Err(crate::cgroup::Error::Join { source, .. })
                if matches!(source.raw_os_error(), Some(errno::EACCES | errno::EPERM)) && self.scope().is_some() =>
            {
                self.scope().map_or(Ok(()), |scope| Ok(scope.attach(pid, below)?))
            }
            result => Ok(result?),
        }
    }
}

/// The root of a process, if it is not that of the caller.
fn other_root(pid: i32) -> Result<Option<OwnedFd>, Error> {
    let open = |owner: &str| -> std::io::Result<(OwnedFd, (u64, u64, u64))> {
        use wharf_sys::fs;
        let path = fs::c_path(Path::new(&format!("/proc/{owner}/root")))?;
        let root = fs::open_at(None, &path, fs::O_PATH | fs::O_DIRECTORY, 0, 0)?;
        let status = fs::status(root.as_fd())?;
        let id = (status.device, status.inode, fs::mount_id(root.as_fd())?);
        Ok((root, id))
    };
    let (_, own) = open("self").during("open own root", "")?;
    let (root, theirs) = open(&pid.to_string()).during("open the root of", pid)?;
    Ok((theirs != own).then_some(root))
}

/// A list of CPUs as one number in hexadecimal, the first CPU as its lowest bit.
fn mask_of(cpus: &[usize]) -> String {
    let highest = cpus.iter().max().copied().unwrap_or(0);
    let digit = |index: usize| (0..4).filter(|bit| cpus.contains(&(index * 4 + bit))).map(|bit| 1 << bit).sum();
    let digits = (0..=highest / 4).rev().map(digit);
    format!("0x{}", digits.filter_map(|digit: u32| char::from_digit(digit, 16)).collect::<String>())
}

impl Execution<'_> {
    /// Joins the namespaces and clones the process itself, as a pid namespace counts for children only.
    fn run_stage(&self) -> i32 {
        let work = || -> Result<(), Failure> {
            process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
            self.wait_proceed()?;
            self.join()?;
            let child = spawn(CloneOptions { sibling: true, ..CloneOptions::default() }, || self.run_joined())
                .at(Step::Clone, "")?;
            self.channel.send(&Message::Init(child.pid), &[child.pidfd.as_fd()]).at(Step::Handshake, "")
        };
        self.report(work())
    }

    fn run(&self) -> i32 {
        let work = || -> Result<(), Failure> {
            process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
            self.wait_proceed()?;
            self.join()?;
            self.become_program()
        };
        self.report(work())
    }

    fn run_joined(&self) -> i32 {
        let work = || -> Result<(), Failure> {
            self.wait_proceed()?;
            self.become_program()
        };
        self.report(work())
    }

    fn report(&self, result: Result<(), Failure>) -> i32 {
        match result {
            Ok(()) => 0,
            Err(failure) => {
                let _ = self.channel.send(&Message::Failed(failure), &[]);
                1
            }
        }
    }

    fn wait_proceed(&self) -> Result<(), Failure> {
        match self.channel.receive().at(Step::Handshake, "")? {
            Some((Message::Proceed, _)) => Ok(()),
            _ => process::exit_now(1),
        }
    }

    fn join(&self) -> Result<(), Failure> {
        self.tell("nsexec container setup")?;
        process::set_dumpable(false).at(Step::Handshake, "")?;
        label::set_exec_label(self.plan)?;
        self.namespaces.join(self.target).at(Step::JoinNamespace, "of the container")?;
        if let Some(root) = &self.root {
            mounts::enter_by_chroot(root.as_fd()).at(Step::ChangeRoot, "that of the container")?;
        }
        if self.in_user_namespace {
            credential::set_group(0).at(Step::User, "group 0 of the user namespace")?;
            credential::set_user(0).at(Step::User, "0 of the user namespace")?;
            process::set_dumpable(false).at(Step::Handshake, "")?;
        }
        Ok(())
    }

    fn tell(&self, step: &str) -> Result<(), Failure> {
        if !self.trace {
            return Ok(());
        }
        self.channel.send(&Message::Trace(step.into()), &[]).at(Step::Handshake, "")
    }

    /// Close-on-exec is not enough: until then the working directory, the program and whatever a link in the container
    /// leads to can be a path through a descriptor, such as `/proc/self/fd/7/bin/sh` (CVE-2024-21626).
    fn close_what_the_program_must_not_reach(&self) -> Result<(), Failure> {
        let mut kept = vec![self.channel.as_fd()];
        kept.extend(self.preserve.iter().map(AsFd::as_fd));
        if let ChildStdio::Descriptors(stdio) = &self.stdio {
            kept.extend(stdio.iter().map(AsFd::as_fd));
        }
        process::close_all_but(&kept).at(Step::Stdio, "to be closed")
    }

    fn become_program(&self) -> Result<(), Failure> {
        self.tell("child process in init()")?;
        identity::reset_signals();
        self.close_what_the_program_must_not_reach()?;
        process::new_session().at(Step::Session, "")?;
        match &self.stdio {
            ChildStdio::Inherit => {}
            ChildStdio::Descriptors([stdin, stdout, stderr]) => {
                identity::place_stdio([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
            }
            ChildStdio::Terminal { plain_line_feeds } => {
                let root = wharf_sys::fs::open_at(None, c"/", wharf_sys::fs::O_PATH, 0, 0).at(Step::Terminal, "")?;
                let pty = terminal::open(root.as_fd(), self.plan.console_size, *plain_line_feeds)?;
                terminal::take(pty.peer.as_fd())?;
                self.channel.send(&Message::Terminal, &[pty.master.as_fd()]).at(Step::Handshake, "")?;
            }
        }
        identity::assume(self.plan, self.last_capability, self.setgroups_allowed)?;
        process::set_dumpable(false).at(Step::Handshake, "")?;
        let environment = identity::environment(self.plan);
        let program: CString = identity::find_program(self.plan)?;
        self.channel.send(&Message::Start, &[]).at(Step::Handshake, "")?;
        let announce = |listener: OwnedFd| self.channel.send(&Message::SeccompListener, &[listener.as_fd()]);
        identity::confine(self.plan, self.filter.as_ref(), announce, || Ok(()))?;
        identity::place_descriptors(&self.preserve)?;
        self.tell("setns_init: about to exec")?;
        let error = process::exec(&program, &self.args, &environment);
        let object = program.to_string_lossy().into_owned();
        Err(Failure { step: Step::Exec, errno: errno::number(&error), object })
    }
}
