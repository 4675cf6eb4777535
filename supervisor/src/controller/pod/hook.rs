//! Lifecycle hooks: what runs right after a container's start, and before it is told to end.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::probe::{Target, exec, http};

/// As long as the kubelet waits for an answer to a hook's request.
const HTTP_LIMIT: Duration = Duration::from_secs(30);

/// Carries a hook out. The error is for people: what it did, and what came of it.
pub(super) async fn run(hook: &LifecycleHandler, target: &Target) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let argv = target.argv(action.command.as_deref().unwrap_or_default());
        return match exec::run(&target.node, &target.container, &argv, None).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!("exec {argv:?} exited with {code}: {output}")),
            Err(error) => Err(format!("exec {argv:?}: {error}")),
        };
    }
    if let Some(action) = &hook.http_get {
        let get = http::Get::new(action, &target.host(None)?, target.port(&action.port)?)?;
        // Whatever is answered, the container has been told.
        return get.send(&target.http, HTTP_LIMIT).await.map(drop);
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    }
    Ok(())
}
