//! Pulling an image: one HEAD if it is present, else manifest, config, and the missing layers in parallel.

mod error;
mod plan;
mod shared_blob;
mod transfer;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{FutureExt, WeakShared};

pub use error::PullError;
use plan::Plan;
use shared_blob::SharedBlob;
pub(crate) use shared_blob::SharedBlobs;
pub(crate) use transfer::receive;

use crate::adopt;
use crate::artifact;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::image::{ConfigDocument, Image};
use crate::layout::{Needed, PublishError, Session};
use crate::manifest::Platform;
use crate::progress::{ProgressFn, ProgressHub};
use crate::reference::Reference;
use crate::registry;
use crate::store::{REF_NAME, Store, StoreError, annotation, set_name};

/// Publishing is repeated this often when someone removes a shared layer at the same moment.
const PUBLISH_TRIES: u32 = 3;

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// What to choose from an index; `None` for this machine's own.
    pub platform: Option<Platform>,
    /// Bring the images of all other platforms too, without unpacking them: the index can be pushed or saved whole.
    pub all_platforms: bool,
    /// What the registry is shown; `None` for what the store's keychain has for it.
    pub credentials: Option<Credentials>,
    /// Speak HTTP without TLS to a registry that is not on this machine.
    pub plain_http: bool,
    pub progress: Option<ProgressFn>,
}

type Outcome = Result<Image, Arc<PullError>>;
type Flying = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Pulls under way, so that the second of two equal ones waits for the first.
#[derive(Default)]
pub(crate) struct Flights(Mutex<Vec<Flight>>);

struct Flight {
    key: FlightKey,
    pull: WeakShared<Flying>,
    progress: ProgressHub,
}

/// Credentials belong to it: nobody gets an image on someone else's.
#[derive(PartialEq, Eq)]
struct FlightKey {
    reference: Reference,
    platform: Platform,
    all_platforms: bool,
    credentials: Option<Credentials>,
    plain_http: bool,
}

impl Store {
    /// Pulls `reference` and names it. Pulls of the same reference that run at the same time in this process are
    /// one, and of different references each blob is transferred once. Dropping all their futures cancels a pull; of
    /// it stay the layers that were complete, until the next one wants them or an image is removed.
    ///
    /// An image that is present costs one HEAD request.
    pub async fn pull(&self, reference: &Reference, options: PullOptions) -> Outcome {
        let pull = {
            let key = FlightKey {
                reference: reference.clone(),
                platform: options.platform.unwrap_or_else(Platform::host),
                all_platforms: options.all_platforms,
                credentials: options.credentials,
                plain_http: options.plain_http,
            };
            let mut flights = self.inner.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|flight| flight.pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
            let joined = flights
                .iter()
                .find(|flight| flight.key == key)
                .and_then(|flight| Some((flight.pull.upgrade()?, flight.progress.clone())));
            match joined {
                Some((pull, progress)) => {
                    progress.add(options.progress);
                    pull
                }
                None => {
                    let progress = ProgressHub::default();
                    progress.add(options.progress);
                    let job = Pull {
                        store: self.clone(),
                        reference: key.reference.clone(),
                        platform: key.platform.clone(),
                        all_platforms: key.all_platforms,
                        credentials: key.credentials.clone(),
                        plain_http: key.plain_http,
                        progress: progress.clone(),
                        wanted: Mutex::default(),
                    };
                    let run = async move { job.run().await.map_err(Arc::new) };
                    let pull = (Box::pin(run) as Flying).shared();
                    flights.extend(pull.downgrade().map(|pull| Flight { key, pull, progress }));
                    pull
                }
            }
        };
        pull.await
    }
}

struct Pull {
    store: Store,
    reference: Reference,
    platform: Platform,
    all_platforms: bool,
    credentials: Option<Credentials>,
    plain_http: bool,
    progress: ProgressHub,
    /// Kept to the end, so that others who want them find them.
    wanted: Mutex<Vec<Arc<SharedBlob>>>,
}

/// A session that is cleared away where it may take a while, whether the pull ends or is dropped.
struct Clearing(Option<Arc<Session>>);

impl Clearing {
    async fn done(mut self) -> Result<(), tokio::task::JoinError> {
        let session = self.0.take();
        tokio::task::spawn_blocking(move || drop(session)).await
    }
}

impl Drop for Clearing {
    fn drop(&mut self) {
        if let (Some(session), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(session));
        }
    }
}

impl Pull {
    async fn run(self) -> Result<Image, PullError> {
        let inner = &self.store.inner;
        let remote = registry::Session::open(
            &inner.registry,
            &self.reference,
            &registry::Purpose::Pull,
            (&inner.registries, self.plain_http),
            (&inner.keychain, self.credentials.as_ref()),
        )
        .map_err(|source| PullError::Setup { reference: self.reference.to_string(), source: Box::new(source) })?;
        if let Some(image) = self.present(&remote).await? {
            return Ok(image);
        }
        let mut plan = self.plan(&remote).await?;
        if self.all_platforms {
            self.whole(&remote, &mut plan).await?;
        }
        let session = self.blocking("begin", |store| store.inner.layout.session()).await?;
        let session = Arc::new(session);
        let clearing = Clearing(Some(session.clone()));
        // Declared behind it, so dropped before: the last one is dropped where it may take a while.
        let session = session;
        let outcome = self.fill(&remote, &plan, &session).await;
        if outcome.as_ref().is_err_and(|error| !error.is_interruption()) {
            session.keep_nothing();
        }
        drop(session);
        clearing.done().await.map_err(|error| self.io("clean up")(io::Error::other(error)))?;
        outcome
    }

