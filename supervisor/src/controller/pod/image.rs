//! The image of a container, as its pull policy wants it.

use std::time::{Duration, Instant};

use wharf_images::{Image, PullOptions, Reference, Store};

use super::event::{Recorder, Subject};

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
        let pulled = self.store.pull(&reference, PullOptions::default()).await;
        let pulled = pulled.map_err(|error| failure("ErrImagePull", chain(&error)))?;
        let took = Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        // None waits for another one's pull here.
        let message = format!(
            "Successfully pulled image {image:?} in {took:?} ({took:?} including waiting). Image size: {} bytes.",
            pulled.size
        );
        self.tell("Pulled", message);
        Ok(pulled)
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
