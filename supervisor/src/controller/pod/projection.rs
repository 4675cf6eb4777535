//! Volumes made of objects: ConfigMaps, Secrets and fields of the pod, as files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection, Volume,
};

use super::resource_field;
use super::source::{Data, Facts, Sources, pod_field};

const DEFAULT_MODE: u32 = 0o644;

/// One file of such a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// The files of a volume; `None` for a volume that is not made of objects. The error says what is missing.
pub(super) fn files(
    volume: &Volume,
    pod: &Pod,
    sources: &Sources<'_>,
    facts: &Facts<'_>,
) -> Result<Option<Files>, String> {
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let projection =
            ConfigMapProjection { name: map.name.clone(), items: map.items.clone(), optional: map.optional };
        add_config_map(&mut files, &projection, mode(map.default_mode), sources)?;
    } else if let Some(secret) = &volume.secret {
        let projection = SecretProjection {
            name: secret.secret_name.clone().unwrap_or_default(),
            items: secret.items.clone(),
            optional: secret.optional,
        };
        add_secret(&mut files, &projection, mode(secret.default_mode), sources)?;
    } else if let Some(downward) = &volume.downward_api {
        add_fields(&mut files, downward.items.iter().flatten(), mode(downward.default_mode), pod, facts)?;
    } else if let Some(projected) = &volume.projected {
        let mode = mode(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                add_config_map(&mut files, map, mode, sources)?;
            }
            if let Some(secret) = &source.secret {
                add_secret(&mut files, secret, mode, sources)?;
            }
            if let Some(downward) = &source.downward_api {
                add_fields(&mut files, downward.items.iter().flatten(), mode, pod, facts)?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn mode(bits: Option<i32>) -> u32 {
    bits.and_then(|bits| u32::try_from(bits).ok()).unwrap_or(DEFAULT_MODE)
}

fn add_config_map(
    files: &mut Files,
    map: &ConfigMapProjection,
    mode: u32,
    sources: &Sources<'_>,
) -> Result<(), String> {
    let optional = map.optional.unwrap_or(false);
    let data = sources.config_map(&map.name, optional)?;
    add_data(files, data, map.items.as_deref(), mode, optional, &format!("configmap {:?}", map.name))
}

fn add_secret(files: &mut Files, secret: &SecretProjection, mode: u32, sources: &Sources<'_>) -> Result<(), String> {
    let optional = secret.optional.unwrap_or(false);
    let data = sources.secret(&secret.name, optional)?;
    add_data(files, data, secret.items.as_deref(), mode, optional, &format!("secret {:?}", secret.name))
}

fn add_data(
    files: &mut Files,
    data: Option<Data>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
    shown: &str,
) -> Result<(), String> {
    let Some(mut data) = data else { return Ok(()) };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(data.into_iter().map(|(key, content)| (key, File { content, mode: default_mode })));
        return Ok(());
    };
    for item in items {
        let mode = item.mode.map_or(default_mode, |bits| mode(Some(bits)));
        match data.get_mut(&item.key) {
            Some(content) => drop(files.insert(item.path.clone(), File { content: content.clone(), mode })),
            None if optional => {}
            None => return Err(format!("no key {:?} in {shown}", item.key)),
        }
    }
    Ok(())
}

fn add_fields<'a>(
    files: &mut Files,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
    default_mode: u32,
    pod: &Pod,
    facts: &Facts<'_>,
) -> Result<(), String> {
    for item in items {
        let value = match &item.resource_field_ref {
            Some(selector) => resource_field::value(pod, None, selector, facts.capacity)
                .ok_or_else(|| format!("{}: no resource {:?}", item.path, selector.resource))?,
            None => {
                let path = item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
                pod_field(pod, path, facts).ok_or_else(|| format!("{}: no field {path:?}", item.path))?
            }
        };
        let mode = item.mode.map_or(default_mode, |bits| mode(Some(bits)));
        files.insert(item.path.clone(), File { content: value.into_bytes(), mode });
    }
    Ok(())
}
