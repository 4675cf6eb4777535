//! OCI runtime-spec documents: `config.json`, `process.json`.
//!
//! The types are those of `oci-spec`. What is added here is the one clear line that a person gets for a
//! document that does not fit: the JSON path, what stood there and what is allowed.

pub use oci_spec::runtime::*;

use serde::de::DeserializeOwned;

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// The bytes are not JSON at all.
    #[error("{document}: not JSON: {problem}")]
    Syntax { document: String, problem: String },
    /// A value does not fit its field.
    #[error("{document}: {field}: {problem}")]
    Field { document: String, field: String, problem: String },
}

/// A document, and what in it was passed over.
#[derive(Debug, Clone)]
pub struct Parsed<T> {
    pub value: T,
    /// One line each; the runtime-spec asks for a warning where a capability is unknown.
    pub warnings: Vec<String>,
}

/// Parses a `config.json` (runtime-spec, config.md).
pub fn parse_config(bytes: &[u8]) -> Result<Parsed<Spec>, InvalidDocument> {
    parse("config.json", bytes)
}

/// Parses a `process.json`, as `exec --process` takes it (runtime-spec, config.md#process).
pub fn parse_process(bytes: &[u8]) -> Result<Parsed<Process>, InvalidDocument> {
    parse("process.json", bytes)
}

fn parse<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<Parsed<T>, InvalidDocument> {
    match deserialize(document, bytes) {
        Ok(value) => Ok(Parsed { value, warnings: Vec::new() }),
        Err(InvalidDocument::Field { field, .. }) if field.contains("capabilities.") => {
            parse_without_unknown_capabilities(document, bytes)
        }
        Err(InvalidDocument::Field { field, problem, .. }) if field.contains("scheduler.flags") => {
            let error = InvalidDocument::Field { document: document.into(), field, problem };
            parse_with_own_scheduler_flags(document, bytes)?.ok_or(error)
        }
        Err(InvalidDocument::Field { field, problem, .. })
            if matches!(field.as_str(), "process" | ".") && problem == "missing field \"user\"" =>
        {
            parse_with_root_as_user(document, bytes)
        }
        Err(error) => Err(error),
    }
}

fn deserialize<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T, InvalidDocument> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => {
                InvalidDocument::Field { document: document.into(), problem: explain(&inner, &field), field }
            }
            _ => InvalidDocument::Syntax { document: document.into(), problem: inner.to_string() },
        }
    })?;
    deserializer
        .end()
        .map_err(|error| InvalidDocument::Syntax { document: document.into(), problem: error.to_string() })?;
    Ok(value)
}

/// Rewrites serde's sentence into: what was found, then what is allowed.
fn explain(error: &serde_json::Error, field: &str) -> String {
    let full = error.to_string();
    let text = full.rsplit_once(" at line ").map_or(full.as_str(), |(text, _)| text);
    let memory_policy = if field.contains("memoryPolicy") { "invalid memory policy " } else { "" };
    let Some(rest) = text.strip_prefix("unknown variant `") else {
        if !memory_policy.is_empty() && text.contains("`mode`") {
            return "invalid memory policy mode: it is missing".into();
        }
        return text.replace('`', "\"");
    };
    let Some((found, expected)) = rest.split_once("`, expected ") else {
        return text.replace('`', "\"");
    };
    let allowed = expected.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ");
    let noun = if field.contains("namespaces[") { "a namespace" } else { "an allowed value" };
    if !memory_policy.is_empty() {
        let what = if field.contains("flags") { "flag" } else { "mode" };
        return format!("{memory_policy}{what} {found:?}; allowed: {allowed}");
    }
    format!("{found:?} is not {noun}; allowed: {allowed}")
}

