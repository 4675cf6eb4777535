//! Volumes made of objects: ConfigMaps, Secrets and fields of the pod, as files.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection, ServiceAccountTokenProjection, Volume,
};
use serde_json::json;

use super::resource_field;
use super::source::{Data, Facts, Sources, pod_field};
use crate::api::access::service_account_token::{AUDIENCE, DEFAULT_SECONDS, Wanted};
use crate::api::kinds::service_account;

const DEFAULT_MODE: u32 = 0o644;

/// One file of such a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// The files of a volume, and when a token among them is to be replaced; `None` for a volume that is not made of objects.
/// `folder` has those of before: a token that is still good stays. The error says what is missing.
pub(super) fn files(
    volume: &Volume,
    pod: &Pod,
    sources: &Sources<'_>,
    facts: &Facts<'_>,
    folder: &Path,
) -> Result<Option<(Files, Option<Timestamp>)>, String> {
    let mut files = Files::new();
    let mut renewal: Option<Timestamp> = None;
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
            if let Some(token) = &source.service_account_token {
                let at = add_token(&mut files, token, mode, pod, sources, folder)?;
                renewal = [renewal, Some(at)].into_iter().flatten().min();
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some((files, renewal)))
}

/// Adds a token of the pod's service account; gives back when it is to be replaced.
fn add_token(
    files: &mut Files,
    source: &ServiceAccountTokenProjection,
    mode: u32,
    pod: &Pod,
    sources: &Sources<'_>,
    folder: &Path,
) -> Result<Timestamp, String> {
    let no_tokens = "a token cannot be given: pods do not reach the API of this node (`api.listen` of wharfd.toml)";
    let api = sources.api.ok_or(no_tokens)?;
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty());
    let name = name.unwrap_or(service_account::DEFAULT_NAME);
    let account = sources.objects.get(&service_account::KIND, sources.namespace, name);
    let account = account.map_err(|error| error.to_string())?;
    let pod = json!({"kind": "Pod", "metadata": {"name": pod.metadata.name, "uid": pod.metadata.uid}});
    let audience = source.audience.clone().filter(|audience| !audience.is_empty());
    let wanted = Wanted {
        account: &account,
        bound: Some(&pod),
        audiences: vec![audience.unwrap_or_else(|| AUDIENCE.into())],
        seconds: source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
    };
    let now = Timestamp::now();
    let present = std::fs::read_to_string(folder.join(&source.path)).ok();
    let present = present.and_then(|token| Some((wanted.renewal(&api.tokens, &token, now)?, token)));
    let (renewal, token) = present.unwrap_or_else(|| {
        let token = wanted.issue(&api.tokens, now);
        (wanted.renewal(&api.tokens, &token, now).unwrap_or(now), token)
    });
    files.insert(source.path.clone(), File { content: token.into_bytes(), mode });
    Ok(renewal)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::service_account::KIND;
    use crate::api::object_store::ObjectStore;
    use crate::api::objects::Objects;
    use crate::api::tls::{PodApi, TokenKey};
    use crate::controller::pod::resource_field::Capacity;

    #[tokio::test]
    async fn a_token_stays_until_four_fifths_of_its_time_and_as_long_as_its_account() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::open(ObjectStore::in_memory([]).unwrap(), "node").await.unwrap();
        let tokens = std::sync::Arc::new(TokenKey::open_or_create(folder.path()).unwrap());
        let api = PodApi { address: ([10, 0, 0, 1], 6443).into(), authority: "".into(), tokens: tokens.clone() };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "1"}, "spec": {"containers": [], "volumes": [
                {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1000}}]}}]},
        }))
        .unwrap();
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        let facts =
            Facts { node_name: "node", pod_ips: Vec::new(), host_ips: &[], capacity: Capacity::of_node(folder.path()) };
        let sources = Sources { objects: &objects, namespace: "default", api: Some(&api) };
        let look = || files(volume, &pod, &sources, &facts, folder.path()).map(|found| found.unwrap());
        assert!(look().unwrap_err().contains("not found"), "there is no account yet");
        let account = || json!({"metadata": {"name": "default"}});
        let first = objects.create(&KIND, "default", account()).await.unwrap();

        let (made, renewal) = look().unwrap();
        let left = renewal.unwrap().as_second() - Timestamp::now().as_second();
        assert!((795..=800).contains(&left), "{left}");
        std::fs::write(folder.path().join("t"), &made["t"].content).unwrap();
        assert_eq!(look().unwrap(), (made.clone(), renewal), "it is kept");
        let aged = |seconds: i64| {
            let bound = json!({"kind": "Pod", "metadata": {"name": "web", "uid": "1"}});
            let wanted =
                Wanted { account: &first, bound: Some(&bound), audiences: vec![AUDIENCE.into()], seconds: 1000 };
            wanted.issue(&tokens, Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap())
        };
        for (seconds, is_kept) in [(700, true), (801, false), (1001, false)] {
            std::fs::write(folder.path().join("t"), aged(seconds)).unwrap();
            let kept = look().unwrap().0["t"].content == std::fs::read(folder.path().join("t")).unwrap();
            assert_eq!(kept, is_kept, "{seconds}");
        }
        // Another account of that name has another token.
        std::fs::write(folder.path().join("t"), &made["t"].content).unwrap();
        objects
            .store()
            .remove(crate::api::object_store::Key::new("serviceaccounts", "default", "default"))
            .await
            .unwrap();
        objects.create(&KIND, "default", account()).await.unwrap();
        assert_ne!(look().unwrap().0["t"].content, made["t"].content);
        let closed = Sources { api: None, ..sources };
        let refused = files(volume, &pod, &closed, &facts, folder.path()).unwrap_err();
        assert!(refused.contains("`api.listen`"), "{refused}");
    }
}
