//! A container from its bundle: by the runtime in this process or by another, with the shim's ends of its streams.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wharf_runtime::bundle::Bundle;
use wharf_runtime::checkpoint::RestoreRequest;
use wharf_runtime::{CgroupDriver, Container, ContainerId, CreateRequest, Rootfs};
use wharf_specs::oci::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use wharf_specs::shim::{self, ContainerPhase, CreateContainer, Failure, FailureKind, RestoreContainer, SandboxSetup};
use wharf_sys::process;

use crate::container::{PodContainer, Stdio, no_stdin, open_log};
use crate::cri_log::CriLog;
use crate::engine::Engine;
use crate::exit_record;
use crate::foreign::{ForeignRuntime, Streams};
use crate::pod::internal;
use crate::server::failure;

pub(crate) fn container(
    id: ContainerId,
    request: &CreateContainer,
    bundle: Bundle,
    setup: &SandboxSetup,
    foreign: Option<&ForeignRuntime>,
) -> Result<PodContainer, Failure> {
    let streams = ContainerStreams::open(request, &bundle.spec)?;
    let name = id.to_string();
    let owns_pid_namespace = owns_pid_namespace(&bundle.spec);
    let runtime = match foreign {
        Some(foreign) => {
            let rootfs = rootfs(&request.rootfs, &bundle)?;
            let created = foreign.create(&name, &bundle.path, bundle.spec, &rootfs, streams.theirs);
            Engine::Foreign(Box::new(created.map_err(|error| failure(FailureKind::Invalid, error))?))
        }
        None => {
            let usual = CreateRequest::new(id, &bundle.path, &bundle.spec, rootfs(&request.rootfs, &bundle)?);
            let create = CreateRequest {
                stdio: streams.theirs.into_stdio(),
                cgroup_driver: setup.cgroup_driver,
                seccomp_cache: setup.seccomp_cache.as_deref(),
                ..usual
            };
            let created = Container::create(create).map_err(|error| failure(FailureKind::Invalid, error))?;
            Engine::Own(Box::new(created))
        }
    };
    assemble(name, request, runtime, streams.ours, streams.log, owns_pid_namespace)
}

/// For criu to restore a container; the pod's other containers wait meanwhile.
const RESTORE_LIMIT: Duration = Duration::from_secs(100);

/// One that runs on where its checkpoint was written.
pub(crate) fn restored(
    id: ContainerId,
    request: &RestoreContainer,
    bundle: &Bundle,
    cgroup_driver: CgroupDriver,
) -> Result<PodContainer, Failure> {
    let create = &request.create;
    let streams = ContainerStreams::open(create, &bundle.spec)?;
    let name = id.to_string();
    let root = rootfs(&create.rootfs, bundle)?;
    let usual = RestoreRequest::new(id, &bundle.path, &bundle.spec, root, &bundle.path, &request.images);
    let restore = RestoreRequest {
        stdio: streams.theirs.into_stdio(),
        cgroup_driver,
        work: Some(&bundle.path),
        deadline: Some(Instant::now() + RESTORE_LIMIT),
        ..usual
    };
    let restored = Container::restore(restore).map_err(|error| failure(FailureKind::Invalid, error))?;
    let runtime = Engine::Own(Box::new(restored));
    let mut container = assemble(name, create, runtime, streams.ours, streams.log, owns_pid_namespace(&bundle.spec))?;
    container.phase = ContainerPhase::Running;
    container.started_at = container.created_at;
    Ok(container)
}

/// Both sides of a container's streams, or none of ours where a terminal is to come.
struct ContainerStreams {
    theirs: Streams,
    ours: Option<Stdio>,
    log: Option<CriLog>,
}

impl ContainerStreams {
    fn open(request: &CreateContainer, spec: &Spec) -> Result<Self, Failure> {
        let log = request.log.as_deref().map(open_log).transpose().map_err(|error| {
            let path = request.log.clone().unwrap_or_default();
            failure(FailureKind::Internal, format_args!("open log {}: {error}", path.display()))
        })?;
        let tty = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        let (theirs, ours) = if tty { (Streams::Terminal, None) } else { pipes(request.stdin)? };
        Ok(Self { theirs, ours, log })
    }
}

fn assemble(
    id: String,
    request: &CreateContainer,
    mut runtime: Engine,
    ours: Option<Stdio>,
    log: Option<CriLog>,
    owns_pid_namespace: bool,
) -> Result<PodContainer, Failure> {
    let mut stdio = match (ours, runtime.take_terminal()) {
        (Some(stdio), _) => stdio,
        (None, Some(master)) => Stdio::terminal(master).map_err(internal)?,
        (None, None) => return Err(internal("the runtime made no terminal")),
    };
    stdio.log = log;
    stdio.stdin_once = request.stdin_once;
    Ok(PodContainer {
        id,
        bundle: request.bundle.clone(),
        phase: ContainerPhase::Created,
        owns_pid_namespace,
        joined: request.join.clone(),
        shares_pid: request.pid_of.is_some(),
        runtime,
        created_at: exit_record::now(),
        started_at: 0,
        exit: None,
        execs: HashMap::new(),
        stdio,
    })
}

/// Has the container join the namespace at `path` in place of one of its own.
pub(crate) fn join(spec: &mut Spec, typ: LinuxNamespaceType, path: PathBuf) -> Result<(), Failure> {
    let Some(mut linux) = spec.linux().clone() else {
        return Err(failure(FailureKind::Invalid, "config.json: linux is missing"));
    };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|existing| existing.typ() != typ);
    namespaces.push(LinuxNamespaceBuilder::default().typ(typ).path(path).build().map_err(internal)?);
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
    Ok(())
}

fn rootfs(rootfs: &shim::Rootfs, bundle: &Bundle) -> Result<Rootfs, Failure> {
    Ok(match rootfs {
        shim::Rootfs::Bundle => Rootfs::Path(bundle.rootfs().map_err(|error| failure(FailureKind::Invalid, error))?),
        shim::Rootfs::Overlay { lower, upper, work } => {
            Rootfs::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() }
        }
    })
}

fn owns_pid_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|all| {
        all.iter().any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().as_deref().is_none_or(|p| p == Path::new("")))
    })
}

/// Both sides of a container's three streams.
fn pipes(stdin: bool) -> Result<(Streams, Option<Stdio>), Failure> {
    let make = || -> io::Result<_> {
        let (stdin_theirs, stdin_ours) = if stdin {
            let (read, write) = process::pipe()?;
            (read, Some(write))
        } else {
            (no_stdin()?, None)
        };
        let (stdout_ours, stdout) = process::pipe()?;
        let (stderr_ours, stderr) = process::pipe()?;
        let ours = Stdio::pipes(stdin_ours, [stdout_ours, stderr_ours])?;
        Ok((Streams::Descriptors([stdin_theirs, stdout, stderr]), Some(ours)))
    };
    make().map_err(internal)
}
