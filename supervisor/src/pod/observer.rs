//! Observers of the node: each change, in its order, together with the state of the pod right after it.
//!
//! Whoever changes a pod never waits for an observer. One that falls too far behind is cut off and told so, so that it
//! can look at everything anew; it never misses a change without knowing. Ends of containers that a new daemon finds out
//! at its start are kept for the first observer: nobody was there to be told.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::node::now;
use super::status::{ContainerStatus, Event, SandboxStatus};

/// Changes that an observer may fall behind.
const BACKLOG: usize = 8192;

/// A change, and its pod as it was then.
#[derive(Debug, Clone)]
pub struct Observed {
    pub event: Event,
    /// Unix time in nanoseconds.
    pub at: i64,
    pub sandbox: SandboxStatus,
    pub containers: Vec<ContainerStatus>,
}

/// Yields changes until it is dropped or falls too far behind.
pub struct Observer {
    changes: mpsc::Receiver<Arc<Observed>>,
}

impl Observer {
    /// `None` once this observer was cut off and has seen all that came before.
    pub async fn next(&mut self) -> Option<Arc<Observed>> {
        self.changes.recv().await
    }
}

#[derive(Default)]
pub(crate) struct Observers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    observers: Vec<mpsc::Sender<Arc<Observed>>>,
    /// Until the first observer comes.
    untold: Vec<Arc<Observed>>,
}

impl Observers {
    pub(crate) fn subscribe(&self) -> Observer {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, changes) = mpsc::channel(BACKLOG + state.untold.len());
        for observed in state.untold.drain(..) {
            // There is room for all of them.
            let _ = sender.try_send(observed);
        }
        state.observers.push(sender);
        Observer { changes }
    }

    /// `pod` looks up what is published of it, where there is somebody to show it to.
    pub(crate) fn tell(&self, event: &Event, pod: impl FnOnce() -> Option<(SandboxStatus, Vec<ContainerStatus>)>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.observers.retain(|observer| !observer.is_closed());
        if state.observers.is_empty() {
            return;
        }
        let Some((sandbox, containers)) = pod() else { return };
        let observed = Arc::new(Observed { event: event.clone(), at: now(), sandbox, containers });
        // One that is full goes; its own end of the channel says so.
        state.observers.retain(|observer| observer.try_send(observed.clone()).is_ok());
    }

    /// Keeps a change for the first observer.
    pub(crate) fn keep(&self, event: Event, at: i64, sandbox: SandboxStatus, containers: Vec<ContainerStatus>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold.push(Arc::new(Observed { event, at, sandbox, containers }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::status::SandboxState;

    fn pod() -> Option<(SandboxStatus, Vec<ContainerStatus>)> {
        let sandbox = SandboxStatus {
            id: "s".into(),
            config: crate::pod::recovery::unknown_pod().config,
            state: SandboxState::Ready,
            created_at: 1,
            addresses: Vec::new(),
            shim_pid: 0,
        };
        Some((sandbox, Vec::new()))
    }

    fn event(number: usize) -> Event {
        Event::ContainerCreated { sandbox: "s".into(), container: number.to_string() }
    }

    #[tokio::test]
    async fn a_slow_observer_is_cut_off_and_another_sees_everything() {
        let observers = Observers::default();
        let mut slow = observers.subscribe();
        for number in 0..BACKLOG {
            observers.tell(&event(number), pod);
        }
        let mut quick = observers.subscribe();
        observers.tell(&event(BACKLOG), pod);
        for number in 0..BACKLOG {
            assert_eq!(slow.next().await.unwrap().event, event(number));
        }
        assert!(slow.next().await.is_none(), "it is told that it missed something");
        assert_eq!(quick.next().await.unwrap().event, event(BACKLOG));
    }

    #[tokio::test]
    async fn what_happened_before_the_first_observer_is_told_to_it_once() {
        let observers = Observers::default();
        let (sandbox, containers) = pod().unwrap();
        observers.keep(event(1), 7, sandbox, containers);
        let mut first = observers.subscribe();
        let _second = observers.subscribe();
        assert_eq!(first.next().await.unwrap().at, 7);
        observers.tell(&event(2), pod);
        assert_eq!(first.next().await.unwrap().event, event(2));
    }
}
