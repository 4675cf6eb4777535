//! Pods, and the templates of pods in other kinds.

use serde_json::Value;
use wharf_supervisor::api::kinds::pod::items;
use wharf_supervisor::api::kinds::{integer, text};

use super::page::{Page, value_text};

/// Lists of containers in a specification, of their statuses, and their title.
const CONTAINERS: [(&str, &str, &str); 3] = [
    ("initContainers", "initContainerStatuses", "Init Containers"),
    ("containers", "containerStatuses", "Containers"),
    ("ephemeralContainers", "ephemeralContainerStatuses", "Ephemeral Containers"),
];

pub(super) fn pod(page: &mut Page, pod: &Value) {
    page.fields(
        pod,
        &[
            ("Node", "/spec/nodeName"),
            ("Nominated Node", "/status/nominatedNodeName"),
            ("Priority Class", "/spec/priorityClassName"),
            ("Priority", "/spec/priority"),
            ("Start Time", "/status/startTime"),
            ("Status", "/status/phase"),
            ("Reason", "/status/reason"),
            ("Message", "/status/message"),
        ],
    );
    page.lines("IPs", items(&pod["status"], "podIPs").iter().map(|ip| text(ip, "/ip")));
    page.fields(
        pod,
        &[
            ("Host IP", "/status/hostIP"),
            ("QoS Class", "/status/qosClass"),
            ("Service Account", "/spec/serviceAccountName"),
            ("Restart Policy", "/spec/restartPolicy"),
            ("Grace Period (s)", "/spec/terminationGracePeriodSeconds"),
        ],
    );
    placement(page, &pod["spec"]);
    page.tree("Security Context", &pod["spec"]["securityContext"]);
    containers(page, &pod["spec"], &pod["status"]);
    page.tree("Readiness Gates", &pod["spec"]["readinessGates"]);
    volumes(page, &pod["spec"]);
}

/// The template in the specification of an object that makes pods.
pub(super) fn template(page: &mut Page, template: &Value) {
    let mut part = Page::default();
    part.map("Labels", &template["metadata"]["labels"]);
    if let Some(annotations) = template["metadata"].get("annotations") {
        part.map("Annotations", annotations);
    }
    part.fields(
        template,
        &[
            ("Priority Class", "/spec/priorityClassName"),
            ("Service Account", "/spec/serviceAccountName"),
            ("Restart Policy", "/spec/restartPolicy"),
        ],
    );
    placement(&mut part, &template["spec"]);
    part.tree("Security Context", &template["spec"]["securityContext"]);
    containers(&mut part, &template["spec"], &Value::Null);
    volumes(&mut part, &template["spec"]);
    page.part("Pod Template", part);
}

/// Which nodes and which other pods it wants to be with.
fn placement(page: &mut Page, spec: &Value) {
    if let Some(labels) = spec.get("nodeSelector") {
        page.map("Node Selector", labels);
    }
    page.tree("Affinity", &spec["affinity"]);
    page.tree("Topology Spread Constraints", &spec["topologySpreadConstraints"]);
}

fn containers(page: &mut Page, spec: &Value, status: &Value) {
    for (list, statuses, title) in CONTAINERS {
        let mut part = Page::default();
        for own in items(spec, list) {
            let status = items(status, statuses).iter().find(|status| status["name"] == own["name"]);
            part.part(text(own, "/name"), container(own, status.unwrap_or(&Value::Null)));
        }
        page.part(title, part);
    }
}

fn container(container: &Value, status: &Value) -> Page {
    let mut page = Page::default();
    page.fields(status, &[("Container ID", "/containerID")]);
    page.fields(container, &[("Image", "/image")]);
    page.fields(status, &[("Image ID", "/imageID")]);
    let ports = items(container, "ports").iter().map(|port| {
        let name = text(port, "/name");
        let host = integer(port, "/hostPort");
        let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
        let host = if host == 0 { String::new() } else { format!(", {host} on the node") };
        format!("{}/{}{name}{host}", integer(port, "/containerPort"), text(port, "/protocol"))
    });
    page.field("Ports", ports.collect::<Vec<_>>().join("\n"));
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        page.field(title, items(container, field).iter().map(value_text).collect::<Vec<_>>().join("\n"));
    }
    page.fields(container, &[("Working Dir", "/workingDir"), ("Restart Policy", "/restartPolicy")]);
    if status.is_object() {
        page.field("State", state(&status["state"]));
        page.field("Last State", state(&status["lastState"]));
        page.fields(status, &[("Ready", "/ready"), ("Restart Count", "/restartCount")]);
    }
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        page.field(title, value_text(&container["resources"][field]));
    }
    for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        page.field(title, probe(&container[field]));
    }
    page.tree("Lifecycle", &container["lifecycle"]);
    page.tree("Security Context", &container["securityContext"]);
    page.field(
        "Environment From",
        items(container, "envFrom").iter().map(environment_source).collect::<Vec<_>>().join("\n"),
    );
    let variables = items(container, "env").iter().map(|variable| {
        let value = match variable.get("valueFrom") {
            Some(source) => variable_source(source),
            None => text(variable, "/value").to_owned(),
        };
        format!("{}={value}", text(variable, "/name"))
    });
    page.field("Environment", variables.collect::<Vec<_>>().join("\n"));
    let mounts = items(container, "volumeMounts").iter().map(|mount| {
        let read_only = if mount["readOnly"] == true { "ro" } else { "rw" };
        let part = [text(mount, "/subPath"), text(mount, "/subPathExpr")].concat();
        let part = if part.is_empty() { String::new() } else { format!(", path {part}") };
        format!("{} from {} ({read_only}{part})", text(mount, "/mountPath"), text(mount, "/name"))
    });
    page.field("Mounts", mounts.collect::<Vec<_>>().join("\n"));
    page
}

