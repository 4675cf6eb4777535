//! Another OCI runtime in place of the shim's own: any program with runc's command line.
//!
//! ```text
//! BUNDLE/foreign/config.json   as the container's, with the pod's namespaces in it
//!                rootfs        the overlay is mounted here, in the shim's own mount namespace: the host sees no mount
//!                log.json      what the runtime says
//! DIRECTORY/runtime            its state
//! ```
//!
//! The container's processes become children of this one, a subreaper, when the runtime that made them ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wharf_runtime::cgroup::Cgroup;
use wharf_runtime::{CgroupDriver, ExecProcess, Rootfs};
use wharf_specs::oci::{LinuxResources, Process, Spec};
use wharf_sys::mount::{self, Attributes};
use wharf_sys::{fs as sysfs, namespace, pidfd, process, socket};

/// For one command of the runtime; then it is killed.
const COMMAND_LIMIT_MS: i32 = 60_000;

/// What is asked of other runtimes is in this version of the runtime-spec; some refuse to be told of a newer one.
const CONFIG_VERSION: &str = "1.0.2";

/// Longest log of one command that is read.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// The program, and where it keeps its state.
#[derive(Debug, Clone)]
pub(crate) struct ForeignRuntime {
    program: PathBuf,
    state: PathBuf,
    driver: CgroupDriver,
}

/// One container of its making.
#[derive(Debug)]
pub(crate) struct ForeignContainer {
    runtime: ForeignRuntime,
    id: String,
    directory: PathBuf,
    pid: i32,
    pidfd: OwnedFd,
    cgroup: Cgroup,
    pub(crate) terminal: Option<OwnedFd>,
}

/// What a new process has for standard streams.
pub(crate) enum Streams {
    Descriptors([OwnedFd; 3]),
    Terminal,
}

impl ForeignRuntime {
    /// Prepares this process for containers of `program`: it will be their parent, in a mount namespace of its own.
    pub(crate) fn new(program: &Path, directory: &Path, driver: CgroupDriver) -> io::Result<Self> {
        process::set_child_subreaper(true)?;
        namespace::unshare(wharf_sys::clone::CLONE_NEWNS)?;
        // Mounts of the host still arrive, those for containers stay here.
        let host = sysfs::open_at(None, c"/", sysfs::O_PATH | sysfs::O_DIRECTORY, 0, 0)?;
        let slave = Attributes { propagation: mount::MS_SLAVE, ..Attributes::default() };
        mount::set_attributes(host.as_fd(), slave, true)?;
        Ok(Self { program: program.into(), state: directory.join("runtime"), driver })
    }

    /// `spec` has every namespace by a path that other processes can open.
    pub(crate) fn create(
        &self,
        id: &str,
        bundle: &Path,
        mut spec: Spec,
        rootfs: &Rootfs,
        streams: Streams,
    ) -> io::Result<ForeignContainer> {
        let directory = bundle.join("foreign");
        std::fs::create_dir(&directory)?;
        let made = self.create_in(id, &directory, &mut spec, rootfs, streams);
        if made.is_err() {
            let _ = self.run("delete", &directory, &["--force", id], None);
            give_back(&directory);
        }
        made
    }

    fn create_in(
        &self,
        id: &str,
        directory: &Path,
        spec: &mut Spec,
        rootfs: &Rootfs,
        streams: Streams,
    ) -> io::Result<ForeignContainer> {
        let root = directory.join("rootfs");
        if let Some(overlay) = rootfs.mount_detached().map_err(io::Error::other)? {
            std::fs::create_dir(&root)?;
            let on = sysfs::open_at(None, &sysfs::c_path(&root)?, sysfs::O_PATH | sysfs::O_DIRECTORY, 0, 0)?;
            mount::move_mount(overlay.as_fd(), on.as_fd())?;
            if let Some(mut place) = spec.root().clone() {
                place.set_path(root);
                spec.set_root(Some(place));
            }
        }
        spec.set_version(CONFIG_VERSION.into());
        std::fs::write(directory.join("config.json"), serde_json::to_vec(spec)?)?;
        let bundle = directory.display().to_string();
        let (process, terminal) = self.start_process("create", directory, &["--bundle", &bundle], id, streams)?;
        let cgroup = Cgroup::from_paths([]).of_process(process.0).map_err(io::Error::other)?;
        let (pid, pidfd) = process;
        let directory = directory.to_path_buf();
        Ok(ForeignContainer { runtime: self.clone(), id: id.into(), directory, pid, pidfd, cgroup, terminal })
    }

