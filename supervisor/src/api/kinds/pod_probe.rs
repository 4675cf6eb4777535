//! What a container's probes and lifecycle hooks may say, and what they say where nothing is written.

use serde_json::Value;

use super::pod::{items, one_of};
use super::{integer, set_default, text};
use crate::api::status::Cause;
use crate::pod::bundle::parse_signal;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const PROBE_HANDLERS: &[&str] = &["exec", "grpc", "httpGet", "tcpSocket"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "sleep"];
/// Of an IANA service name (RFC 6335, section 5.1).
const LONGEST_PORT_NAME: usize = 15;

/// Fills in what the probes and hooks of a container leave out.
pub(super) fn probe_defaults(container: &mut Value) {
    for name in PROBES {
        let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) else { continue };
        let defaults = [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)];
        for (field, value) in defaults {
            // 0 is the same as nothing, as Kubernetes has it.
            if probe.get(field).is_none_or(|written| *written == 0) {
                probe[field] = value.into();
            }
        }
        http_defaults(probe);
        if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
            set_default(grpc, "service", "");
        }
    }
    for hook in HOOKS {
        if let Some(hook) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            http_defaults(hook);
        }
    }
}

fn http_defaults(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet").filter(|http| http.is_object()) {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
}

/// What is wrong with the probes and hooks of the container at `path`. One that runs to its end before the others begin
/// (`is_init`) has none. `grace` is the pod's.
pub(super) fn probe_causes(container: &Value, path: &str, is_init: bool, grace: i64, causes: &mut Vec<Cause>) {
    let present = |field: &&&str| container.get(**field).is_some_and(|value| !value.is_null());
    for field in PROBES.iter().chain(&["lifecycle"]).filter(present) {
        let path = format!("{path}.{field}");
        if is_init {
            causes.push(Cause::forbidden(path, "may not be set for init containers without restartPolicy=Always"));
        } else if *field != "lifecycle" {
            one_probe(&container[*field], &path, field, causes);
        }
    }
    if is_init {
        return;
    }
    for hook in HOOKS {
        if let Some(handler) = container.pointer(&format!("/lifecycle/{hook}")).filter(|hook| !hook.is_null()) {
            handler_causes(handler, &format!("{path}.lifecycle.{hook}"), HOOK_HANDLERS, grace, causes);
        }
    }
}

fn one_probe(probe: &Value, path: &str, name: &str, causes: &mut Vec<Cause>) {
    handler_causes(probe, path, PROBE_HANDLERS, 0, causes);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        let value = integer(probe, &format!("/{field}"));
        if value < 0 {
            causes.push(Cause::invalid(format!("{path}.{field}"), value, "must be greater than or equal to 0"));
        }
    }
    let successes = integer(probe, "/successThreshold");
    if name != "readinessProbe" && successes > 1 {
        causes.push(Cause::invalid(format!("{path}.successThreshold"), successes, "must be 1"));
    }
    if let Some(grace) = probe.get("terminationGracePeriodSeconds").and_then(Value::as_i64) {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            causes.push(Cause::invalid(path, grace, "must not be set for readinessProbes"));
        } else if grace <= 0 {
            causes.push(Cause::invalid(path, grace, "must be greater than 0"));
        }
    }
}

