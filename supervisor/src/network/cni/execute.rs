//! Running a plugin's program: its words and its time are bounded, whatever it does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use wharf_specs::cni::PluginFailure;
use wharf_specs::cni::answer::one_line;

/// Of a plugin's standard output: results have a few kilobytes.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Of a plugin's standard error, which is a log for people; what comes beyond is read and dropped.
const WORDS_BYTES: u64 = 16 << 10;

/// Why an execution gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecuteError {
    #[error("start {program}: {reason}")]
    Start { program: PathBuf, reason: io::Error },
    #[error("not done after {seconds} s: it was killed with all it had started")]
    Deadline { seconds: u64 },
    #[error("it wrote more than {OUTPUT_BYTES} bytes of an answer: it was killed with all it had started")]
    TooMuch,
    #[error("{0}")]
    Refused(PluginFailure),
    #[error("{status}, with no error object; it said {said:?}")]
    Failed { status: ExitStatus, said: String },
    #[error("read its answer: {0}")]
    Read(io::Error),
}

/// Executes `program` with `variables` besides those of the daemon; returns what it answered on standard output.
///
/// # Errors
/// Also where it exits with success and answers an error object.
pub(super) async fn execute(
    program: &Path,
    variables: &[(&str, OsString)],
    input: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, ExecuteError> {
    let mut command = Command::new(program);
    // What is told to this daemon is not told to plugins.
    for (name, _) in std::env::vars_os() {
        if name == OsStr::new("NOTIFY_SOCKET") || name.as_encoded_bytes().starts_with(b"CNI_") {
            command.env_remove(name);
        }
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let started = command.spawn();
    let mut child = started.map_err(|reason| ExecuteError::Start { program: program.into(), reason })?;
    // After the child, so that it goes first: as long as nobody waited for the child, its number is not another's.
    let mut group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
        return Err(ExecuteError::Read(io::ErrorKind::BrokenPipe.into()));
    };

    let talk = async { tokio::try_join!(tell(stdin, input), answer(stdout), words(stderr)) };
    let work = async {
        let (_, output, said) = talk.await?;
        let status = child.wait().await.map_err(ExecuteError::Read)?;
        Ok((output, said, status))
    };
    let outcome = tokio::time::timeout(limit, work).await;
    let finished = outcome.unwrap_or(Err(ExecuteError::Deadline { seconds: limit.as_secs() }));
    let (output, said, status) = match finished {
        Ok(finished) => {
            group.0 = None;
            finished
        }
        Err(error) => {
            drop(group);
            // Killed as it is, it ends now; a process that the kernel does not let go is not waited for.
            let _ = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
            return Err(error);
        }
    };
    let said = String::from_utf8_lossy(&said);
    if !said.trim().is_empty() {
        tracing::debug!(program = %program.display(), said = one_line(&said), "CNI plugin");
    }
    match PluginFailure::parse(&output) {
        Some(failure) => Err(ExecuteError::Refused(failure)),
        None if status.success() => Ok(output),
        None => {
            let said = if said.trim().is_empty() { String::from_utf8_lossy(&output) } else { said };
            Err(ExecuteError::Failed { status, said: one_line(&said) })
        }
    }
}

/// The process group of a plugin that may still run; ended when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody is left in it: that is what was wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// A plugin that does not listen is none the worse for it.
async fn tell(mut stdin: tokio::process::ChildStdin, input: &[u8]) -> Result<(), ExecuteError> {
    let _ = stdin.write_all(input).await;
    Ok(())
}

async fn answer(stdout: impl AsyncRead + Unpin) -> Result<Vec<u8>, ExecuteError> {
    let mut output = Vec::new();
    stdout.take(OUTPUT_BYTES + 1).read_to_end(&mut output).await.map_err(ExecuteError::Read)?;
    if output.len() as u64 > OUTPUT_BYTES { Err(ExecuteError::TooMuch) } else { Ok(output) }
}

async fn words(mut stderr: impl AsyncRead + Unpin) -> Result<Vec<u8>, ExecuteError> {
    let mut said = Vec::new();
    (&mut stderr).take(WORDS_BYTES).read_to_end(&mut said).await.map_err(ExecuteError::Read)?;
    tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.map_err(ExecuteError::Read)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::os::unix::fs::PermissionsExt;

    /// What a shell script of these lines answers as a plugin.
    async fn run(script: &str, limit: Duration) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("plugin");
        // Written by another process: what this one has open for writing, a fork of another test has too, and such a
        // program cannot be executed.
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\"; chmod 755 \"$0\""])
            .arg(&program)
            .stdin({
                let text = dir.path().join("text");
                std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
                std::fs::File::open(text).unwrap()
            })
            .status()
            .unwrap();
        assert!(status.success() && program.metadata().unwrap().permissions().mode() & 0o111 != 0);
        let variables = [("CNI_COMMAND", "ADD".into())];
        let outcome = execute(&program, &variables, b"{\"in\": 1}", limit).await;
        outcome.map(|bytes| String::from_utf8(bytes).unwrap()).map_err(|error| error.to_string())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_plugin_reads_its_input_and_its_variables() {
        assert_eq!(run("echo $CNI_COMMAND; cat", LONG).await.unwrap(), "ADD\n{\"in\": 1}");
        assert_eq!(run("exec <&-; echo deaf", LONG).await.unwrap(), "deaf\n");
    }

    #[tokio::test]
    async fn failures_are_one_line() {
        let object = r#"echo '{"code": 7, "msg": "no", "details": "mtu"}'"#;
        let expected = "code 7 (invalid network configuration): no: mtu";
        assert_eq!(run(&format!("{object}; exit 1"), LONG).await.unwrap_err(), expected);
        assert_eq!(run(object, LONG).await.unwrap_err(), expected, "success does not make an error a result");
        let error = run("echo one >&2; echo two >&2; exit 3", LONG).await.unwrap_err();
        assert_eq!(error, "exit status: 3, with no error object; it said \"one two\"");
        let error = run("echo out; kill -9 $$", LONG).await.unwrap_err();
        assert_eq!(error, "signal: 9 (SIGKILL), with no error object; it said \"out\"");
        let error = execute(Path::new("/nonexistent/plugin"), &[], b"", LONG).await.unwrap_err();
        assert!(error.to_string().starts_with("start /nonexistent/plugin: No such file"), "{error}");
    }

    #[tokio::test]
    async fn too_many_words_end_a_plugin_unless_they_are_for_people() {
        let error = run("exec cat /dev/zero", LONG).await.unwrap_err();
        assert!(error.starts_with("it wrote more than 1048576 bytes"), "{error}");
        assert_eq!(run("head -c 4000000 /dev/zero >&2; echo '{}'", LONG).await.unwrap(), "{}\n");
    }

    #[tokio::test]
    async fn what_hangs_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! > {}; wait", pids.display());
        let error = run(&script, Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(error, "not done after 3 s: it was killed with all it had started");
        let text = std::fs::read_to_string(&pids).unwrap();
        assert_eq!(text.split_whitespace().count(), 2);
        for pid in text.split_whitespace() {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            // Gone already, or on its way.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let mut ends = [PollFd::new(&process, PollFlags::IN)];
            assert_eq!(poll(&mut ends, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap(), 1, "{pid:?} lives");
        }
    }
}