    /// A command that leaves a process behind, whose pid it writes to a file.
    fn start_process(
        &self,
        command: &str,
        directory: &Path,
        options: &[&str],
        id: &str,
        streams: Streams,
    ) -> io::Result<((i32, OwnedFd), Option<OwnedFd>)> {
        let pid_file = directory.join("pid");
        // A socket's path has at most 108 bytes: it is reached through a descriptor.
        let folder = sysfs::open_at(None, &sysfs::c_path(directory)?, sysfs::O_PATH | sysfs::O_DIRECTORY, 0, 0)?;
        let console = path_for_others(folder.as_fd()).join("console.sock");
        let pid_text = pid_file.display().to_string();
        let mut arguments = options.to_vec();
        arguments.extend(["--pid-file", &pid_text]);
        let console_text = console.display().to_string();
        let (listener, stdio) = match streams {
            Streams::Terminal => {
                arguments.extend(["--console-socket", &console_text]);
                let _ = std::fs::remove_file(&console);
                (Some(socket::listen(socket::Kind::Stream, &console, 1)?), None)
            }
            Streams::Descriptors(stdio) => (None, Some(stdio)),
        };
        arguments.push(id);
        let outcome = self.run(command, directory, &arguments, stdio);
        let _ = std::fs::remove_file(&console);
        outcome?;
        let text = std::fs::read_to_string(&pid_file)?;
        let _ = std::fs::remove_file(&pid_file);
        let wrong = || io::Error::other(format!("{}: {text:?} is no pid", self.program.display()));
        let pid: i32 = text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(wrong)?;
        let pidfd = pidfd::open(pid)?;
        let terminal = match listener {
            // The runtime has connected and sent before it ended.
            Some(listener) => Some(receive_terminal(listener.as_fd())?),
            None => None,
        };
        Ok(((pid, pidfd), terminal))
    }

    /// Runs a command to its end; the error is the last thing the runtime said.
    fn run(&self, command: &str, directory: &Path, arguments: &[&str], stdio: Option<[OwnedFd; 3]>) -> io::Result<()> {
        let log = directory.join("log.json");
        let _ = std::fs::remove_file(&log);
        let mut program = Command::new(&self.program);
        program.arg("--root").arg(&self.state).arg("--log").arg(&log).args(["--log-format", "json"]);
        if self.driver == CgroupDriver::Systemd {
            program.arg("--systemd-cgroup");
        }
        program.arg(command).args(arguments);
        match stdio {
            Some([stdin, stdout, stderr]) => program.stdin(stdin).stdout(stdout).stderr(stderr),
            None => program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
        };
        let shown = format!("{} {command}", self.program.display());
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{shown}: {error}"));
        let child = program.spawn().map_err(explain)?;
        // The pipes' ends in the command would keep them open.
        drop(program);
        let child = pidfd::open(child.id() as i32)?;
        if !pidfd::poll_exit(child.as_fd(), COMMAND_LIMIT_MS)? {
            let _ = pidfd::send_signal(child.as_fd(), SIGKILL);
            let _ = pidfd::wait(child.as_fd());
            return Err(io::Error::other(format!("{shown}: no end after {} s", COMMAND_LIMIT_MS / 1000)));
        }
        match pidfd::wait(child.as_fd())? {
            pidfd::Exit::Code(0) => Ok(()),
            ended => {
                let said = last_words(&log).unwrap_or_else(|| format!("{ended:?}"));
                Err(io::Error::other(format!("{shown}: {said}")))
            }
        }
    }
}

const SIGKILL: i32 = 9;

/// The message of the last line of a log in JSON.
fn last_words(log: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    File::open(log).ok()?.take(LOG_BYTES_MAX).read_to_string(&mut text).ok()?;
    let line: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
    Some(line["msg"].as_str()?.replace(char::is_control, " "))
}

/// The terminal's other side, as runtimes send it.
fn receive_terminal(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let connection = socket::accept(listener)?;
    let mut name = [0; 4096];
    let (_, descriptors) = socket::receive(connection.as_fd(), &mut name)?;
    descriptors.into_iter().next().ok_or_else(|| io::Error::other("the runtime sent no terminal"))
}

/// What the shim has made for a container.
fn give_back(directory: &Path) {
    if let Ok(root) = sysfs::c_path(&directory.join("rootfs")) {
        let _ = mount::detach(&root);
    }
    let _ = std::fs::remove_dir(directory.join("rootfs"));
    for file in ["config.json", "log.json", "pid", "process.json", "resources.json"] {
        let _ = std::fs::remove_file(directory.join(file));
    }
    let _ = std::fs::remove_dir(directory);
}

impl ForeignContainer {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub(crate) fn start(&self) -> io::Result<()> {
        self.runtime.run("start", &self.directory, &[&self.id], None)
    }

    pub(crate) fn kill(&self, signal: i32) -> io::Result<()> {
        self.runtime.run("kill", &self.directory, &[&self.id, &signal.to_string()], None)
    }

    pub(crate) fn update(&self, resources: &LinuxResources) -> io::Result<()> {
        let file = self.directory.join("resources.json");
        File::create(&file)?.write_all(&serde_json::to_vec(resources)?)?;
        let text = file.display().to_string();
        self.runtime.run("update", &self.directory, &["--resources", &text, &self.id], None)
    }

    pub(crate) fn exec(&self, process: &Process, streams: Streams) -> io::Result<ExecProcess> {
        let file = self.directory.join("process.json");
        std::fs::write(&file, serde_json::to_vec(process)?)?;
        let text = file.display().to_string();
        let options = ["--detach", "--process", &text];
        let ((pid, pidfd), terminal) =
            self.runtime.start_process("exec", &self.directory, &options, &self.id, streams)?;
        Ok(ExecProcess { pid, pidfd, terminal, warnings: Vec::new() })
    }

    pub(crate) fn delete(self) -> io::Result<()> {
        let outcome = self.runtime.run("delete", &self.directory, &["--force", &self.id], None);
        give_back(&self.directory);
        outcome
    }
}

/// A path to `fd` of this process that others can open.
pub(crate) fn path_for_others(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}
