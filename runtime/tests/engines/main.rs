//! Debian's engines with `runw` as their runtime, as a person uses them. Each has its own folders, sockets and control
//! groups, images made here, and no network.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/terminal.rs"]
mod terminal;

mod containerd;
mod docker;
mod podman;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use wharf_sys::pidfd;
use wharf_sys::terminal::Size;

const SIGTERM: i32 = 15;
/// Longer than any engine takes for one thing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs a client for so long: its exit is waited for. Engines hand SIGTERM on to what they run.
const BOUNDED: [&str; 4] = ["timeout", "--kill-after", "5", "60"];

/// True, saying so, if a program of the engine is missing.
fn missing(test: &str, programs: &[&str]) -> bool {
    if support::skip(test) {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &&&str| std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    match programs.iter().find(|program| !has(program)) {
        Some(program) => {
            println!("SKIP {test}: {program} is not installed");
            true
        }
        None => false,
    }
}

/// A folder for an engine, with the archive of a small root file system.
struct Engine {
    directory: TempDir,
    /// Names its control groups.
    mark: String,
}

impl Engine {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let root = directory.path().join("image");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(name)).expect("mkdir");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copy");
        for applet in ["sh", "cat", "echo", "sleep", "tty", "true"] {
            symlink("busybox", root.join("bin").join(applet)).expect("symlink");
        }
        let engine = Self { directory, mark: format!("wharf-test-{name}-{}", std::process::id()) };
        let made = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(engine.archive()).arg(".").status();
        assert!(made.expect("tar").success());
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn archive(&self) -> PathBuf {
        self.path("image.tar")
    }

    /// The engine has ended: no process, mount or control group of its may be there.
    fn assert_nothing_left(&self) {
        let scratch = self.directory.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!mounts.contains(&scratch), "a mount is left: {mounts}");
        for entry in fs::read_dir("/proc").expect("proc").flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            assert!(!command.contains(&scratch), "the process {:?} is left: {command}", entry.file_name());
        }
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let parent = hierarchy.join(&self.mark);
            if parent.exists() && !parent.join("cgroup.procs").exists() {
                // Where a controller is not mounted podman makes plain directories.
                fs::remove_dir_all(&parent).expect("remove");
                let _ = fs::remove_dir(&hierarchy);
            } else if parent.exists() {
                // Its groups can be removed unless there is a process in them.
                let group = wharf_runtime::cgroup::Cgroup::from_paths([(String::new(), parent.clone())]);
                group.remove().unwrap_or_else(|error| panic!("{} is in use: {error}", parent.display()));
            }
        }
    }
}

impl Drop for Engine {
    /// A test that failed half-way must not leave its containers.
    fn drop(&mut self) {
        const SIGKILL: i32 = 9;
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let group = wharf_runtime::cgroup::Cgroup::from_paths([(String::new(), hierarchy.join(&self.mark))]);
            if hierarchy.join(&self.mark).exists() {
                let _ = group.signal_all(SIGKILL);
                let _ = group.remove();
            }
        }
    }
}

/// A daemon in a mount namespace with a `/run` of its own, ended when dropped.
struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready (sd_notify(3)).
    fn start(engine: &Engine, command: &[&str]) -> Self {
        let notify = engine.path("notify");
        let socket = UnixDatagram::bind(&notify).expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let log = fs::File::create(engine.path("log")).expect("make file");
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", "mount -t tmpfs run /run && exec \"$@\"", "sh"])
            .args(command)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate"))
            .stderr(log)
            .spawn()
            .expect("unshare");
        let daemon = Self { child };
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("not ready: {error}: {}", fs::read_to_string(engine.path("log")).unwrap_or_default())
            });
            if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") {
                return daemon;
            }
        }
    }

    fn mount_namespace(&self) -> String {
        format!("--mount=/proc/{}/ns/mnt", self.child.id())
    }

    /// Ends it as its service would be, and waits.
    fn stop(mut self) {
        assert!(self.end(), "the daemon does not end");
    }

    /// False if it had to be killed.
    fn end(&mut self) -> bool {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return true;
        }
        // It is not reaped before the end: the number is its own until then.
        let _ = wharf_sys::process::kill(self.child.id() as i32, SIGTERM);
        let patience = PATIENCE.as_millis() as i32;
        let pidfd = pidfd::open(self.child.id() as i32);
        let ended = pidfd.and_then(|daemon| pidfd::poll_exit(daemon.as_fd(), patience)).unwrap_or(false);
        if !ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        ended
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a client command wrote; it must succeed.
fn output(mut command: Command) -> String {
    let made = command.stdin(Stdio::null()).output().expect("run");
    let (stdout, stderr) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{command:?}: {stdout}{stderr}");
    stdout.trim().replace('\r', "")
}

/// Runs a command on a terminal, types a line, and returns the lines that appear.
fn lines_on_terminal(command: &Command) -> Vec<String> {
    let (mut child, mut terminal) = terminal::spawn(command, Size { rows: 24, columns: 80 });
    terminal.write_all(b"x\n").expect("type");
    let shown = terminal::shown(&terminal);
    assert!(child.wait().expect("wait").success(), "{command:?}: {shown}");
    shown.lines().map(|line| line.trim().to_string()).collect()
}

/// Reads lines of a command that goes on for ever, up to `count`; then it is ended.
fn lines(mut command: Command, count: usize, during: impl FnOnce()) -> Vec<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("spawn");
    during();
    let lines = BufReader::new(child.stdout.take().expect("stdout")).lines().take(count);
    let lines = lines.map(|line| line.expect("a line")).collect();
    // timeout(1) hands it on to what it runs.
    wharf_sys::process::kill(child.id() as i32, SIGTERM).expect("kill");
    child.wait().expect("wait");
    lines
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}
