//! From a pod that was just made to its exit code: streams, signals, and what is left behind.
//!
//! Without a terminal the output comes from the container's log, from its first byte on, however late this is and
//! however slowly it is read; input goes by an attached session. With a terminal both go by the session, which begins
//! with what the shim has kept for it.

use std::io::Write;
use std::os::fd::AsFd;

use anyhow::bail;
use futures_util::stream::FuturesUnordered;
use futures_util::{AsyncReadExt, StreamExt};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use wharf_supervisor::api::kinds::{pod, text};

use super::{Arguments, NAMESPACE, REFUSED};
use crate::client::{Client, is_not_found, path};
use crate::container_state::ContainerState;
use crate::{NodeArguments, cri, exec, watch};

/// What a process has after the first signal, before it is killed: as `docker stop` gives it.
const GRACE_SECONDS: i64 = 10;
/// Exit codes that docker gives where the program is there and cannot run, and where it is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_THERE: u8 = 127;

/// One pod and how it is reached.
struct Run<'a> {
    node: &'a NodeArguments,
    client: &'a Client,
    arguments: &'a Arguments,
    name: &'a str,
    uid: &'a str,
}

/// How the container's beginning went.
enum Beginning {
    Started,
    Failed(String),
    Gone,
}

/// Waits for the pod's start, and without `--detach` for its end.
pub(super) async fn follow(
    node: &NodeArguments,
    client: &Client,
    arguments: &Arguments,
    name: &str,
    uid: &str,
) -> anyhow::Result<u8> {
    let run = Run { node, client, arguments, name, uid };
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut signals: u32 = 0;
    let mut stops = FuturesUnordered::new();
    let outcome = {
        let session = run.session();
        tokio::pin!(session);
        loop {
            tokio::select! {
                outcome = &mut session => break outcome,
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
                Some(stopped) = stops.next() => {
                    if let Err(error) = stopped {
                        eprintln!("wharf: stop {name}: {error:#}");
                    }
                    continue;
                }
            }
            signals += 1;
            // Whoever asks twice means it.
            stops.push(run.stop(if signals == 1 { GRACE_SECONDS } else { 0 }));
        }
    };
    let gone = |error: &anyhow::Error| crate::is_broken_pipe(error);
    if outcome.as_ref().is_err_and(gone) {
        // Nobody reads its output any more.
        run.stop(0).await?;
    }
    if arguments.rm {
        run.remove().await?;
    }
    outcome
}

