//! How a container is made to end. The shim is asked; the kernel has the last word: where a shim does not answer, the
//! container's own process is signalled and watched by its descriptor, and its control group is killed.

use std::time::Duration;

use tokio::time::Instant;
use wharf_specs::shim::{Exit, Operation};

use super::error::{PodError, Result};
use super::init_process::InitProcess;
use super::sandbox::{Command, KILL_DEADLINE, Owner, Reply};
use super::session::SIGKILL;

/// How long a shim may take to pass a signal on, and to tell of an end that the kernel shows already.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(2);

impl Owner {
    pub(super) async fn stop_container(&mut self, id: String, grace: Duration, reply: Reply<()>) {
        let Some(record) = self.records.get(&id) else {
            let _ = reply.send(Err(PodError::container_not_found(&id)));
            return;
        };
        if record.exit.is_some() || (record.started_at == 0 && !self.requests.is_starting(&id)) {
            let _ = reply.send(Ok(()));
            return;
        }
        let signal = if grace.is_zero() { SIGKILL } else { record.stop_signal };
        match self.kill(&id, signal, grace.is_zero()).await {
            Ok(signalled) => self.watch_end(&id, signalled),
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        }
        self.stops.entry(id.clone()).or_default().push(reply);
        if grace.is_zero() {
            self.later(KILL_DEADLINE, Command::KillOver { container: id });
        } else {
            self.later(grace, Command::GraceOver { container: id });
        }
    }

    pub(super) async fn grace_over(&mut self, id: String) {
        if !self.is_alive(&id) {
            return;
        }
        let killed = self.kill(&id, SIGKILL, true).await;
        if let Err(error) = killed.map(|signalled| self.watch_end(&id, signalled)) {
            for waiting in self.stops.remove(&id).unwrap_or_default() {
                let _ = waiting.send(Err(error.clone()));
            }
            return;
        }
        self.later(KILL_DEADLINE, Command::KillOver { container: id });
    }

    pub(super) async fn kill_over(&mut self, id: &str) {
        if self.is_alive(id) && self.kill_cgroup(id).await {
            self.container_lost(id, true);
        }
        for waiting in self.stops.remove(id).unwrap_or_default() {
            let _ = waiting.send(Err(unkillable(id)));
        }
    }

    fn later(&self, delay: Duration, command: Command) {
        let to_self = self.to_self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(owner) = to_self.upgrade() {
                let _ = owner.send(Box::new(command)).await;
            }
        });
    }

    pub(super) async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<Signalled> {
        let Some(shim) = &self.shim else { return Ok(Signalled::ByShim) };
        let kill = Operation::Kill { container: id.into(), signal, all };
        match shim.done_within(SIGNAL_DEADLINE, "kill container", id, kill).await {
            Err(PodError::DeadlineExceeded { .. }) if !shim.is_gone() => self.kill_without_shim(id, signal, all).await,
            other => gone_is_fine(other).map(|()| Signalled::ByShim),
        }
    }

    async fn kill_without_shim(&self, id: &str, signal: i32, all: bool) -> Result<Signalled> {
        tracing::warn!(pod = %self.id, container = %id, signal, "the pod's shim does not answer: signalled without it");
        let pid = self.inner.container(id).map_or(0, |status| status.pid);
        let init = InitProcess::open(pid, &self.placement().group_of(id));
        if all && !self.kill_cgroup(id).await {
            return Err(unkillable(id));
        }
        if let (Some(init), false) = (&init, all) {
            init.signal(signal).map_err(|error| PodError::internal(format!("signal container {id}"), error))?;
        }
        // One that is not found runs on until its grace is over.
        Ok(if init.is_none() && !all { Signalled::ByShim } else { Signalled::Directly(init) })
    }

    /// Has the end of a container that was signalled without its shim told to this owner, once the shim has had its time
    /// to do so itself.
    fn watch_end(&self, id: &str, signalled: Signalled) {
        let Signalled::Directly(init) = signalled else { return };
        let (to_self, container) = (self.to_self.clone(), id.to_string());
        tokio::spawn(async move {
            let exit = end_of(init).await;
            tokio::time::sleep(SIGNAL_DEADLINE).await;
            if let Some(owner) = to_self.upgrade() {
                let _ = owner.send(Box::new(Command::EndSeen { container, exit })).await;
            }
        });
    }

    /// Kills a container and waits for its end, with its shim or without.
    pub(super) async fn end(&mut self, id: &str) -> Result<()> {
        match self.kill(id, SIGKILL, true).await? {
            Signalled::ByShim => self.wait_for_end(id).await,
            Signalled::Directly(init) => {
                let exit = end_of(init).await;
                self.end_seen(id, exit).await;
                Ok(())
            }
        }
    }

    /// The end of a container's first process, of which the shim has not told.
    pub(super) async fn end_seen(&mut self, id: &str, exit: Option<Exit>) {
        if !self.is_alive(id) {
            return;
        }
        // What it started in namespaces that are not its own goes with it, as the shim has it.
        let ended = self.kill_cgroup(id).await;
        match exit {
            Some(exit) => self.container_exited(id, exit),
            None => self.container_lost(id, ended),
        }
    }

    /// Kills what lives and waits for its end.
    pub(super) async fn end_all(&mut self) -> Result<()> {
        let alive = self.alive();
        if let Some(shim) = &self.shim {
            // One that does not answer is given up, and with it all containers at once.
            for id in &alive {
                let kill = Operation::Kill { container: id.into(), signal: SIGKILL, all: true };
                gone_is_fine(shim.done("kill container", id, kill).await)?;
            }
        }
        for id in &alive {
            self.wait_for_end(id).await?;
        }
        Ok(())
    }

    /// Takes in the shim's events until the container ended; kills its cgroup where the shim's word is not enough.
    pub(super) async fn wait_for_end(&mut self, id: &str) -> Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        while self.is_alive(id) && self.shim.is_some() {
            let message = async {
                tokio::select! {
                    biased;
                    // Before it a start may be answered, which the end waits for.
                    Some(answered) = self.requests.next() => Some(Err(answered)),
                    message = self.from_shim.recv() => message.map(Ok),
                }
            };
            match tokio::time::timeout_at(deadline, message).await {
                Ok(Some(Ok(message))) => Box::pin(self.on_shim(message)).await,
                Ok(Some(Err(answered))) => Box::pin(self.answered(answered)).await,
                Ok(None) => break,
                Err(_) if self.kill_cgroup(id).await => {
                    self.container_lost(id, true);
                }
                Err(_) => return Err(unkillable(id)),
            }
        }
        Ok(())
    }

    /// True once no process is left in the container's cgroup.
    pub(super) async fn kill_cgroup(&self, id: &str) -> bool {
        let cgroup = self.placement().group_of(id);
        tokio::task::spawn_blocking(move || cgroup.kill_all(KILL_DEADLINE)).await.unwrap_or(false)
    }
}

/// Who has passed a signal on.
pub(super) enum Signalled {
    ByShim,
    /// This daemon; with the container's first process, where it was found.
    Directly(Option<InitProcess>),
}

async fn end_of(init: Option<InitProcess>) -> Option<Exit> {
    match init {
        Some(init) => init.ended().await,
        None => None,
    }
}

/// The end of a container that is gone already is on the way.
fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(PodError::NotFound { .. } | PodError::WrongState { .. }) => Ok(()),
        other => other,
    }
}

pub(super) fn unkillable(id: &str) -> PodError {
    PodError::DeadlineExceeded {
        operation: format!("end container {id}: a process of it does not die from SIGKILL"),
        seconds: KILL_DEADLINE.as_secs(),
    }
}
