//! The image of a container, as its pull policy wants it.

use wharf_images::{Image, PullOptions, Reference, Store};

/// Why a container has no image yet, with the reason that its status shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageFailure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) async fn ensure(store: &Store, image: &str, policy: &str) -> Result<Image, ImageFailure> {
    let failure = |reason, message: String| ImageFailure { reason, message };
    if policy != "Always" {
        match store.resolve(image) {
            Ok(Some(present)) => return Ok(present),
            Ok(None) if policy == "Never" => {
                let message = format!("image {image:?} is not present and its pull policy is Never");
                return Err(failure("ErrImageNeverPull", message));
            }
            Ok(None) => {}
            Err(error) => return Err(failure("ErrImagePull", chain(&error))),
        }
    }
    let reference: Reference =
        image.parse().map_err(|error: wharf_images::ReferenceError| failure("InvalidImageName", error.to_string()))?;
    tracing::info!(image, "pull");
    store.pull(&reference, PullOptions::default()).await.map_err(|error| failure("ErrImagePull", chain(&error)))
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
