//! The environment of a container: Services first, then whole ConfigMaps and Secrets, then single variables, each of which
//! may refer to those before it.

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

use super::source::{Data, Facts, Sources, pod_field};
use super::{resource_field, service_links};

/// Names and values, in order.
pub(super) type Environment = Vec<(String, String)>;

/// The environment of `container`; the error says which source is missing.
pub(super) fn resolve(
    pod: &Pod,
    container: &Container,
    sources: &Sources<'_>,
    facts: &Facts<'_>,
) -> Result<Environment, String> {
    let mut env = service_links::variables(pod, sources);
    for from in container.env_from.iter().flatten() {
        let data = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => sources.config_map(&map.name, map.optional.unwrap_or(false))?,
            (None, Some(secret)) => sources.secret(&secret.name, secret.optional.unwrap_or(false))?,
            (None, None) => None,
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in data.into_iter().flatten() {
            let name = format!("{prefix}{key}");
            set(&mut env, name, text(&key, value)?);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => value_from(pod, container, variable, from, sources, facts)?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &env)),
        };
        if let Some(value) = value {
            set(&mut env, variable.name.clone(), value);
        }
    }
    Ok(env)
}

fn set(env: &mut Environment, name: String, value: String) {
    env.retain(|(other, _)| *other != name);
    env.push((name, value));
}

/// `None` for a key that is missing and may be.
fn value_from(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    from: &EnvVarSource,
    sources: &Sources<'_>,
    facts: &Facts<'_>,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        let value = pod_field(pod, &field.field_path, facts);
        return value.map(Some).ok_or_else(|| format!("variable {}: no field {}", variable.name, field.field_path));
    }
    if let Some(selector) = &from.resource_field_ref {
        let value = resource_field::value(pod, Some(container), selector, facts.capacity);
        return value.map(Some).ok_or_else(|| format!("variable {}: no resource {}", variable.name, selector.resource));
    }
    let (data, key, optional, shown) = if let Some(map) = &from.config_map_key_ref {
        let optional = map.optional.unwrap_or(false);
        (sources.config_map(&map.name, optional)?, &map.key, optional, format!("configmap {:?}", map.name))
    } else if let Some(secret) = &from.secret_key_ref {
        let optional = secret.optional.unwrap_or(false);
        (sources.secret(&secret.name, optional)?, &secret.key, optional, format!("secret {:?}", secret.name))
    } else {
        return Err(format!("variable {}: no source", variable.name));
    };
    match data.and_then(|mut data: Data| data.remove(key)) {
        Some(value) => text(key, value).map(Some),
        None if optional => Ok(None),
        None => Err(format!("variable {}: no key {key:?} in {shown}", variable.name)),
    }
}

/// A variable ends at its first NUL, and is text for those who read it.
fn text(key: &str, value: Vec<u8>) -> Result<String, String> {
    match String::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(format!("key {key:?} is no text, which a variable has to be")),
    }
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign, an unknown name stays as it is.
pub(super) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = name {
            match env.iter().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::{config_map, secret};
    use crate::api::object_store::ObjectStore;
    use crate::api::objects::Objects;
    use crate::controller::pod::resource_field::Capacity;
    use serde_json::{Value, json};

    async fn resolved(container: Value) -> Result<Environment, String> {
        let folder = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
        let objects = Objects::open(store, "node").await.unwrap();
        let map = json!({"metadata": {"name": "map"}, "data": {"A": "1", "B": "2"}, "binaryData": {"raw": "/w=="}});
        objects.create(&config_map::KIND, "default", map).await.unwrap();
        let secret = json!({"metadata": {"name": "key"}, "stringData": {"B": "hidden"}});
        objects.create(&secret::KIND, "default", secret).await.unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "labels": {"app": "web"}}, "spec": {"containers": [container]}}))
        .unwrap();
        let pod_ips = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).to_vec();
        let capacity = Capacity::of_node(folder.path());
        let facts = Facts { node_name: "node", pod_ips, host_ips: &[], capacity };
        let sources = Sources { objects: &objects, namespace: "default", api: None };
        resolve(&pod, &pod.spec.as_ref().unwrap().containers[0], &sources, &facts)
    }

    #[test]
    fn variables_expand_in_order() {
        let env = [("A".to_owned(), "1".to_owned())];
        for (text, expected) in [("$(A)$(B)", "1$(B)"), ("$$(A)", "$(A)"), ("a$", "a$"), ("$(A", "$(A"), ("", "")] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn later_sources_overrule_earlier_ones() {
        let env = resolved(json!({"name": "c", "resources": {"limits": {"cpu": "3"}},
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "key"}}, {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "B"}}},
                {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "key", "key": "x", "optional": true}}},
                {"name": "ALL", "value": "$(IP) $(IPS) $(CPUS) $(APP) $(B) $(P_B) $(NONE)"}]}))
        .await
        .unwrap();
        assert_eq!(env.last().unwrap().1, "10.0.0.2 10.0.0.2,fd00::2 3 web 2 hidden $(NONE)");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let from = |source: Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
        for (container, message) in [
            (from(json!({"configMapKeyRef": {"name": "none", "key": "a"}})), "configmaps \"none\" not found"),
            (from(json!({"secretKeyRef": {"name": "key", "key": "a"}})), "variable X: no key \"a\" in secret \"key\""),
            (
                from(json!({"configMapKeyRef": {"name": "map", "key": "raw"}})),
                "key \"raw\" is no text, which a variable has to be",
            ),
            (json!({"name": "c", "envFrom": [{"secretRef": {"name": "none"}}]}), "secrets \"none\" not found"),
        ] {
            assert_eq!(resolved(container).await, Err(message.into()));
        }
    }
}