/// `oci-spec` writes two of the standard's scheduler flags in its own way; the standard's are turned into those.
/// None if there are none of them.
fn parse_with_own_scheduler_flags<T: DeserializeOwned>(
    document: &str,
    bytes: &[u8],
) -> Result<Option<Parsed<T>>, InvalidDocument> {
    let mut tree: serde_json::Value = deserialize(document, bytes)?;
    let mut changed = false;
    let pointer = if tree.get("process").is_some() { "/process/scheduler/flags" } else { "/scheduler/flags" };
    for flag in tree.pointer_mut(pointer).and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        *flag = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => continue,
        };
        changed = true;
    }
    if changed { parse(document, tree.to_string().as_bytes()).map(Some) } else { Ok(None) }
}

/// A process without `user` is root's, as other runtimes read it: callers' tools leave zeroes out.
fn parse_with_root_as_user<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<Parsed<T>, InvalidDocument> {
    let mut tree: serde_json::Value = deserialize(document, bytes)?;
    let process = if tree.get("process").is_some() { &mut tree["process"] } else { &mut tree };
    process["user"] = serde_json::json!({});
    parse(document, tree.to_string().as_bytes())
}

/// The names `oci-spec` refuses are taken out of the capability lists, with a warning each, and the document
/// is read once more: a newer caller may know capabilities that this kernel interface does not.
fn parse_without_unknown_capabilities<T: DeserializeOwned>(
    document: &str,
    bytes: &[u8],
) -> Result<Parsed<T>, InvalidDocument> {
    let mut tree: serde_json::Value = deserialize(document, bytes)?;
    let mut warnings = Vec::new();
    let pointer = if tree.get("process").is_some() { "/process/capabilities" } else { "/capabilities" };
    if let Some(serde_json::Value::Object(sets)) = tree.pointer_mut(pointer) {
        for (set, names) in sets.iter_mut() {
            if let serde_json::Value::Array(names) = names {
                names.retain(|name| {
                    let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
                    if !known && name.is_string() {
                        warnings.push(format!("{document}: capabilities.{set}: unknown capability {name} is ignored"));
                    }
                    known || !name.is_string()
                });
            }
        }
    }
    let bytes = tree.to_string();
    Ok(Parsed { value: deserialize(document, bytes.as_bytes())?, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> String {
        parse_config(json.as_bytes()).expect_err("the document must be refused").to_string()
    }

    #[test]
    fn unknown_namespace_names_the_field_and_what_is_allowed() {
        let text = message(r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"foo"}]}}"#);
        assert_eq!(
            text,
            "config.json: linux.namespaces[1].type: \"foo\" is not a namespace; allowed: mount, cgroup, uts, ipc, user, pid, network, time"
        );
    }

    #[test]
    fn wrong_type_names_the_field() {
        let text = message(r#"{"process":{"user":{"uid":-1,"gid":0},"cwd":"/"}}"#);
        assert!(text.starts_with("config.json: process.user.uid: invalid value"), "{text}");
    }

    #[test]
    fn text_that_is_no_json_is_called_so() {
        assert!(message("hello").starts_with("config.json: not JSON: "), "{}", message("hello"));
        assert!(message("{} {}").starts_with("config.json: not JSON: "));
    }

    #[test]
    fn a_process_without_user_is_roots() {
        let process = parse_process(br#"{"cwd":"/","args":["a"]}"#).expect("parse").value;
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        assert!(parse_config(br#"{"process":{"cwd":"/","args":["a"]}}"#).is_ok());
    }

    #[test]
    fn scheduler_flags_are_the_standards() {
        let json = br#"{"cwd":"/","scheduler":{"policy":"SCHED_DEADLINE","flags":["SCHED_FLAG_RESET_ON_FORK"]}}"#;
        assert!(parse_process(json).is_ok());
    }

    #[test]
    fn unknown_capability_is_a_warning() {
        let json = r#"{"process":{"user":{},"cwd":"/","capabilities":{"bounding":["CAP_CHOWN","CAP_DREAM"]}}}"#;
        let parsed = parse_config(json.as_bytes()).expect("parse");
        assert_eq!(parsed.warnings.len(), 1);
        let process = parsed.value.process().as_ref().expect("process");
        let capabilities = process.capabilities().as_ref().expect("capabilities");
        assert_eq!(capabilities.bounding().as_ref().map(|set| set.len()), Some(1));
    }
}
