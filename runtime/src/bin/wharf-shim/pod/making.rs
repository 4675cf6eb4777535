//! How containers come into a pod: made, or restored from a checkpoint; and how checkpoints are written.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use wharf_runtime::ContainerId;
use wharf_runtime::bundle::Bundle;
use wharf_specs::oci::{LinuxNamespaceType, Spec};
use wharf_specs::shim::{
    Answer, CheckpointContainer, ContainerPhase, CreateContainer, Event, Failure, FailureKind, PodNamespace,
    RestoreContainer,
};
use wharf_sys::event::EPOLLIN;

use super::{Outcome, Performed, Pod, internal, wrong_state};
use crate::checkpoint::Checkpoint;
use crate::container::PodContainer;
use crate::create;
use crate::foreign::path_for_others;
use crate::server::{Asker, Source, Watch, failure};

impl Pod {
    pub(super) fn create(&mut self, watch: &mut Watch, request: CreateContainer) -> Performed {
        let (id, bundle, _target) = self.prepare(&request)?;
        let container = create::container(id, &request, bundle, &self.setup, self.foreign.as_ref())?;
        let pid = container.runtime.pid() as u32;
        self.take_in(watch, container)?;
        Ok(Answer::Created { pid }.into())
    }

    pub(super) fn restore(&mut self, watch: &mut Watch, request: RestoreContainer) -> Performed {
        if self.foreign.is_some() {
            return Err(failure(FailureKind::Invalid, "a pod with a runtime handler cannot restore containers"));
        }
        let (id, bundle, _target) = self.prepare(&request.create)?;
        let container = create::restored(id, &request, &bundle, self.setup.cgroup_driver)?;
        let (pid, at) = (container.runtime.pid() as u32, container.started_at);
        let event = Event::Started { container: container.id.clone(), pid, at };
        self.take_in(watch, container)?;
        Ok(Outcome { answer: Some(Answer::Created { pid }), descriptors: Vec::new(), event: Some(event) })
    }

    /// The bundle with the namespaces that the container joins. The descriptor keeps one of them until it has: a pid alone
    /// might be another's by then.
    fn prepare(&mut self, request: &CreateContainer) -> Result<(ContainerId, Bundle, Option<OwnedFd>), Failure> {
        let invalid = |error: &dyn std::fmt::Display| failure(FailureKind::Invalid, error);
        let id = ContainerId::parse(&request.id).map_err(|error| invalid(&error))?;
        if self.containers.contains_key(id.as_str()) {
            let message = format_args!("pod {} has a container {id} already", self.setup.id);
            return Err(failure(FailureKind::AlreadyExists, message));
        }
        let mut bundle = Bundle::load(&request.bundle).map_err(|error| invalid(&error))?;
        self.join_namespaces(&mut bundle.spec, &request.join)?;
        let target = match &request.pid_of {
            Some(target) => Some(self.pid_namespace_of(target)?),
            None => None,
        };
        if let Some(namespace) = &target {
            create::join(&mut bundle.spec, LinuxNamespaceType::Pid, path_for_others(namespace.as_fd()))?;
        }
        Ok((id, bundle, target))
    }

    fn take_in(&mut self, watch: &mut Watch, container: PodContainer) -> Result<(), Failure> {
        watch_container(watch, &container).map_err(internal)?;
        self.containers.insert(container.id.clone(), Box::new(container));
        Ok(())
    }

    pub(super) fn checkpoint(
        &mut self,
        watch: &mut Watch,
        asker: Asker,
        request: CheckpointContainer,
        socket: Option<OwnedFd>,
    ) -> Performed {
        let Some(socket) = socket else {
            return Err(failure(FailureKind::Invalid, "a checkpoint needs a socket"));
        };
        let container = self.find(&request.container)?;
        if container.phase != ContainerPhase::Running {
            return Err(wrong_state(container, "write a checkpoint of"));
        }
        let id = container.id.clone();
        let mut spec = Bundle::load(&container.bundle).map_err(internal)?.spec;
        let joined = container.joined.clone();
        self.join_namespaces(&mut spec, &joined)?;
        if self.checkpoints.contains_key(&id) {
            let message = format_args!("cannot write a checkpoint of container {id}: one is being written");
            return Err(failure(FailureKind::WrongState, message));
        }
        let container = self.find(&id)?;
        if container.shares_pid {
            let pid = format!("/proc/{}/ns/pid", container.runtime.pid());
            create::join(&mut spec, LinuxNamespaceType::Pid, pid.into())?;
        }
        let checkpoint = Checkpoint::start(asker, container, &spec, &request, socket)?;
        watch.add(checkpoint.pidfd(), Source::Checkpoint { container: id.clone() }, EPOLLIN).map_err(internal)?;
        self.checkpoints.insert(id, checkpoint);
        Ok(Outcome { answer: None, descriptors: Vec::new(), event: None })
    }

    /// Who waits for the checkpoint, and what became of it.
    pub(crate) fn checkpoint_ended(
        &mut self,
        watch: &mut Watch,
        id: &str,
        token: u64,
    ) -> Option<(Asker, Result<Answer, Failure>)> {
        let checkpoint = self.checkpoints.remove(id)?;
        watch.remove(checkpoint.pidfd(), token);
        Some(checkpoint.finish())
    }

    /// Of a container that lives. It is this process' child and not reaped before its end was taken note of, so that
    /// its pid is still its own.
    fn pid_namespace_of(&mut self, id: &str) -> Result<OwnedFd, Failure> {
        let container = self.find(id)?;
        if container.phase == ContainerPhase::Exited {
            return Err(wrong_state(container, "share the PID namespace of"));
        }
        let path = format!("/proc/{}/ns/pid", container.runtime.pid());
        let namespace = std::fs::File::open(&path).map_err(|error| internal(format_args!("open {path}: {error}")))?;
        Ok(namespace.into())
    }

    /// Puts the pod's namespaces in the place of the container's own.
    fn join_namespaces(&self, spec: &mut Spec, wanted: &[PodNamespace]) -> Result<(), Failure> {
        for &namespace in wanted {
            let typ = match namespace {
                PodNamespace::User => LinuxNamespaceType::User,
                PodNamespace::Network => LinuxNamespaceType::Network,
                PodNamespace::Ipc => LinuxNamespaceType::Ipc,
                PodNamespace::Uts => LinuxNamespaceType::Uts,
                PodNamespace::Pid => LinuxNamespaceType::Pid,
            };
            let path = self.sandbox.path(namespace).ok_or_else(|| {
                let message = format_args!("pod {} has no {namespace:?} namespace of its own", self.setup.id);
                failure(FailureKind::Invalid, message)
            })?;
            create::join(spec, typ, path)?;
        }
        Ok(())
    }
}

fn watch_container(watch: &mut Watch, container: &PodContainer) -> io::Result<()> {
    let id = &container.id;
    watch.add(container.runtime.pidfd(), Source::Init { container: id.clone() }, EPOLLIN)?;
    for (stream, fd) in container.stdio.watched() {
        watch.add(fd, Source::Output { container: id.clone(), stream }, EPOLLIN)?;
    }
    Ok(())
}
