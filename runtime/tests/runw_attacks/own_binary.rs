//! The runtime's own binary, through `/proc/PID/exe` (CVE-2019-5736).

use crate::support::{self, Bundle, outcome};
use crate::{attempts, require_root, role};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A runtime of the test's own, so that an attack that succeeds hits nobody else.
fn own_runtime(bundle: &Bundle) -> PathBuf {
    let runtime = bundle.scratch().join("runw");
    support::copy_program(support::program(), &runtime);
    runtime
}

fn command(bundle: &Bundle, runtime: &Path, arguments: &[&str]) -> Command {
    let config = bundle.command(arguments);
    let mut command = Command::new(runtime);
    command.args(config.get_args()).current_dir(bundle.path()).stdin(Stdio::null());
    command
}

fn hostile_interpreter(bundle: &Bundle, name: &str) {
    use std::os::unix::fs::PermissionsExt;
    let script = bundle.rootfs().join("bin").join(name);
    fs::write(&script, "#!/proc/self/exe\n").expect("write");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// The container attacks while the runtime executes a script whose interpreter is the runtime itself: then the process
/// is the container's, to be opened, while its binary is the host's.
#[test]
fn the_binary_cannot_be_written_while_it_executes_into_a_hostile_container() {
    require_root!("the_binary_cannot_be_written_while_it_executes_into_a_hostile_container");
    for strong in [false, true] {
        let bundle = role::bundle("pry");
        let bundle = if strong { role::with_capabilities(bundle) } else { bundle };
        hostile_interpreter(&bundle, "entry");
        let runtime = own_runtime(&bundle);
        let before = fs::read(&runtime).expect("read");
        bundle.start();
        for program in
            ["/bin/entry", "/bin/true", "/proc/self/exe", "/proc/self/exe"].iter().cycle().take(attempts(40) as usize)
        {
            let made = command(&bundle, &runtime, &["exec", &bundle.id, program]).output().expect("exec");
            assert!(made.status.code().is_some(), "{made:?}");
        }
        let report = role::end(&bundle);
        assert!(report["held"].as_u64() > Some(0), "the attack has got no binary to write to");
        let reached: Vec<&str> =
            report["reached"].as_array().expect("a list").iter().filter_map(|r| r.as_str()).collect();
        // Who may trace the host's root may look at the child. He still has nothing to write to.
        assert!(!reached.iter().any(|what| what.starts_with("wrote")), "strong: {strong}: {reached:?}");
        assert!(strong || reached.is_empty(), "{reached:?}");
        assert!(fs::read(&runtime).expect("read") == before, "the binary was changed");
    }
}

#[test]
fn an_image_whose_program_is_the_runtime_does_not_get_at_the_binary() {
    require_root!("an_image_whose_program_is_the_runtime_does_not_get_at_the_binary");
    for program in [&["/bin/entry"][..], &["/proc/self/exe", "spec", "-b", "/tmp"]] {
        let bundle = Bundle::new(program).set("/root/readonly", json!(false));
        hostile_interpreter(&bundle, "entry");
        let runtime = own_runtime(&bundle);
        let before = fs::read(&runtime).expect("read");
        outcome(command(&bundle, &runtime, &["run", &bundle.id]).output().expect("run"));
        assert!(fs::read(&runtime).expect("read") == before, "the binary was changed");
        bundle.assert_nothing_left();
    }
    // What it runs from is read-only for ever, not just busy: said by the program itself, which can look at its link.
    let bundle = Bundle::script("sleep 1000");
    let runtime = own_runtime(&bundle);
    let hook = bundle.scratch().join("written");
    let script = format!("exec 2>{}; echo x > /proc/$PPID/exe", hook.display());
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let bundle = bundle.set("/hooks", hooks);
    command(&bundle, &runtime, &["run", "-d", &bundle.id]).status().expect("run");
    let said = fs::read_to_string(&hook).expect("the hook's error");
    assert!(said.contains("Read-only file system"), "{said}");
}
