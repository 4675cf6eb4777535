//! The mounts of a container: its volumes, parts of them, images, and the file for its last words.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use super::claim::Claims;
use super::environment::{Environment, expand};
use super::image::{ImageFailure, Images};
use super::{sub_path, termination_message, volume};
use crate::pod::spec::{ImageMount, Mount, Propagation};

/// Beneath a pod's folder: where parts of volumes are mounted, `VOLUME/CONTAINER/INDEX`.
const PARTS: &str = "volume-subpaths";

/// The mounts of an attempt of a container; what they need is made on the way. `folder` is the pod's own,
/// `claims` are where its claims lie.
pub(super) async fn prepare(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    (folder, claims): (&Path, &Claims),
    env: &Environment,
    images: &Images<'_>,
) -> Result<Vec<Mount>, ImageFailure> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        // What is mounted is one of the pod's volumes: that was checked when the pod was written.
        let Some(volume) = volumes.iter().find(|volume| volume.name == wanted.name) else { continue };
        let failed = |message: String| ImageFailure {
            reason: "CreateContainerConfigError",
            message: format!("volume {} at {}: {message}", volume.name, wanted.mount_path),
        };
        let part = part(wanted, env).map_err(failed)?;
        if let Some(source) = &volume.image {
            let reference = source.reference.clone().unwrap_or_default();
            let image = images.ensure(&reference, source.pull_policy.as_deref().unwrap_or_default()).await?;
            let image = ImageMount {
                image: reference.clone(),
                user_image: reference,
                id: image.id.to_string(),
                sub_path: part.map(|part| part.display().to_string()).unwrap_or_default(),
            };
            mounts.push(Mount { image: Some(image), ..mount(wanted, volume, PathBuf::new()) });
            continue;
        }
        let Some(mut source) = volume::host_path(volume, folder, claims) else { continue };
        if let Some(part) = part {
            let place = folder.join(PARTS).join(&volume.name).join(&container.name).join(index.to_string());
            sub_path::mount(&source, &part, &place)
                .map_err(|error| failed(format!("subPath {}: {error}", part.display())))?;
            source = place;
        }
        let mut mount = mount(wanted, volume, source);
        mount.readonly |= claims.get(&volume.name).is_some_and(|claim| claim.read_only);
        mounts.push(mount);
    }
    if let Some(path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
        let file = termination_message::file(folder, &container.name, attempt);
        termination_message::make(&file).map_err(|error| ImageFailure {
            reason: "CreateContainerError",
            message: format!("terminationMessagePath: {}: {error}", file.display()),
        })?;
        mounts.push(bind(path.into(), file, false, Propagation::Private));
    }
    Ok(mounts)
}

fn mount(wanted: &VolumeMount, volume: &Volume, source: PathBuf) -> Mount {
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    // What is projected is written by the node alone.
    let readonly = wanted.read_only.unwrap_or(false) || volume::is_projected(volume) || volume.image.is_some();
    bind(wanted.mount_path.clone().into(), source, readonly, propagation)
}

fn bind(container_path: PathBuf, host_path: PathBuf, readonly: bool, propagation: Propagation) -> Mount {
    Mount {
        container_path,
        host_path,
        readonly,
        recursive_readonly: false,
        propagation,
        denied: Vec::new(),
        ids: None,
        image: None,
    }
}

/// The part of the volume that is wanted; `None` for all of it.
fn part(mount: &VolumeMount, env: &Environment) -> Result<Option<PathBuf>, String> {
    let named = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let path = match (named(&mount.sub_path), named(&mount.sub_path_expr)) {
        (Some(path), _) => path,
        (None, Some(expression)) => {
            let path = expand(&expression, env);
            if path.contains("$(") {
                return Err(format!("subPathExpr {expression:?}: {path:?} names a variable that there is not"));
            }
            path
        }
        (None, None) => return Ok(None),
    };
    let path = PathBuf::from(path);
    let descends = path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    if !descends || path.as_os_str().is_empty() {
        return Err(format!("subPath {path:?} is no relative path without .."));
    }
    Ok(Some(path.components().filter(|component| *component != Component::CurDir).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_name_a_part_by_variables() {
        let env = vec![("POD".to_owned(), "web-1".to_owned()), ("UP".to_owned(), "../..".to_owned())];
        for (expression, expected) in [
            ("$(POD)/data", Ok("web-1/data")),
            ("./$(POD)", Ok("web-1")),
            ("$(NONE)", Err("names a variable that there is not")),
            ("$(UP)", Err("is no relative path without ..")),
            ("/$(POD)", Err("is no relative path without ..")),
        ] {
            let mount = VolumeMount { sub_path_expr: Some(expression.into()), ..VolumeMount::default() };
            match (part(&mount, &env), expected) {
                (Ok(Some(path)), Ok(expected)) => assert_eq!(path, Path::new(expected)),
                (Err(message), Err(expected)) => assert!(message.contains(expected), "{message}"),
                other => panic!("{expression}: {other:?}"),
            }
        }
    }
}
