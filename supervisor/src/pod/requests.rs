//! Starts and updates of a pod's containers that its shim has not answered yet. They are waited for beside all else that
//! the owner does: what hangs in one of them delays no stop, and no other container.

use std::collections::{HashMap, VecDeque};

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use wharf_specs::shim::{Exit, Operation};

use super::bundle;
use super::container::{EVENT_DEADLINE, START_ERROR_CODE, wrong_state};
use super::error::{PodError, Result};
use super::node::now;
use super::sandbox::{Owner, Reply};
use super::session::SIGKILL;
use super::shim_client::ShimClient;
use super::spec::Resources;
use super::status::ContainerState;

/// Requests in flight.
#[derive(Default)]
pub(super) struct Requests {
    starts: JoinSet<(String, Result<()>)>,
    starting: HashMap<String, Starting>,
    /// Asked for, answered and recorded in one order.
    updates: VecDeque<(Update, JoinHandle<Result<()>>)>,
}

/// A container whose start is not answered.
#[derive(Default)]
struct Starting {
    /// The first client, and those whose retries have joined it.
    replies: Vec<Reply<()>>,
    /// Its end, of which the shim told before the answer.
    exit: Option<Exit>,
}

/// A change of limits.
pub(super) struct Update {
    container: String,
    resources: Resources,
    reply: Reply<()>,
}

/// What the shim has answered.
pub(super) enum Answered {
    Start(String, Result<()>),
    Update(Box<Update>, Result<()>),
}

impl Requests {
    /// The next answer, or `None` where nothing was asked for.
    pub(super) async fn next(&mut self) -> Option<Answered> {
        tokio::select! {
            biased;
            // No task is aborted, and none panics.
            Some(Ok((container, outcome))) = self.starts.join_next() => Some(Answered::Start(container, outcome)),
            Some((update, outcome)) = next_update(&mut self.updates) => Some(Answered::Update(Box::new(update), outcome)),
            else => None,
        }
    }

    pub(super) fn is_starting(&self, container: &str) -> bool {
        self.starting.contains_key(container)
    }

    /// Keeps the end of a container until its start is answered, as that says whether it ever ran; gives it back if
    /// nothing of it is being started.
    pub(super) fn keep_exit(&mut self, container: &str, exit: Exit) -> Option<Exit> {
        match self.starting.get_mut(container) {
            Some(starting) => {
                starting.exit = Some(exit);
                None
            }
            None => Some(exit),
        }
    }
}

/// Loses nothing where it is given up before it is done.
async fn next_update(updates: &mut VecDeque<(Update, JoinHandle<Result<()>>)>) -> Option<(Update, Result<()>)> {
    let (update, outcome) = updates.front_mut()?;
    let broken = |error| PodError::internal(format!("update container {}", update.container), error);
    let outcome = outcome.await.map_err(broken).flatten();
    updates.pop_front().map(|(update, _)| (update, outcome))
}

impl Owner {
    /// Answers once the container runs. A second request while it is being started joins the first.
    pub(super) fn start_container(&mut self, id: String, reply: Reply<()>) {
        if let Some(starting) = self.requests.starting.get_mut(&id) {
            tracing::debug!(pod = %self.id, container = %id, "joins the start under way");
            return starting.replies.push(reply);
        }
        let begun = self.start_operation(&id).and_then(|(shim, start)| shim.begin_done("start container", &id, start));
        let outcome = match begun {
            Ok(outcome) => outcome,
            Err(error) => return drop(reply.send(Err(error))),
        };
        self.requests.starting.insert(id.clone(), Starting { replies: vec![reply], exit: None });
        self.requests.starts.spawn(async move { (id, outcome.await) });
    }

    /// What the shim is asked for to start a container.
    fn start_operation(&self, id: &str) -> Result<(ShimClient, Operation)> {
        let state = self.inner.container(id)?.state;
        if state != ContainerState::Created {
            return Err(wrong_state(id, state, "a created one"));
        }
        let shim = self.shim.clone().ok_or_else(|| wrong_state(id, state, "one of a ready pod sandbox"))?;
        let start = match self.records.get(id) {
            Some(record) if record.waits_for_restore() => self.restore_operation(id, record)?,
            _ => Operation::Start { container: id.into() },
        };
        Ok((shim, start))
    }

    /// Answers once the limits are set.
    pub(super) fn update_container(&mut self, id: String, resources: Resources, reply: Reply<()>) {
        let asked = self.update_operation(&id, &resources);
        match asked.and_then(|(shim, update)| shim.begin_done("update container", &id, update)) {
            Ok(outcome) => {
                let update = Update { container: id, resources, reply };
                self.requests.updates.push_back((update, tokio::spawn(outcome)));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn update_operation(&self, id: &str, resources: &Resources) -> Result<(ShimClient, Operation)> {
        let state = self.inner.container(id)?.state;
        if !matches!(state, ContainerState::Created | ContainerState::Running) {
            return Err(wrong_state(id, state, "a created or running one"));
        }
        if self.records.get(id).is_some_and(|record| record.waits_for_restore()) {
            return Err(wrong_state(id, state, "one whose checkpoint is restored"));
        }
        let Some(shim) = self.shim.clone() else { return Err(wrong_state(id, state, "one with a shim")) };
        let resources = Box::new(bundle::linux_resources(resources)?);
        Ok((shim, Operation::Update { container: id.into(), resources }))
    }

    /// Takes in what the shim has answered, and tells those who wait for it.
    pub(super) async fn answered(&mut self, answered: Answered) {
        match answered {
            Answered::Start(container, outcome) => self.start_answered(&container, outcome).await,
            Answered::Update(update, outcome) => {
                let Update { container, resources, reply } = *update;
                if outcome.is_ok() {
                    self.record_limits(&container, &resources);
                }
                let _ = reply.send(outcome);
            }
        }
    }

    /// Waits for every answer that is due. Whoever ends the pod has hurried the shim before.
    pub(super) async fn finish_requests(&mut self) {
        while let Some(answered) = self.requests.next().await {
            self.answered(answered).await;
        }
    }

    async fn start_answered(&mut self, id: &str, outcome: Result<()>) {
        let Some(Starting { replies, exit }) = self.requests.starting.remove(id) else { return };
        let outcome = match outcome {
            // It was removed meanwhile.
            _ if !self.records.contains_key(id) => Err(PodError::container_not_found(id)),
            Ok(()) => {
                self.await_start_event(id).await;
                Ok(())
            }
            Err(error) => {
                let _ = self.kill(id, SIGKILL, true).await;
                let exit = Exit {
                    code: START_ERROR_CODE,
                    signal: None,
                    oom_killed: false,
                    oom_origin: None,
                    finished_at: now(),
                };
                self.container_ended(id, exit, Some(("StartError".into(), error.to_string())));
                Err(error)
            }
        };
        if let Some(exit) = exit {
            self.container_exited(id, exit);
        }
        for reply in replies {
            let _ = reply.send(outcome.clone());
        }
    }

    /// The shim's own word of a start is on its way with the answer, and has the exact time.
    async fn await_start_event(&mut self, id: &str) {
        self.drop_images(id);
        let waits =
            |owner: &Self| owner.records.get(id).is_some_and(|record| record.started_at == 0 && record.exit.is_none());
        let deadline = Instant::now() + EVENT_DEADLINE;
        while waits(self) {
            match tokio::time::timeout_at(deadline, self.from_shim.recv()).await {
                Ok(Some(message)) => Box::pin(self.on_shim(message)).await,
                _ => break,
            }
        }
        if waits(self) {
            self.container_started(id, 0, now());
        }
    }
}
