//! Writing a container's checkpoint. The container stands still from the dump of its processes until its changed files are
//! copied too, so that both are of the same moment, and then runs on.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wharf_images::Store;
use wharf_specs::shim::{AT_REST, CHECKPOINT_VERSION, CheckpointContainer, Operation};

use super::archive::{Archive, nobody_waits};
use super::patience::Patience;
use super::{CHANGES, CONFIG_DUMP, DELETED, IMAGES, Metadata, SPEC_DUMP};
use crate::pod::container::wrong_state;
use crate::pod::error::{PodError, Result, chain};
use crate::pod::node::Inner;
use crate::pod::record::read_json;
use crate::pod::shim_client::ShimClient;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxStatus};

/// Beside the container's writable layer: what is on its way into an archive.
pub(crate) const STAGING: &str = "checkpoint.new";

/// What the shim may need beyond the client's time to undo what it has begun.
const UNDO: Duration = Duration::from_secs(20);

/// Writes the archive of a running container to `location`.
pub(crate) async fn write(inner: Arc<Inner>, id: String, location: PathBuf, timeout: Duration) -> Result<()> {
    check_location(&location)?;
    let dump = Dump::prepare(inner, &id, location)?;
    let (shim, patience) = (dump.shim.clone(), dump.patience.clone());
    let work = dump.run(timeout);
    tokio::pin!(work);
    let operation = format!("write checkpoint of container {id}");
    let error = tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(timeout) => PodError::DeadlineExceeded { operation, seconds: timeout.as_secs() },
        () = shim.ending() => PodError::internal(operation, "its pod is being stopped"),
    };
    // What is about to be in its place is done.
    if patience.give_up() { Err(error) } else { work.await }
}

fn check_location(location: &Path) -> Result<()> {
    let refuse = |reason: String| Err(PodError::invalid("location", format!("{}: {reason}", location.display())));
    match (location.parent(), location.file_name()) {
        _ if !location.is_absolute() => refuse("is no absolute path".into()),
        (Some(folder), Some(_)) if !folder.is_dir() => refuse(format!("there is no directory {}", folder.display())),
        (Some(_), Some(_)) if location.is_dir() => refuse("is a directory, expected the name of a file".into()),
        (Some(_), Some(_)) => Ok(()),
        _ => refuse("names no file".into()),
    }
}

struct Dump {
    status: ContainerStatus,
    pod: SandboxStatus,
    /// With the container's `config.json`.
    bundle: PathBuf,
    shim: ShimClient,
    store: Store,
    location: PathBuf,
    staging: Arc<Staging>,
    /// Over when nobody waits any more, for those who work on other threads.
    patience: Arc<Patience>,
}

