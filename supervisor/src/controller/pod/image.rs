//! The image of a container, as its pull policy wants it.

use std::time::{Duration, Instant};

use wharf_images::{Image, PullOptions, Reference, Store};

use super::event::{Recorder, Subject};
use super::pull_secret::PullSecrets;

/// Why a container has no image yet, with the reason that its status shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageFailure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Where images of a container come from, and whom that is told.
pub(super) struct Images<'a> {
    pub(super) store: &'a Store,
    pub(super) recorder: Recorder,
    pub(super) subject: Subject,
    pub(super) secrets: PullSecrets,
}

impl Images<'_> {
    /// An image that is here, by the policy of its pull.
    pub(super) async fn ensure(&self, image: &str, policy: &str) -> Result<Image, ImageFailure> {
        let failure = |reason, message: String| ImageFailure { reason, message };
        if policy != "Always" {
            match self.store.resolve(image) {
                Ok(Some(present)) => {
                    self.tell("Pulled", format!("Container image {image:?} already present on machine"));
                    return Ok(present);
                }
                Ok(None) if policy == "Never" => {
                    let message = format!("Container image {image:?} is not present with pull policy of Never");
                    return Err(failure("ErrImageNeverPull", message));
                }
                Ok(None) => {}
                Err(error) => return Err(failure("ErrImagePull", chain(&error))),
            }
        }
        let reference: Reference = image
            .parse()
            .map_err(|error: wharf_images::ReferenceError| failure("InvalidImageName", error.to_string()))?;
        self.tell("Pulling", format!("Pulling image {image:?}"));
        let begun = Instant::now();
        let pulled = self.pull(&reference).await.map_err(|message| failure("ErrImagePull", message))?;
        let took = Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        // None waits for another one's pull here.
        let message = format!(
            "Successfully pulled image {image:?} in {took:?} ({took:?} including waiting). Image size: {} bytes.",
            pulled.size
        );
        self.tell("Pulled", message);
        Ok(pulled)
    }

    /// With each login of the pod's own until one is let in, then with the node's, if it has one.
    async fn pull(&self, reference: &Reference) -> Result<Image, String> {
        if !self.secrets.missing.is_empty() {
            let names = self.secrets.missing.join(", ");
            let message = format!(
                "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
            );
            self.recorder.warning(&self.subject, "FailedToRetrieveImagePullSecret", message);
        }
        let logins = self.secrets.logins(reference).map_err(|error| chain(&error))?;
        let mut refused = None;
        for credentials in logins.into_iter().map(Some).chain([None]) {
            let options = PullOptions { credentials, ..PullOptions::default() };
            match self.store.pull(reference, options).await {
                Ok(image) => return Ok(image),
                Err(error) if error.is_refusal() => drop(refused.get_or_insert(error)),
                Err(error) => return Err(chain(&error)),
            }
        }
        Err(refused.map(|error| chain(&error)).unwrap_or_default())
    }

    fn tell(&self, reason: &'static str, message: String) {
        self.recorder.normal_alone(&self.subject, reason, message);
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Refuses an image that would run as root where the pod forbids it.
pub(super) fn check_not_root(image: &Image, run_as_user: Option<u32>) -> Result<(), ImageFailure> {
    let refuse = |message: String| Err(ImageFailure { reason: "CreateContainerConfigError", message });
    match run_as_user {
        Some(0) => refuse("container's runAsUser breaks the non-root policy".into()),
        Some(_) => Ok(()),
        None => match image.config.user.split(':').next().unwrap_or_default() {
            "" | "0" => refuse("container has runAsNonRoot and image will run as root".into()),
            user if user.chars().all(|c| c.is_ascii_digit()) => Ok(()),
            user => {
                refuse(format!("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify"))
            }
        },
    }
}