/// A container's state in lines.
fn state(state: &Value) -> String {
    let Some((name, details)) = state.as_object().and_then(|state| state.iter().next()) else { return String::new() };
    let mut lines = vec![name[..1].to_uppercase() + &name[1..]];
    let told = ["reason", "message", "exitCode", "signal", "startedAt", "finishedAt"];
    let shown = told.iter().filter_map(|field| details.get(*field).map(|value| (field, value_text(value))));
    lines.extend(shown.filter(|(_, value)| !value.is_empty()).map(|(field, value)| format!("{field}: {value}")));
    lines.join("\n")
}

fn probe(probe: &Value) -> String {
    let does = if let Some(http) = probe.get("httpGet") {
        let scheme = text(http, "/scheme").to_lowercase();
        format!("http-get {scheme}://{}:{}{}", text(http, "/host"), value_text(&http["port"]), text(http, "/path"))
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(tcp, "/host"), value_text(&tcp["port"]))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc :{} {}", integer(grpc, "/port"), text(grpc, "/service")).trim_end().to_owned()
    } else if let Some(exec) = probe.get("exec") {
        format!("exec [{}]", items(exec, "command").iter().map(value_text).collect::<Vec<_>>().join(" "))
    } else {
        return String::new();
    };
    let number = |field: &str| integer(probe, &format!("/{field}"));
    format!(
        "{does} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    )
}

fn environment_source(source: &Value) -> String {
    let kinds = [("configMapRef", "ConfigMap"), ("secretRef", "Secret")];
    let (field, kind) = kinds.into_iter().find(|(field, _)| source.get(field).is_some()).unwrap_or(("", "?"));
    let prefix = text(source, "/prefix");
    let prefix = if prefix.is_empty() { String::new() } else { format!(" with prefix {prefix:?}") };
    format!("{kind} {}{prefix}", text(&source[field], "/name"))
}

/// Where a variable's value comes from; not the value itself, which may be a secret.
fn variable_source(source: &Value) -> String {
    for (field, kind) in [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")] {
        if let Some(reference) = source.get(field) {
            return format!("<key {} of {kind} {}>", text(reference, "/key"), text(reference, "/name"));
        }
    }
    let field = [text(source, "/fieldRef/fieldPath"), text(source, "/resourceFieldRef/resource")].concat();
    format!("<{field}>")
}

fn volumes(page: &mut Page, spec: &Value) {
    let mut part = Page::default();
    for volume in items(spec, "volumes") {
        let source = volume.as_object().into_iter().flatten().find(|(field, _)| *field != "name");
        let Some((kind, source)) = source else { continue };
        let mut own = Page::default();
        own.field("Type", kind);
        source.as_object().into_iter().flatten().for_each(|(field, value)| own.tree(field, value));
        part.part(text(volume, "/name"), own);
    }
    page.part("Volumes", part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_says_how_it_is_and_no_secret() {
        let spec = json!({"containers": [{
            "name": "main", "image": "i:1", "command": ["sh", "-c", "a\nb"],
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http", "hostPort": 8080}],
            "env": [{"name": "A", "value": "1"}, {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"scheme": "HTTP", "port": "http", "path": "/ok"}, "periodSeconds": 10},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}],
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        let status = json!({"containerStatuses": [{"name": "main", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": ""}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 3}}}]});
        let mut page = Page::default();
        containers(&mut page, &spec, &status);
        volumes(&mut page, &spec);
        let text = page.text();
        for expected in [
            "Ports:          80/TCP (http), 8080 on the node\n",
            "State:          Waiting\n                    reason: CrashLoopBackOff\n",
            "Last State:     Terminated\n                    reason: Error\n                    exitCode: 3\n",
            "Limits:         cpu=1,memory=64Mi\n",
            "Liveness:       http-get http://:http/ok delay=0s timeout=0s period=10s",
            "Environment:    A=1\n                    P=<key k of Secret s>\n                    N=<metadata.name>\n",
            "Mounts:         /v from v (ro)\n",
            "Volumes:\n  v:\n    Type:        secret\n    secretName:  s\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
    }
}