impl Run<'_> {
    async fn session(&self) -> anyhow::Result<u8> {
        match self.beginning().await? {
            Beginning::Started if self.arguments.detach => {
                println!("{}", self.name);
                return Ok(0);
            }
            Beginning::Started => {}
            // It would be tried again and again, with nobody there to see.
            Beginning::Failed(message) => {
                self.remove().await?;
                eprintln!("wharf: run {}: {message}", self.arguments.image());
                return Ok(code_of_failure(&message));
            }
            Beginning::Gone => bail!("pod {} was deleted before it started", self.name),
        }
        if self.arguments.tty {
            self.terminal_session().await?;
        } else {
            let input = self.input();
            tokio::pin!(input);
            let output = self.output();
            tokio::pin!(output);
            // Input that ends or breaks says nothing of the process; the end of its output does.
            tokio::select! {
                ended = &mut output => ended?,
                _ = &mut input => output.await?,
            }
        }
        self.exit_code().await
    }

    async fn beginning(&self) -> anyhow::Result<Beginning> {
        watch::pod_until(self.client, NAMESPACE, self.name, self.uid, |pod| {
            let Some(pod) = pod.filter(|pod| !is_leaving(pod)) else { return Some(Beginning::Gone) };
            let state = ContainerState::of_pod(pod);
            match &state {
                ContainerState::Running { .. } | ContainerState::Exited { .. } => Some(Beginning::Started),
                // A container that restarts has started.
                ContainerState::Waiting { reason, .. } if reason == "CrashLoopBackOff" => Some(Beginning::Started),
                ContainerState::Waiting { .. } => state.failure().map(|message| Beginning::Failed(message.to_owned())),
            }
        })
        .await
    }

    async fn exit_code(&self) -> anyhow::Result<u8> {
        let code = watch::pod_until(self.client, NAMESPACE, self.name, self.uid, |pod| {
            match pod.map(ContainerState::of_pod) {
                Some(ContainerState::Exited { code, .. }) => Some(Some(code)),
                Some(_) => None,
                None => Some(None),
            }
        });
        match code.await? {
            Some(code) => Ok(code),
            None => bail!("pod {} was deleted: its exit code is not known", self.name),
        }
    }

    async fn terminal_session(&self) -> anyhow::Result<()> {
        match exec::attach_terminal(self.client, NAMESPACE, self.name, self.arguments.interactive).await {
            // It ended before it could be attached to: all that it wrote is in its log.
            Err(error) if exec::is_not_running(&error) => self.copy_log("All", &mut std::io::stdout()).await,
            other => other,
        }
    }

    /// Standard input until its end; lasts as long as the container, which would lose what is under way.
    async fn input(&self) -> anyhow::Result<()> {
        if !self.arguments.interactive {
            return Ok(());
        }
        exec::attach_input(self.client, NAMESPACE, self.name).await
    }

    /// All output, to the end.
    async fn output(&self) -> anyhow::Result<()> {
        if same_file() {
            // One stream keeps the order in which the lines came.
            return self.copy_log("All", &mut std::io::stdout()).await;
        }
        let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
        tokio::try_join!(self.copy_log("Stdout", &mut stdout), self.copy_log("Stderr", &mut stderr))?;
        Ok(())
    }

    async fn copy_log(&self, stream: &str, output: &mut impl Write) -> anyhow::Result<()> {
        let pod = path(&pod::KIND, Some(NAMESPACE), Some(self.name))?;
        let mut log = Box::pin(self.client.lines(&format!("{pod}/log?follow=true&stream={stream}"), false).await?);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match log.read(&mut buffer).await? {
                0 => return Ok(()),
                length => {
                    output.write_all(&buffer[..length])?;
                    output.flush()?;
                }
            }
        }
    }

    /// Ends the process, or a pod whose process is not there yet.
    async fn stop(&self, grace_seconds: i64) -> anyhow::Result<()> {
        let pod = match self.client.get(&path(&pod::KIND, Some(NAMESPACE), Some(self.name))?).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other?,
        };
        match ContainerState::of_pod(&pod) {
            ContainerState::Running { .. } => {
                let id = text(&pod, "/status/containerStatuses/0/containerID");
                cri::stop_container(self.node, id, grace_seconds).await
            }
            ContainerState::Exited { .. } => Ok(()),
            ContainerState::Waiting { .. } => self.remove().await,
        }
    }

    /// Deletes the pod and returns when nothing of it is left.
    async fn remove(&self) -> anyhow::Result<()> {
        remove_pod(self.client, NAMESPACE, self.name, self.uid, None).await
    }
}

/// Deletes a pod, at once where the grace is 0, and returns when nothing of it is left.
pub(crate) async fn remove_pod(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    grace_seconds: Option<i64>,
) -> anyhow::Result<()> {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if let Some(seconds) = grace_seconds {
        options["gracePeriodSeconds"] = seconds.into();
    }
    match client.delete(&path(&pod::KIND, Some(namespace), Some(name))?, &options).await {
        Err(error) if is_not_found(&error) => return Ok(()),
        other => drop(other?),
    }
    watch::pod_until(client, namespace, name, uid, |pod| pod.is_none().then_some(())).await
}

fn is_leaving(pod: &Value) -> bool {
    !text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// docker's code for what kept the process from starting.
fn code_of_failure(message: &str) -> u8 {
    match message {
        _ if !message.contains("find program") && !message.contains("exec") => REFUSED,
        _ if message.contains("no such file or directory") => NOT_THERE,
        _ if message.contains("permission denied") || message.contains("exec format error") => NOT_EXECUTABLE,
        _ => REFUSED,
    }
}

/// Whether standard output and error lead to the same place.
fn same_file() -> bool {
    let identity =
        |fd: &dyn Fn() -> rustix::io::Result<rustix::fs::Stat>| fd().map(|stat| (stat.st_dev, stat.st_ino)).ok();
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let both = [identity(&|| rustix::fs::fstat(stdout.as_fd())), identity(&|| rustix::fs::fstat(stderr.as_fd()))];
    both[0].is_some() && both[0] == both[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_to_start_have_dockers_codes() {
        for (message, code) in [
            ("config: find program x, executable file not found in $PATH: no such file or directory", 127),
            ("config: find program /etc/passwd: permission denied", 126),
            ("exec `/x`: exec format error", 126),
            ("mount /a: ENOENT (no such file or directory)", 125),
        ] {
            assert_eq!(code_of_failure(message), code, "{message}");
        }
    }
}
