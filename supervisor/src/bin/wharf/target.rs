//! Containers as people name them: the name of a pod that `wharf run` made, `POD/CONTAINER`, or the start of an id.

use anyhow::bail;
use serde_json::Value;
use wharf_supervisor::api::kinds::{pod, pod::items, text};

use crate::client::{Client, path};
use crate::container_state::ContainerState;
use crate::cri::ID_SCHEME;
use crate::run::RUN_LABEL;

/// Fewest digits of an id that count as one.
const MIN_ID_DIGITS: usize = 4;

/// A container and its pod.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) pod: Value,
    /// Its entry in the pod's specification.
    pub(crate) container: Value,
    /// Its entry in the pod's status; null where there is none yet.
    pub(crate) status: Value,
}

impl Target {
    pub(crate) fn state(&self) -> ContainerState {
        ContainerState::of(&self.status)
    }

    /// Without its scheme; empty where the container is not there yet.
    pub(crate) fn id(&self) -> &str {
        let id = text(&self.status, "/containerID");
        id.strip_prefix(ID_SCHEME).unwrap_or(id)
    }

    pub(crate) fn namespace(&self) -> &str {
        text(&self.pod, "/metadata/namespace")
    }

    pub(crate) fn pod_name(&self) -> &str {
        text(&self.pod, "/metadata/name")
    }

    pub(crate) fn uid(&self) -> &str {
        text(&self.pod, "/metadata/uid")
    }

    /// The pod's name where `wharf run` made it, `POD/CONTAINER` otherwise.
    pub(crate) fn name(&self) -> String {
        match is_run(&self.pod) {
            true => self.pod_name().to_owned(),
            false => format!("{}/{}", self.pod_name(), text(&self.container, "/name")),
        }
    }

    /// Who brings the pod back when it is gone: `ReplicaSet web-5d`.
    pub(crate) fn controller(&self) -> Option<String> {
        let owner = items(&self.pod["metadata"], "ownerReferences").first()?;
        Some(format!("{} {}", text(owner, "/kind"), text(owner, "/name")))
    }
}

fn is_run(pod: &Value) -> bool {
    pod.pointer("/metadata/labels").is_some_and(|labels| labels[RUN_LABEL] == "true")
}

/// Every container of every pod.
pub(crate) async fn all(client: &Client) -> anyhow::Result<Vec<Target>> {
    let pods = client.get(&path(&pod::KIND, None, None)?).await?;
    Ok(items(&pods, "items").iter().flat_map(targets).collect())
}

fn targets(pod: &Value) -> Vec<Target> {
    let statuses = items(&pod["status"], "containerStatuses");
    let target = |container: &Value| {
        let status = statuses.iter().find(|status| status["name"] == container["name"]);
        Target { pod: pod.clone(), container: container.clone(), status: status.cloned().unwrap_or_default() }
    };
    items(&pod["spec"], "containers").iter().map(target).collect()
}

/// The container that is meant.
pub(crate) fn find<'a>(targets: &'a [Target], word: &str) -> anyhow::Result<&'a Target> {
    if let Some(target) = targets.iter().find(|target| target.name() == word) {
        return Ok(target);
    }
    let id = word.strip_prefix(ID_SCHEME).unwrap_or(word);
    let fits: Vec<&Target> = match id.len() >= MIN_ID_DIGITS {
        true => targets.iter().filter(|target| target.id().starts_with(id)).collect(),
        false => Vec::new(),
    };
    match fits.as_slice() {
        [one] => return Ok(one),
        [] => {}
        many => bail!("{word}: begins {} ids, give more digits", many.len()),
    }
    let of_pod: Vec<String> = targets.iter().filter(|target| target.pod_name() == word).map(Target::name).collect();
    match of_pod.as_slice() {
        [] => bail!("{word}: no such container; `wharf ps -a` lists them"),
        names => bail!("{word}: is a pod that `wharf run` did not make, name its container: {}", names.join(", ")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn pods(pods: &[Value]) -> Vec<Target> {
        pods.iter().flat_map(targets).collect()
    }

    #[test]
    fn containers_are_found_by_name_and_id() {
        let targets = pods(&[
            json!({"metadata": {"name": "job", "labels": {"wharf/run": "true"}}, "spec": {"containers": [{"name": "main"}]},
                "status": {"containerStatuses": [{"name": "main", "containerID": "wharf://abcd01"}]}}),
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
                "status": {"containerStatuses": [{"name": "b", "containerID": "wharf://abcd02"}]}}),
        ]);
        for (word, expected) in [("job", "job"), ("web/a", "web/a"), ("abcd02", "web/b"), ("wharf://abcd01", "job")] {
            assert_eq!(find(&targets, word).unwrap().name(), expected, "{word}");
        }
        for (word, expected) in
            [("abcd", "2 ids"), ("web", "web/a, web/b"), ("abc", "no such"), ("job/main", "no such"), ("", "no such")]
        {
            let error = find(&targets, word).unwrap_err().to_string();
            assert!(error.contains(expected), "{word}: {error}");
        }
    }
}