/// Gives up when it is dropped.
struct GiveUp(Arc<Patience>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Dump {
    fn prepare(inner: Arc<Inner>, id: &str, location: PathBuf) -> Result<Self> {
        let status = inner.container(id)?;
        if status.state != ContainerState::Running {
            return Err(wrong_state(id, status.state, "a running one"));
        }
        let (pod, _) = inner.published(&status.sandbox).ok_or_else(|| PodError::sandbox_not_found(&status.sandbox))?;
        let refuse = |reason: &str| Err(PodError::invalid("container_id", format!("container {id}: {reason}")));
        if pod.config.user_namespace.is_some() {
            return refuse("its pod has a user namespace; the mapped mounts of such a pod cannot be restored");
        }
        if !pod.config.runtime_handler.is_empty() {
            return refuse("its pod has a runtime handler; checkpoints are written by the built-in runtime alone");
        }
        let shim = inner.shim_of(&status)?;
        if shim.protocol() < CHECKPOINT_VERSION {
            return refuse("its pod's shim is older than this wharfd and cannot do it: make the pod anew");
        }
        let store = inner.options.store.clone();
        let mount = store.snapshot(id).map_err(|error| PodError::internal("find writable layer", chain(&error)))?;
        let mount = mount.ok_or_else(|| PodError::internal("find writable layer", format!("{id} has none")))?;
        let bundle = inner.pod_dir(&status.sandbox).container(id);
        let staging = Arc::new(Staging::create(inner, id, mount.writable().with_file_name(STAGING))?);
        Ok(Self { status, pod, bundle, shim, store, location, staging, patience: Arc::default() })
    }

    async fn run(self, timeout: Duration) -> Result<()> {
        let _give_up = GiveUp(self.patience.clone());
        let failed = |error: io::Error| PodError::internal(self.operation(), error);
        let (ours, theirs) = Socket::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let mut ours = UnixStream::from_std(ours).map_err(failed)?;
        let dumped = self.ask_shim(theirs, timeout);
        let mut byte = [0];
        let at_rest = matches!(ours.read(&mut byte).await, Ok(1)) && byte == [AT_REST];
        let mut deleted = Vec::new();
        if at_rest {
            deleted = self.copy_changes().await?;
            ours.write_all(&[AT_REST]).await.map_err(failed)?;
        }
        let done = dumped.await.map_err(|error| PodError::internal(self.operation(), error))?;
        done?;
        if !at_rest {
            return Err(PodError::internal(self.operation(), "the shim did not say when the container was at rest"));
        }
        let operation = self.operation();
        let written = tokio::task::spawn_blocking(move || self.write_archive(&deleted)).await;
        written
            .map_err(|error| PodError::internal(&operation, error))?
            .map_err(|error| PodError::internal(&operation, error))
    }

    fn operation(&self) -> String {
        format!("write checkpoint of container {}", self.status.id)
    }

    /// On a task of its own: what criu writes to is kept until it has ended, whoever waits for that.
    fn ask_shim(&self, socket: Socket, timeout: Duration) -> tokio::task::JoinHandle<Result<()>> {
        let (shim, id, staging) = (self.shim.clone(), self.status.id.clone(), self.staging.clone());
        let request = CheckpointContainer {
            container: id.clone(),
            images: staging.path.join(IMAGES),
            work: staging.path.clone(),
            seconds: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
        };
        tokio::spawn(async move {
            let operation = Operation::Checkpoint(request);
            let limit = timeout.saturating_add(UNDO);
            let answer =
                shim.request_beside(limit, "write checkpoint of container", &id, operation, vec![socket.into()]);
            let done = answer.await.map(drop);
            drop(staging);
            done
        })
    }

    async fn copy_changes(&self) -> Result<Vec<u8>> {
        let (store, id, patience) = (self.store.clone(), self.status.id.clone(), self.patience.clone());
        let staging = self.staging.clone();
        let copy = move || -> Result<Vec<u8>, String> {
            let file = File::create(staging.path.join(CHANGES)).map_err(|error| error.to_string())?;
            let mut output = Wanted { output: BufWriter::new(file), patience: &patience };
            let deleted = store.write_changes(&id, &mut output).map_err(|error| chain(&error))?;
            output.flush().map_err(|error| error.to_string())?;
            let deleted: Vec<_> = deleted.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
            serde_json::to_vec(&deleted).map_err(|error| error.to_string())
        };
        let copied = tokio::task::spawn_blocking(copy).await;
        copied
            .map_err(|error| PodError::internal(self.operation(), error))?
            .map_err(|error| PodError::internal(self.operation(), error))
    }

    fn write_archive(&self, deleted: &[u8]) -> io::Result<()> {
        let staging = &self.staging.path;
        let mut archive = Archive::create(&self.location, &self.patience)?;
        archive.text(CONFIG_DUMP, &serde_json::to_vec_pretty(&self.metadata())?)?;
        archive.text(SPEC_DUMP, &serde_json::to_vec(&self.spec()?)?)?;
        archive.directory(IMAGES, &staging.join(IMAGES))?;
        archive.file(CHANGES, &staging.join(CHANGES))?;
        archive.text(DELETED, deleted)?;
        for name in ["dump.log", "stats-dump"] {
            archive.file(name, &staging.join(name))?;
        }
        archive.finish()
    }

    fn metadata(&self) -> Metadata {
        let (config, pod) = (&self.status.config, &self.pod.config.name);
        let time = |at: i64| Timestamp::from_nanosecond(at.into()).unwrap_or_default().to_string();
        Metadata {
            id: self.status.id.clone(),
            name: format!("k8s_{}_{}_{}_{}_{}", config.name, pod.name, pod.namespace, pod.uid, config.attempt),
            rootfs_image: config.user_image.clone(),
            rootfs_image_ref: self.status.image_id.clone(),
            rootfs_image_name: config.image.clone(),
            runtime: "runw".into(),
            created_time: time(self.status.created_at),
            checkpointed_time: time(crate::pod::now()),
            // Never, as a reader written in Go has it.
            restored_time: "0001-01-01T00:00:00Z".into(),
            restored: false,
        }
    }

    /// With the annotations by which `checkpointctl` names the container.
    fn spec(&self) -> io::Result<Value> {
        let mut spec: Value = read_json(&self.bundle.join("config.json"))?;
        let (config, pod) = (&self.status.config, &self.pod.config.name);
        if !spec["annotations"].is_object() {
            spec["annotations"] = json!({});
        }
        for (name, value) in [
            ("container-name", config.name.as_str()),
            ("container-type", "container"),
            ("image-name", config.image.as_str()),
            ("sandbox-id", self.status.sandbox.as_str()),
            ("sandbox-name", pod.name.as_str()),
            ("sandbox-namespace", pod.namespace.as_str()),
            ("sandbox-uid", pod.uid.as_str()),
        ] {
            spec["annotations"][format!("io.kubernetes.cri.{name}")] = value.into();
        }
        Ok(spec)
    }
}

/// A writer that fails once nobody waits for what is written.
struct Wanted<'a, W> {
    output: W,
    patience: &'a Patience,
}

impl<W: Write> Write for Wanted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.patience.is_over() {
            true => Err(nobody_waits()),
            false => self.output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The directory of one checkpoint on its way, which is the only one of its container. Removed with the last user.
struct Staging {
    inner: Arc<Inner>,
    container: String,
    path: PathBuf,
}

impl Staging {
    fn create(inner: Arc<Inner>, container: &str, path: PathBuf) -> Result<Self> {
        let mut all = inner.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.insert(container.into()) {
            return Err(PodError::WrongState {
                what: "container",
                id: container.into(),
                state: "having a checkpoint written".into(),
                wanted: "one without that",
            });
        }
        drop(all);
        // From here on, dropping it undoes all.
        let staging = Self { inner, container: container.into(), path };
        let make = || {
            crate::removal::remove_tree(&staging.path)?;
            std::fs::DirBuilder::new().mode(0o700).create(&staging.path)
        };
        make().map_err(|error| PodError::internal(format!("create {}", staging.path.display()), error))?;
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = crate::removal::remove_tree(&self.path) {
            tracing::warn!(container = %self.container, %error, "remove {}", self.path.display());
        }
        self.inner.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.container);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_needs_a_place_that_can_be_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_location(&folder.path().join("c.tar")).is_ok());
        for (place, words) in [
            ("c.tar", "is no absolute path"),
            ("/", "names no file"),
            ("/no/such/c.tar", "there is no directory /no/such"),
            (folder.path().to_str().unwrap(), "is a directory"),
        ] {
            let error = check_location(Path::new(place)).unwrap_err().to_string();
            assert!(error.starts_with("location: ") && error.contains(words), "{error}");
        }
    }
}
