//! `ImageService`.

use std::collections::HashMap;

use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wharf_images::{Credentials, Image, PullOptions, Reference, Store};
use wharf_specs::cri;
use wharf_specs::cri::image_service_server::ImageService;

use super::chunks;
use super::status::invalid;
use crate::pod::error::chain;
use crate::pod::{Node, PodError, Result};

pub(super) struct Images {
    node: Node,
}

impl Images {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    /// Runs `work` on the store where it may wait for the disk.
    async fn with_store<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Store) -> Result<T, wharf_images::StoreError> + Send + 'static,
    ) -> Result<T> {
        let store = self.node.images().clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| PodError::internal(operation, error))?
            .map_err(|error| PodError::internal(operation, chain(&error)))
    }

    async fn images(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>> {
        let filter = filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let images = self
            .with_store("list images", move |store| {
                if filter.is_empty() { store.images() } else { Ok(store.resolve(&filter)?.into_iter().collect()) }
            })
            .await?;
        Ok(images.iter().map(image).collect())
    }
}

/// Name of the image in question; an empty one is a wrong request.
fn named(spec: Option<cri::ImageSpec>) -> Result<String> {
    let name = spec.unwrap_or_default().image;
    if name.is_empty() { Err(invalid("image.image", "is empty")) } else { Ok(name) }
}

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        Ok(Response::new(cri::ListImagesResponse { images: self.images(request.into_inner().filter).await? }))
    }

    type StreamImagesStream = ReceiverStream<Result<cri::StreamImagesResponse, Status>>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.images(request.into_inner().filter).await?;
        Ok(Response::new(chunks::stream(images, |images| cri::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let found = self.with_store("look up image", move |store| store.resolve(&name)).await?;
        let info = match &found {
            Some(image) if request.verbose => verbose(image),
            _ => HashMap::new(),
        };
        // An image that is not there is an answer, not an error.
        Ok(Response::new(cri::ImageStatusResponse { image: found.as_ref().map(image), info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let reference: Reference =
            name.parse().map_err(|error: wharf_images::ReferenceError| invalid("image.image", chain(&error)))?;
        let options = PullOptions { credentials: credentials(request.auth, &reference)?, ..PullOptions::default() };
        // Dropping the call (the client's deadline passed) drops the pull.
        let image = self
            .node
            .images()
            .pull(&reference, options)
            .await
            .map_err(|error| PodError::Image { image: name, reason: chain(&error) })?;
        tracing::info!(image = %image.id, %reference, "image pulled");
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = named(request.into_inner().image)?;
        self.with_store("remove image", move |store| match store.resolve(&name)? {
            // The protocol removes the image with all its names. One that goes meanwhile by another call is gone too.
            Some(image) => match store.remove(&image.id.to_string()) {
                Err(wharf_images::StoreError::NotFound(_)) => Ok(()),
                other => other.map(drop),
            },
            None => Ok(()),
        })
        .await?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let (images, containers) =
            self.with_store("measure images", |store| Ok((store.usage()?, store.containers_usage()?))).await?;
        // Layers and the containers' writable parts are on one file system: a kubelet knows by the mount point.
        let mountpoint = self.node.options().root.display().to_string();
        let of = |usage: wharf_images::Usage| cri::FilesystemUsage {
            timestamp: crate::pod::now(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.clone() }),
            used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
            inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![of(images)],
            container_filesystems: vec![of(containers)],
        }))
    }
}

fn image(image: &Image) -> cri::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok();
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: match (uid, user) {
            (Some(uid), _) => Some(cri::Int64Value { value: uid.into() }),
            (None, "") => Some(cri::Int64Value { value: 0 }),
            (None, _) => None,
        },
        username: if uid.is_none() { user.to_string() } else { String::new() },
        spec: Some(cri::ImageSpec { image: image.id.to_string(), ..Default::default() }),
        pinned: image.is_pinned,
    }
}

fn verbose(image: &Image) -> HashMap<String, String> {
    let config = &image.config;
    let info = json!({
        "imageSpec": {
            "architecture": image.platform.architecture, "os": image.platform.os, "created": image.created,
            "config": {
                "User": config.user, "ExposedPorts": config.exposed_ports, "Env": config.env,
                "Entrypoint": config.entrypoint, "Cmd": config.cmd, "Volumes": config.volumes,
                "WorkingDir": config.working_dir, "Labels": config.labels, "StopSignal": config.stop_signal,
            },
            "rootfs": {"diff_ids": image.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>()},
        },
        "manifestDigest": image.manifest_digest.to_string(),
    });
    [("info".to_string(), info.to_string())].into()
}

/// What the client wants `reference`'s registry to be shown; for any other registry it is no answer.
fn credentials(wire: Option<cri::AuthConfig>, reference: &Reference) -> Result<Option<Credentials>> {
    let Some(wire) = wire else { return Ok(None) };
    if !wire.server_address.is_empty() && !is_for(&wire.server_address, reference) {
        return Ok(None);
    }
    if !wire.identity_token.is_empty() {
        return Ok(Some(Credentials::IdentityToken(wire.identity_token)));
    }
    if !wire.registry_token.is_empty() {
        return Ok(Some(Credentials::Bearer(wire.registry_token)));
    }
    if !wire.username.is_empty() {
        return Ok(Some(Credentials::Basic { username: wire.username, password: wire.password }));
    }
    if wire.auth.is_empty() {
        return Ok(None);
    }
    let refuse = || invalid("auth.auth", "is not `user:password` in base64");
    Credentials::from_base64(&wire.auth).map(Some).ok_or_else(refuse)
}

/// Whether a `server_address`, a host or a URL, is the registry of `reference`.
fn is_for(server: &str, reference: &Reference) -> bool {
    let host = server.split_once("://").map_or(server, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let hub = ["index.docker.io", "registry-1.docker.io", "docker.io"];
    host == reference.registry() || (hub.contains(&host) && hub.contains(&reference.registry()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_four_forms_for_one_server() {
        let reference: Reference = "busybox".parse().unwrap();
        let read = |wire| credentials(Some(wire), &reference);
        let auth = |auth: &str| read(cri::AuthConfig { auth: auth.into(), ..Default::default() });
        assert!(
            matches!(auth("dTpw"), Ok(Some(Credentials::Basic { username, password })) if username == "u" && password == "p")
        );
        assert!(auth("not base64!").is_err());
        assert!(matches!(auth(""), Ok(None)));
        let bearer = cri::AuthConfig { registry_token: "t".into(), ..Default::default() };
        assert!(matches!(read(bearer), Ok(Some(Credentials::Bearer(_)))));
        let identity = cri::AuthConfig { identity_token: "t".into(), ..Default::default() };
        assert!(matches!(read(identity), Ok(Some(Credentials::IdentityToken(_)))));
        for (server, meant) in [("https://index.docker.io/v1/", true), ("docker.io", true), ("https://quay.io", false)]
        {
            let wire = cri::AuthConfig { server_address: server.into(), auth: "dTpw".into(), ..Default::default() };
            assert_eq!(read(wire).unwrap().is_some(), meant, "{server}");
        }
    }
}
