//! The library as the shim uses it: in one single-threaded process, without a state directory. The usual test
//! harness has threads, which a process that clones must not have, so this program is its own harness.

use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use wharf_runtime::state::Status;
use wharf_runtime::{Container, ContainerId, CreateRequest, ExecRequest, Rootfs, Stdio};
use wharf_specs::oci::{self, Spec};
use wharf_sys::pidfd::{self, Exit};
use wharf_sys::process::pipe;

const BUSYBOX: &str = "/bin/busybox";

fn main() {
    let name = "the_library_serves_a_single_threaded_process";
    let root = fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0\t"));
    if !root || !Path::new(BUSYBOX).exists() {
        println!("SKIP {name}: needs root and /bin/busybox of the package busybox-static");
        return;
    }
    let directory = tempfile::tempdir().expect("temp dir");
    for layer in ["base/bin", "base/proc", "base/dev", "base/sys", "top/etc", "upper", "work", "bundle"] {
        fs::create_dir_all(directory.path().join(layer)).expect("make layer");
    }
    fs::copy(BUSYBOX, directory.path().join("base/bin/busybox")).expect("copy busybox");
    for applet in ["sh", "cat", "echo", "sleep"] {
        symlink("busybox", directory.path().join("base/bin").join(applet)).expect("link applet");
    }
    fs::write(directory.path().join("top/etc/layer"), "topmost\n").expect("write");
    let before = descriptors();
    for _ in 0..3 {
        an_overlay_runs_with_descriptors_of_the_caller(directory.path());
        exec_and_kill_and_delete(directory.path());
        a_failed_creation_leaves_nothing(directory.path());
        a_missing_program_is_a_typed_failure(directory.path());
        an_init_whose_state_is_not_saved_ends_with_its_creator(directory.path());
        assert_eq!(descriptors(), before, "descriptors leak");
    }
    println!("test {name} ... ok");
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("own descriptors").count()
}

fn spec(args: &[&str]) -> Spec {
    let document = json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin"]},
        "root": {"path": "unused"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        ],
        "linux": {
            "cgroupsPath": format!("/wharf-test-library-{}", std::process::id()),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
        },
    });
    oci::parse_config(document.to_string().as_bytes()).expect("configuration").value
}

fn request<'a>(directory: &Path, bundle: &'a Path, spec: &'a Spec) -> CreateRequest<'a> {
    let layer = |name: &str| directory.join(name);
    let rootfs =
        Rootfs::Overlay { lower: vec![layer("top"), layer("base")], upper: layer("upper"), work: layer("work") };
    CreateRequest::new(ContainerId::parse("library").expect("id"), bundle, spec, rootfs)
}

fn with_pipe() -> (Stdio, OwnedFd) {
    let null = || OwnedFd::from(fs::File::options().read(true).write(true).open("/dev/null").expect("null"));
    let (read, write) = pipe().expect("pipe");
    (Stdio::Fds { stdin: null(), stdout: write, stderr: null() }, read)
}

fn read_all(pipe: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(pipe).read_to_string(&mut text).expect("read");
    text
}

