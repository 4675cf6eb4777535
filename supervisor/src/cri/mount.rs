//! Mounts: the wire's message from and to the engine's.

use std::path::{Path, PathBuf};

use wharf_specs::cri;

use super::sandbox;
use super::status::invalid;
use crate::pod::spec::{ContainerConfig, ImageMount, Mount, MountDenial, Propagation, SandboxConfig, UserNamespace};
use crate::pod::{PodError, Result};

/// `selinux_relabel` asks for nothing on a node without SELinux, which is the only kind there is for Wharf.
pub(super) fn config(index: usize, wire: cri::Mount, pod: &SandboxConfig) -> Result<Mount> {
    let field = |name: &str| format!("config.mounts[{index}].{name}");
    let denial = |(at, option): (usize, &String)| {
        let known = MountDenial::ALL.into_iter().find(|denial| denial.name() == option);
        let refuse = || invalid(format!("config.mounts[{index}].mount_options[{at}]"), not_a_denial(option));
        known.ok_or_else(refuse)
    };
    let denied = wire.mount_options.iter().enumerate().map(denial).collect::<Result<_>>()?;
    let propagation = match wire.propagation() {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if wire.recursive_read_only && !(wire.readonly && propagation == Propagation::Private) {
        return Err(invalid(field("recursive_read_only"), "needs readonly and the propagation PRIVATE"));
    }
    let image = wire.image.filter(|image| !image.image.is_empty()).map(|image| ImageMount {
        user_image: image_name(&image),
        image: image.image,
        id: String::new(),
        sub_path: wire.image_sub_path.clone(),
    });
    match &image {
        Some(_) if !wire.host_path.is_empty() => return Err(invalid(field("host_path"), "is given beside image")),
        Some(_) if !wire.readonly => return Err(invalid(field("readonly"), "is false, and images are not written to")),
        None if !wire.image_sub_path.is_empty() => return Err(invalid(field("image_sub_path"), "needs an image")),
        _ => {}
    }
    let ids = match (wire.uid_mappings.is_empty(), wire.gid_mappings.is_empty()) {
        (true, true) => None,
        (false, false) if pod.user_namespace.is_some() => Some(UserNamespace {
            uids: sandbox::id_mappings(&wire.uid_mappings, &field("uidMappings"))?,
            gids: sandbox::id_mappings(&wire.gid_mappings, &field("gidMappings"))?,
        }),
        (false, false) => return Err(invalid(field("uidMappings"), "need a pod with a user namespace")),
        (true, false) => return Err(invalid(field("uidMappings"), "are missing beside gidMappings")),
        (false, true) => return Err(invalid(field("gidMappings"), "are missing beside uidMappings")),
    };
    Ok(Mount {
        container_path: absolute(wire.container_path),
        host_path: wire.host_path.into(),
        readonly: wire.readonly,
        recursive_readonly: wire.recursive_read_only,
        propagation,
        denied,
        ids,
        image,
    })
}

fn not_a_denial(option: &str) -> String {
    format!("{option:?} is none of {}", MountDenial::ALL.map(MountDenial::name).join(", "))
}

/// What the user wrote.
pub(super) fn image_name(image: &cri::ImageSpec) -> String {
    if image.user_specified_image.is_empty() { image.image.clone() } else { image.user_specified_image.clone() }
}

/// Puts down which images the mounts mean.
pub(super) async fn resolve_images(
    mut config: ContainerConfig,
    store: &wharf_images::Store,
) -> Result<ContainerConfig> {
    if config.mounts.iter().all(|mount| mount.image.is_none()) {
        return Ok(config);
    }
    let store = store.clone();
    let resolve = move || {
        for mount in config.mounts.iter_mut().filter_map(|mount| mount.image.as_mut()) {
            let found = store.resolve(&mount.image);
            let found = found.map_err(|error| PodError::internal(format!("look up image {}", mount.image), error))?;
            let image = found.ok_or_else(|| PodError::NotFound { what: "image", id: mount.image.clone() })?;
            mount.id = image.id.to_string();
        }
        Ok(config)
    };
    tokio::task::spawn_blocking(resolve).await.map_err(|error| PodError::internal("look up images", error))?
}

/// A container path without its first slash is below the root all the same, as other runtimes take it.
fn absolute(path: String) -> PathBuf {
    if path.is_empty() { path.into() } else { Path::new("/").join(path) }
}

pub(super) fn status(mount: &Mount) -> cri::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.display().to_string(),
        host_path: mount.host_path.display().to_string(),
        readonly: mount.readonly,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_readonly,
        image: mount.image.as_ref().map(|image| cri::ImageSpec {
            image: image.image.clone(),
            user_specified_image: image.user_image.clone(),
            image_ref: image.id.clone(),
            ..Default::default()
        }),
        image_sub_path: mount.image.as_ref().map(|image| image.sub_path.clone()).unwrap_or_default(),
        uid_mappings: mount.ids.iter().flat_map(|ids| sandbox::wire_mappings(&ids.uids)).collect(),
        gid_mappings: mount.ids.iter().flat_map(|ids| sandbox::wire_mappings(&ids.gids)).collect(),
        mount_options: mount.denied.iter().map(|denial| denial.name().to_string()).collect(),
        selinux_relabel: false,
    }
}
