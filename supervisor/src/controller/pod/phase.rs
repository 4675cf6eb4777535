//! The phase of a pod, as the kubelet derives it from its containers.

use super::observed::Observed;

/// `containers` are those that run side by side; `init` those before them, sidecars among them.
pub(super) fn phase(restart_policy: &str, init: &[Observed], containers: &[Observed], failed: bool) -> &'static str {
    if failed {
        return "Failed";
    }
    let sidecars_run = init.iter().any(|observed| observed.is_sidecar() && observed.is_running());
    let steps = || init.iter().filter(|observed| !observed.is_sidecar());
    if restart_policy == "Never" && steps().any(Observed::has_failed) {
        return if sidecars_run { "Pending" } else { "Failed" };
    }
    let begun = containers.iter().any(|observed| observed.current.is_some());
    if !begun || !steps().all(Observed::has_succeeded) {
        return "Pending";
    }
    let running = sidecars_run || containers.iter().any(Observed::goes_on);
    let stopped = containers.iter().filter(|observed| observed.exit_code().is_some()).count();
    let clean = containers.iter().filter(|observed| observed.has_succeeded()).count();
    match restart_policy {
        _ if stopped == 0 && !containers.iter().any(Observed::goes_on) => "Pending",
        _ if running || stopped < containers.len() || restart_policy == "Always" => "Running",
        _ if clean == containers.len() => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

/// Whether nothing of the pod is to be started again: what still runs beside it, sidecars, has to end.
pub(super) fn is_over(restart_policy: &str, init: &[Observed], containers: &[Observed]) -> bool {
    let ended = |observed: &Observed| match observed.exit_code() {
        Some(0) => restart_policy != "Always",
        Some(_) => restart_policy == "Never",
        None => false,
    };
    let failed_step = init.iter().any(|observed| !observed.is_sidecar() && observed.has_failed());
    (restart_policy == "Never" && failed_step) || (!containers.is_empty() && containers.iter().all(ended))
}

#[cfg(test)]
mod tests {
    use super::super::observed::tests::{container, sidecar};
    use super::*;
    use crate::pod::status::ContainerState::{Exited, Running};

    #[test]
    fn phases_follow_restart_policy_and_exits() {
        let running = || container(Running, 0);
        let ok = || container(Exited, 0);
        let bad = || container(Exited, 1);
        for (policy, init, containers, expected) in [
            ("Always", vec![], vec![Observed::default()], "Pending"),
            ("Always", vec![], vec![running(), Observed::default()], "Running"),
            ("Always", vec![], vec![bad()], "Running"),
            ("Never", vec![], vec![ok(), ok()], "Succeeded"),
            ("Never", vec![], vec![ok(), bad()], "Failed"),
            ("Never", vec![], vec![running(), bad()], "Running"),
            ("OnFailure", vec![], vec![ok()], "Succeeded"),
            ("OnFailure", vec![], vec![bad()], "Running"),
            ("Never", vec![bad()], vec![Observed::default()], "Failed"),
            ("Always", vec![bad()], vec![Observed::default()], "Pending"),
            ("Always", vec![ok()], vec![running()], "Running"),
            ("Never", vec![sidecar(running())], vec![Observed::default()], "Pending"),
            ("Never", vec![sidecar(running())], vec![ok()], "Running"),
            ("Never", vec![sidecar(bad())], vec![ok()], "Succeeded"),
            ("Always", vec![sidecar(bad())], vec![running()], "Running"),
            ("Never", vec![sidecar(running()), bad()], vec![Observed::default()], "Pending"),
        ] {
            assert_eq!(phase(policy, &init, &containers, false), expected, "{policy} {init:?} {containers:?}");
        }
    }

    #[test]
    fn a_pod_is_over_when_nothing_of_it_starts_again() {
        let ok = || container(Exited, 0);
        let bad = || container(Exited, 1);
        for (policy, init, containers, expected) in [
            ("Never", vec![], vec![ok(), bad()], true),
            ("OnFailure", vec![], vec![ok(), bad()], false),
            ("OnFailure", vec![sidecar(container(Running, 0))], vec![ok(), ok()], true),
            ("Always", vec![], vec![ok()], false),
            ("Never", vec![sidecar(container(Running, 0)), bad()], vec![Observed::default()], true),
            ("Never", vec![sidecar(bad())], vec![Observed::default()], false),
            ("Never", vec![], vec![container(Running, 0)], false),
        ] {
            assert_eq!(is_over(policy, &init, &containers), expected, "{policy} {init:?} {containers:?}");
        }
    }
}