/// `grace` bounds the sleep of a hook.
fn handler_causes(handler: &Value, path: &str, known: &[&str], grace: i64, causes: &mut Vec<Cause>) {
    let given: Vec<&str> =
        known.iter().copied().filter(|name| handler.get(*name).is_some_and(|value| !value.is_null())).collect();
    if given.is_empty() {
        causes.push(Cause::required(path, "must specify a handler type"));
    }
    for (index, name) in given.into_iter().enumerate() {
        let (action, path) = (&handler[name], format!("{path}.{name}"));
        if index > 0 {
            causes.push(Cause::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match name {
            "exec" if items(action, "command").is_empty() => {
                causes.push(Cause::required(format!("{path}.command"), "the program to run and its arguments"));
            }
            "grpc" => port_number(&action["port"], &format!("{path}.port"), causes),
            "tcpSocket" => port(&action["port"], &format!("{path}.port"), causes),
            "httpGet" => http_causes(action, &path, causes),
            "sleep" => {
                let seconds = integer(action, "/seconds");
                if seconds < 0 || seconds > grace {
                    let message = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    causes.push(Cause::invalid(format!("{path}.seconds"), seconds, &message));
                }
            }
            _ => {}
        }
    }
}

fn http_causes(http: &Value, path: &str, causes: &mut Vec<Cause>) {
    if text(http, "/path").is_empty() {
        causes.push(Cause::required(format!("{path}.path"), "the path to ask for"));
    }
    port(&http["port"], &format!("{path}.port"), causes);
    one_of(http, path, "scheme", &["HTTP", "HTTPS"], causes);
    for (index, header) in items(http, "httpHeaders").iter().enumerate() {
        let path = format!("{path}.httpHeaders[{index}]");
        let name = text(header, "/name");
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name')";
            causes.push(Cause::invalid(format!("{path}.name"), format_args!("{name:?}"), message));
        }
        let value = text(header, "/value");
        if value.chars().any(|c| c.is_control() && c != '\t') {
            let message = "must be without line breaks and other control characters";
            causes.push(Cause::invalid(format!("{path}.value"), format_args!("{value:?}"), message));
        }
    }
}

/// A number, or the name of one of the container's ports.
fn port(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(name) = port.as_str() else { return port_number(port, path, causes) };
    let message = if name.len() > LONGEST_PORT_NAME {
        "must be no more than 15 characters"
    } else if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !name.contains(|c: char| c.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if name.contains("--") {
        "must not contain consecutive hyphens"
    } else if name.starts_with('-') || name.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return;
    };
    causes.push(Cause::invalid(path, format_args!("{name:?}"), message));
}

fn port_number(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    let number = port.as_i64().unwrap_or(0);
    if !(1..=65_535).contains(&number) {
        causes.push(Cause::invalid(path, number, "must be between 1 and 65535, inclusive"));
    }
}

pub(super) fn stop_signal_causes(container: &Value, path: &str, os: &str, causes: &mut Vec<Cause>) {
    let Some(signal) = container.pointer("/lifecycle/stopSignal").filter(|signal| !signal.is_null()) else { return };
    let path = format!("{path}.lifecycle.stopSignal");
    let name = signal.as_str().unwrap_or_default();
    if os.is_empty() {
        causes.push(Cause::forbidden(path, "may not be set for containers with empty `spec.os.name`"));
    } else if !name.starts_with("SIG") || parse_signal(name).is_none() {
        causes.push(Cause::unsupported(path, &format!("{name:?}: a signal's name, such as \"SIGTERM\"")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(container: Value, is_init: bool) -> Vec<String> {
        let mut container = container;
        probe_defaults(&mut container);
        let mut causes = Vec::new();
        probe_causes(&container, "c", is_init, 30, &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn every_handler_is_taken_with_its_defaults() {
        let mut container = json!({
            "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 0, "terminationGracePeriodSeconds": 5},
            "readinessProbe": {"exec": {"command": ["true"]}, "successThreshold": 2},
            "startupProbe": {"grpc": {"port": 90}},
            "lifecycle": {"postStart": {"exec": {"command": ["true"]}}, "preStop": {"sleep": {"seconds": 30}}},
        });
        assert_eq!(fields(container.clone(), false), Vec::<String>::new());
        probe_defaults(&mut container);
        assert_eq!(container["livenessProbe"]["periodSeconds"], 10);
        assert_eq!(container["livenessProbe"]["httpGet"], json!({"port": "http", "path": "/", "scheme": "HTTP"}));
        assert_eq!(container["startupProbe"]["grpc"]["service"], "");
    }

    #[test]
    fn wrong_probes_and_hooks_are_named_with_their_path() {
        for (container, expected) in [
            (json!({"livenessProbe": {}}), "c.livenessProbe: Required value: must specify a handler type"),
            (
                json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
                "c.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ),
            (
                json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
                "c.livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                json!({"livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": -1}}),
                "c.livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1}}),
                "c.readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 70000, "path": "/"}}}),
                "c.readinessProbe.httpGet.port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": "9-"}}}),
                "c.readinessProbe.httpGet.port: Invalid value: \"9-\": must contain at least one letter (a-z)",
            ),
            (
                json!({"startupProbe": {"exec": {"command": []}}}),
                "c.startupProbe.exec.command: Required value: the program to run and its arguments",
            ),
            (
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
                "c.lifecycle.preStop.sleep.seconds: Invalid value: 31: must be non-negative and less than \
                 terminationGracePeriodSeconds (30)",
            ),
            (
                json!({"lifecycle": {"postStart": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}}}),
                "c.lifecycle.postStart.httpGet.httpHeaders[0].name: Invalid value: \"a b\": a valid HTTP header must \
                 consist of alphanumeric characters or '-' (e.g. 'X-Header-Name')",
            ),
        ] {
            assert_eq!(fields(container, false), [expected]);
        }
        let probe = json!({"livenessProbe": {"tcpSocket": {"port": 1}}, "lifecycle": {}});
        assert_eq!(fields(probe, true).len(), 2);
    }
}
