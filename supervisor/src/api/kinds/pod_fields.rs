//! The fields of pods that are carried out; any other is refused by name.

use serde_json::Value;

use crate::api::status::Cause;

/// Fields of a pod's specification that are carried out. `[]` stands for every item of a list, `*` for all beneath.
pub(super) const POD_FIELDS: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].*",
    "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.*",
    "affinity.podAffinity.*",
    "affinity.podAntiAffinity.*",
    "automountServiceAccountToken",
    "containers[]",
    "dnsConfig.nameservers",
    "dnsConfig.options[].name",
    "dnsConfig.options[].value",
    "dnsConfig.searches",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers[]",
    "hostAliases[].*",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets[].name",
    "initContainers[]",
    "nodeName",
    "nodeSelector.*",
    "os.name",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates[].conditionType",
    "restartPolicy",
    "schedulerName",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.*",
    "securityContext.supplementalGroups",
    "securityContext.sysctls[].name",
    "securityContext.sysctls[].value",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations[].*",
    "topologySpreadConstraints[].*",
    "volumes[].configMap.defaultMode",
    "volumes[].configMap.items[].*",
    "volumes[].configMap.name",
    "volumes[].configMap.optional",
    "volumes[].downwardAPI.defaultMode",
    "volumes[].downwardAPI.items[].fieldRef.*",
    "volumes[].downwardAPI.items[].mode",
    "volumes[].downwardAPI.items[].path",
    "volumes[].downwardAPI.items[].resourceFieldRef.*",
    "volumes[].emptyDir.medium",
    "volumes[].emptyDir.sizeLimit",
    "volumes[].ephemeral.volumeClaimTemplate.metadata.annotations",
    "volumes[].ephemeral.volumeClaimTemplate.metadata.labels",
    "volumes[].ephemeral.volumeClaimTemplate.spec.*",
    "volumes[].hostPath.path",
    "volumes[].hostPath.type",
    "volumes[].image.pullPolicy",
    "volumes[].image.reference",
    "volumes[].name",
    "volumes[].persistentVolumeClaim.claimName",
    "volumes[].persistentVolumeClaim.readOnly",
    "volumes[].projected.defaultMode",
    "volumes[].projected.sources[].configMap.*",
    "volumes[].projected.sources[].downwardAPI.items[].fieldRef.*",
    "volumes[].projected.sources[].downwardAPI.items[].mode",
    "volumes[].projected.sources[].downwardAPI.items[].path",
    "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.*",
    "volumes[].projected.sources[].secret.*",
    "volumes[].projected.sources[].serviceAccountToken.*",
    "volumes[].secret.defaultMode",
    "volumes[].secret.items[].*",
    "volumes[].secret.optional",
    "volumes[].secret.secretName",
];

/// Likewise of a container.
pub(super) const CONTAINER_FIELDS: &[&str] = &[
    "args",
    "command",
    "env[].name",
    "env[].value",
    "env[].valueFrom.configMapKeyRef.*",
    "env[].valueFrom.fieldRef.apiVersion",
    "env[].valueFrom.fieldRef.fieldPath",
    "env[].valueFrom.resourceFieldRef.*",
    "env[].valueFrom.secretKeyRef.*",
    "envFrom[].configMapRef.*",
    "envFrom[].prefix",
    "envFrom[].secretRef.*",
    "image",
    "imagePullPolicy",
    "lifecycle.postStart.exec.command",
    "lifecycle.postStart.httpGet.*",
    "lifecycle.postStart.sleep.seconds",
    "lifecycle.preStop.exec.command",
    "lifecycle.preStop.httpGet.*",
    "lifecycle.preStop.sleep.seconds",
    "lifecycle.stopSignal",
    "livenessProbe.*",
    "name",
    "ports[].containerPort",
    "ports[].hostIP",
    "ports[].hostPort",
    "ports[].name",
    "ports[].protocol",
    "readinessProbe.*",
    "resizePolicy[].resourceName",
    "resizePolicy[].restartPolicy",
    "resources.limits.cpu",
    "resources.limits.ephemeral-storage",
    "resources.limits.memory",
    "resources.requests.cpu",
    "resources.requests.ephemeral-storage",
    "resources.requests.memory",
    "restartPolicy",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.capabilities.add",
    "securityContext.capabilities.drop",
    "securityContext.privileged",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.*",
    "startupProbe.*",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts[].mountPath",
    "volumeMounts[].mountPropagation",
    "volumeMounts[].name",
    "volumeMounts[].readOnly",
    "volumeMounts[].subPath",
    "volumeMounts[].subPathExpr",
    "workingDir",
];

/// Fields that are set and that nothing here carries out.
pub(super) fn unsupported(object: &Value, path: &str, supported: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    walk(object, path, "", supported, &mut causes);
    causes
}

fn walk(value: &Value, path: &str, pattern: &str, supported: &[&str], causes: &mut Vec<Cause>) {
    let covers = |entry: &&str| *entry == pattern || entry.strip_suffix(".*").is_some_and(|e| pattern.starts_with(e));
    if supported.iter().any(covers) || value.is_null() {
        return;
    }
    let leads = |entry: &&str| {
        pattern.is_empty() || entry.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(['.', '[']))
    };
    if !supported.iter().any(leads) {
        causes.push(Cause::unsupported(path, "this field is not supported yet"));
        return;
    }
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let pattern = if pattern.is_empty() { key.clone() } else { format!("{pattern}.{key}") };
                walk(value, &format!("{path}.{key}"), &pattern, supported, causes);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{path}[{index}]"), &format!("{pattern}[]"), supported, causes);
            }
        }
        _ => {}
    }
}