    /// Says that `digest` is wanted, until this pull's end.
    fn want(&self, digest: Digest) -> Arc<SharedBlob> {
        let blob = self.store.inner.shared_blobs.want(digest);
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push(blob.clone());
        blob
    }

    async fn fill(
        &self,
        remote: &registry::Session<'_>,
        plan: &Plan,
        session: &Arc<Session>,
    ) -> Result<Image, PullError> {
        for (digest, bytes) in &plan.documents {
            session.write_blob(digest, bytes).map_err(self.io("write manifest"))?;
        }
        for _ in 0..PUBLISH_TRIES {
            self.fetch_layers(remote, plan, session).await?;
            if let Some(artifact) = &plan.artifact {
                artifact::make_snapshot(session, &plan.manifest.digest, artifact).map_err(|source| {
                    PullError::Artifact { reference: self.reference.to_string(), source: Box::new(source) }
                })?;
            }
            if self.publish(plan, session).await? {
                return self.named(plan);
            }
        }
        Err(PullError::Removed { reference: self.reference.to_string() })
    }

    /// The image, if the reference still leads to what the store has.
    async fn present(&self, remote: &registry::Session<'_>) -> Result<Option<Image>, PullError> {
        let entries = self.store.inner.entries().map_err(self.store_failed())?;
        let name = self.reference.to_string();
        let Some(entry) = entries.iter().find(|entry| annotation(entry, REF_NAME) == Some(&name)) else {
            return Ok(None);
        };
        let Some(local) = crate::store::repo_digest_target(entry) else {
            return Ok(None);
        };
        if remote.head_manifest().await? != Some(local) {
            return Ok(None);
        }
        let Ok(documents) = self.store.inner.documents(&entry.digest) else {
            return Ok(None);
        };
        // Asked for another platform than the one that is here: the index has to be read again.
        // An artifact is for no platform.
        let fits = documents.manifest.is_artifact() || self.fits(&documents.config);
        if !fits || (self.all_platforms && !self.is_whole(local)) {
            return Ok(None);
        }
        let id = documents.id.to_string();
        self.store.resolve(&id).map_err(self.store_failed())
    }

    fn is_whole(&self, root: Digest) -> bool {
        let inner = &self.store.inner;
        inner.tree(root).is_ok_and(|tree| {
            tree.missing().is_none() && tree.blobs().iter().all(|blob| inner.layout.blob(&blob.digest).exists())
        })
    }

    fn fits(&self, config: &ConfigDocument) -> bool {
        let here = config.platform();
        let wanted = &self.platform;
        here.os == wanted.os
            && here.architecture == wanted.architecture
            && (wanted.variant.is_none() || wanted.variant == here.variant)
    }

    /// Whether everything is in place now; if not, something has been removed meanwhile and must be fetched.
    async fn publish(&self, plan: &Plan, session: &Arc<Session>) -> Result<bool, PullError> {
        let mut blobs: Vec<Digest> = plan.documents.iter().map(|(digest, _)| *digest).collect();
        blobs.extend(plan.layers.iter().chain(&plan.others).map(|layer| layer.digest));
        let needed = Needed { blobs, snapshots: plan.diff_ids.clone() };
        let entry = plan.manifest.clone();
        let name = self.reference.to_string();
        let repo_digest = self.reference.with_digest(plan.target).to_string();
        let session = session.clone();
        let published = tokio::task::spawn_blocking(move || {
            adopt::implied_directories(&session, &needed.snapshots)?;
            session.publish(&needed, |entries| set_name(entries, entry, Some(&name), Some(&repo_digest)))
        })
        .await
        .map_err(|error| self.io("publish")(io::Error::other(error)))?;
        match published {
            Ok(()) => Ok(true),
            Err(PublishError::Gone(gone)) => {
                tracing::debug!(reference = %self.reference, ?gone, "removed during the pull");
                Ok(false)
            }
            Err(PublishError::Io(error)) => Err(self.io("publish")(error)),
        }
    }

    fn named(&self, plan: &Plan) -> Result<Image, PullError> {
        let documents = self.store.inner.documents(&plan.manifest.digest).map_err(self.store_failed())?;
        let id = documents.id.to_string();
        self.store
            .resolve(&id)
            .map_err(self.store_failed())?
            .ok_or_else(|| PullError::Removed { reference: self.reference.to_string() })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> Result<T, PullError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(self.io(operation))
    }

    fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> PullError + '_ {
        move |source| PullError::Io { reference: self.reference.to_string(), operation, source }
    }

    fn store_failed(&self) -> impl Fn(StoreError) -> PullError + '_ {
        |source| PullError::Store { reference: self.reference.to_string(), source: Box::new(source) }
    }
}