fn an_overlay_runs_with_descriptors_of_the_caller(directory: &Path) {
    let (spec, bundle) =
        (spec(&["sh", "-c", "cat /etc/layer; echo new > /etc/layer; cat /etc/layer"]), directory.join("bundle"));
    fs::remove_file(directory.join("upper/etc/layer")).ok();
    let (stdio, output) = with_pipe();
    let mut container =
        Container::create(CreateRequest { stdio, ..request(directory, &bundle, &spec) }).expect("create");
    container.start().expect("start");
    assert_eq!(read_all(output), "topmost\nnew\n");
    assert_eq!(pidfd::wait(container.pidfd()).expect("wait"), Exit::Code(0));
    assert_eq!(fs::read_to_string(directory.join("upper/etc/layer")).expect("upper"), "new\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&*directory.to_string_lossy()), "the host sees a mount");
    let group = container.cgroup().path().expect("cgroup").to_path_buf();
    container.delete().expect("delete");
    assert!(!group.exists());
}

fn exec_and_kill_and_delete(directory: &Path) {
    let (spec, bundle) = (spec(&["sleep", "1000"]), directory.join("bundle"));
    let stdio = Stdio::Terminal { size: None, plain_line_feeds: false };
    let mut container =
        Container::create(CreateRequest { stdio, ..request(directory, &bundle, &spec) }).expect("create");
    assert!(container.terminal.is_some());
    container.start().expect("start");
    let process = json!({"user": {}, "cwd": "/", "args": ["/bin/sh", "-c", "echo $$; exit 3"]});
    let process = oci::parse_process(process.to_string().as_bytes()).expect("process").value;
    let (stdio, output) = with_pipe();
    let executed = container.exec(ExecRequest::new(&process, stdio)).expect("exec");
    assert_eq!(read_all(output), "2\n");
    assert_eq!(pidfd::wait(executed.pidfd.as_fd()).expect("wait"), Exit::Code(3));
    assert_eq!(container.cgroup().oom_kills(), 0);
    assert_eq!(container.cgroup().pids().expect("pids"), [container.pid()]);
    container.cgroup().kill_all().expect("kill all");
    assert_eq!(pidfd::wait(container.pidfd()).expect("wait"), Exit::Signal(9));
    container.delete().expect("delete");
}

fn a_failed_creation_leaves_nothing(directory: &Path) {
    let (mut spec, bundle) = (spec(&["true"]), directory.join("bundle"));
    let mounts = json!([{"destination": "/m", "source": "/nonexistent", "options": ["bind"]}]);
    spec.set_mounts(serde_json::from_value(mounts).expect("mounts"));
    let error = Container::create(request(directory, &bundle, &spec)).expect_err("must fail").to_string();
    assert_eq!(error, "error mounting: open source /nonexistent (mounts[0]): ENOENT (no such file or directory)");
}

fn a_missing_program_is_a_typed_failure(directory: &Path) {
    let (spec, bundle) = (spec(&["no-such-program"]), directory.join("bundle"));
    match Container::create(request(directory, &bundle, &spec)) {
        Err(wharf_runtime::Error::Step(failure)) => {
            assert_eq!(failure.step, wharf_runtime::handshake::Step::FindProgram);
            assert_eq!(failure.errno, wharf_sys::errno::ENOENT);
        }
        other => panic!("a missing program was {other:?}"),
    }
}

/// Nobody else could find it. Once its state is saved it waits for whoever starts it.
fn an_init_whose_state_is_not_saved_ends_with_its_creator(directory: &Path) {
    const PATIENCE_MILLISECONDS: i32 = 10_000;
    let (spec, bundle) = (spec(&["sleep", "1000"]), directory.join("bundle"));
    for saved in [false, true] {
        let state = directory.join("state");
        fs::create_dir(&state).expect("mkdir");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("chmod");
        let state_dir = Some(state.as_path());
        let container =
            Container::create(CreateRequest { state_dir, ..request(directory, &bundle, &spec) }).expect("create");
        let init = pidfd::open(container.pid()).expect("pidfd");
        let group = container.cgroup().clone();
        if saved {
            container.save(&state).expect("save");
        }
        drop(container);
        if saved {
            let mut container = Container::load(&state).expect("load");
            assert_eq!(container.status(), Status::Created);
            container.start().expect("start");
            container.kill(9).expect("kill");
        }
        assert!(pidfd::poll_exit(init.as_fd(), PATIENCE_MILLISECONDS).expect("poll"), "saved: {saved}");
        let expected = if saved { Exit::Signal(9) } else { Exit::Code(1) };
        assert_eq!(pidfd::wait(init.as_fd()).expect("wait"), expected);
        group.remove().expect("remove the group");
        fs::remove_dir_all(&state).expect("remove");
    }
}
