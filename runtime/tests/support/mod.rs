//! A throwaway bundle with a busybox root file system, and `runw` to run it.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// The program under test: that of this build, or one given (`WHARF_TEST_RUNW`), such as the one that is installed.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> =
        LazyLock::new(|| std::env::var("WHARF_TEST_RUNW").unwrap_or_else(|_| env!("CARGO_BIN_EXE_runw").to_string()));
    &PROGRAM
}

/// Debian's package busybox-static.
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 26] = [
    "sh", "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "ip", "kill", "ls", "mkdir", "mknod",
    "mount", "ps", "pwd", "readlink", "sleep", "stat", "test", "touch", "true", "tty", "umount", "wc",
];

/// A bundle, a runtime root and a container id that no other test has.
pub struct Bundle {
    directory: TempDir,
    pub id: String,
    pub config: Value,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Says why a test does not run, and returns true, unless this is root on a machine with busybox.
pub fn skip(test: &str) -> bool {
    let reason = if !wharf_is_root() {
        "needs root"
    } else if !Path::new(BUSYBOX).exists() {
        "needs /bin/busybox of the package busybox-static"
    } else {
        return false;
    };
    println!("SKIP {test}: {reason}");
    true
}

pub fn wharf_is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0\t"))
}

/// Why mounts of temporary files cannot have their ids mapped here, if they cannot.
pub fn no_id_maps() -> Option<&'static str> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let directory = tempfile::tempdir().expect("temp dir");
    let on_tmpfs = rustix::fs::statfs(directory.path()).expect("statfs").f_type as u64 == TMPFS_MAGIC;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (on_tmpfs && version < (6, 3))
        .then_some("the temporary folder is on tmpfs, whose ids kernels before 6.3 cannot map")
}

/// Leaves a test that cannot run here, saying so.
#[macro_export]
macro_rules! require_root {
    ($name:literal) => {
        if support::skip($name) {
            return;
        }
    };
}

/// Copies what will be run. Another process does it: a copy that this one holds open for writing is handed to whatever
/// a test of another thread starts at that instant, and is "busy" until that child has become its program.
pub fn copy_program(from: impl AsRef<Path>, to: &Path) {
    assert!(Command::new("cp").arg(from.as_ref()).arg(to).status().expect("cp").success());
}

impl Bundle {
    /// A bundle whose program is `args`, from `runw spec` without terminal.
    pub fn new(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().expect("temp dir");
        let id = format!("wharf-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let rootfs = directory.path().join("bundle/rootfs");
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).expect("make rootfs");
        }
        copy_program(BUSYBOX, &rootfs.join("bin/busybox"));
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("link applet");
        }
        let bundle = directory.path().join("bundle");
        let mut spec = Command::new(program());
        spec.args(["spec", "-b"]).arg(&bundle).args((!wharf_is_root()).then_some("--rootless"));
        let made = spec.status().expect("runw spec");
        assert!(made.success());
        let text = fs::read(bundle.join("config.json")).expect("read config.json");
        let mut config: Value = serde_json::from_slice(&text).expect("parse config.json");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        Self { directory, id, config }
    }

    /// As [`Bundle::new`], with a shell script as the program.
    pub fn script(text: &str) -> Self {
        Self::new(&["sh", "-c", text])
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// The directory that holds bundle and runtime root, for files of the test.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Changes the configuration at a JSON pointer; `-` at its end appends.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        self.change(pointer, value);
        self
    }

    pub fn change(&mut self, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = self.config.pointer_mut(parent).expect("the parent exists");
        match (parent, key) {
            (Value::Array(list), "-") => list.push(value),
            (Value::Array(list), index) => list[index.parse::<usize>().expect("index")] = value,
            (object, key) => object[key] = value,
        }
    }

    pub fn remove(mut self, pointer: &str) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = self.config.pointer_mut(parent).expect("the parent exists");
        parent.as_object_mut().expect("an object").remove(key);
        self
    }

    /// `runw --root … ARGS` in the bundle, with the configuration as it is now.
    pub fn command(&self, args: &[&str]) -> Command {
        fs::write(self.path().join("config.json"), self.config.to_string()).expect("write config.json");
        self.raw_command(args)
    }

    /// As [`Bundle::command`], leaving `config.json` alone.
    pub fn raw_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.root()).args(args).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    pub fn root(&self) -> PathBuf {
        self.scratch().join("root")
    }

    /// Runs a command. Its output goes through files: a pipe would stay open as long as a container that has it.
    pub fn runw(&self, args: &[&str]) -> Outcome {
        let file = |name| self.scratch().join(name);
        let create = |name| fs::File::create(file(name)).expect("make file");
        let (stdout, stderr) = (create("stdout"), create("stderr"));
        let status = self.command(args).stdout(stdout).stderr(stderr).status().expect("run runw");
        let read = |name| String::from_utf8_lossy(&fs::read(file(name)).expect("read file")).into_owned();
        Outcome { code: status.code(), stdout: read("stdout"), stderr: read("stderr") }
    }

    /// Runs the container in the foreground.
    pub fn run(&self) -> Outcome {
        self.runw(&["run", &self.id])
    }

    /// Runs the container and expects success; returns what it wrote.
    pub fn output(&self) -> String {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    }

    /// Creates and starts it in the background; it has no standard input and output.
    pub fn start(&self) {
        let ok = |mut command: Command| {
            let status = command.stdout(Stdio::null()).stderr(Stdio::inherit()).status().expect("run runw");
            assert!(status.success(), "{command:?}");
        };
        ok(self.command(&["create", &self.id]));
        ok(self.command(&["start", &self.id]));
    }

    pub fn state(&self) -> Value {
        let outcome = self.runw(&["state", &self.id]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        serde_json::from_str(&outcome.stdout).expect("state is JSON")
    }

    /// Nothing of the container may be left: no state, cgroup, mount or process.
    pub fn assert_nothing_left(&self) {
        assert!(!self.root().join(&self.id).exists(), "the state directory is left");
        for root in cgroup_roots() {
            let group = root.join(&self.id);
            assert!(!group.exists(), "the cgroup {} is left", group.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let scratch = self.scratch().to_string_lossy().into_owned();
        assert!(!mounts.contains(&scratch), "a mount is left");
        for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            assert!(!command.contains(&self.id), "the process {:?} is left: {command}", entry.file_name());
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // A test that failed half-way must not leave its container.
        let _ = self.raw_command(&["delete", "-f", &self.id]).stderr(Stdio::null()).status();
    }
}

/// The directory of a container's group, for a v1 controller or on v2.
pub fn cgroup_file(id: &str, controller: &str, v1: &str, v2: &str) -> PathBuf {
    let legacy = Path::new("/sys/fs/cgroup").join(controller).join(id).join(v1);
    if legacy.exists() { legacy } else { Path::new("/sys/fs/cgroup").join(id).join(v2) }
}

/// The roots of all hierarchies: of each v1 controller, and of v2.
fn cgroup_roots() -> impl Iterator<Item = PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
    hierarchies.chain([PathBuf::from("/sys/fs/cgroup")])
}

pub fn outcome(output: Output) -> Outcome {
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
