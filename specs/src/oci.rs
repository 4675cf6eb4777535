//! OCI runtime-spec documents: `config.json`, `process.json`.
//!
//! The types are those of `oci-spec`. What is added here is the one clear line that a person gets for a
//! document that does not fit: the JSON path, what stood there and what is allowed.

pub use oci_spec::runtime::*;

use crate::json_path::path_at;
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

/// Parses resources, as `update --resources` takes them (runtime-spec, config-linux.md#control-groups).
pub fn parse_resources(bytes: &[u8]) -> Result<Parsed<LinuxResources>, InvalidDocument> {
    Ok(Parsed { value: deserialize("resources", bytes)?, warnings: Vec::new() })
}

/// What `oci-spec` does not read as the standard's users write it is mended once, and the document read again.
fn parse<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<Parsed<T>, InvalidDocument> {
    let page_sizes = bytes.windows(PAGE_SIZE_IN_SMALL.len()).any(|window| window == PAGE_SIZE_IN_SMALL);
    if !page_sizes {
        let error = match deserialize(document, bytes) {
            Ok(value) => return Ok(Parsed { value, warnings: Vec::new() }),
            Err(error) => error,
        };
        let InvalidDocument::Field { field, problem, .. } = &error else { return Err(error) };
        let missing_user = matches!(field.as_str(), "process" | ".") && problem == "missing field \"user\"";
        if !missing_user && !field.contains("capabilities.") && !field.contains("scheduler.flags") {
            return Err(error);
        }
    }
    let mut tree: serde_json::Value = deserialize(document, bytes)?;
    let mut warnings = Vec::new();
    mend_page_sizes(&mut tree);
    let process = if document == "config.json" { tree.get_mut("process") } else { Some(&mut tree) };
    if let Some(serde_json::Value::Object(process)) = process {
        // Callers' tools leave zeroes out: a process without `user` is root's, as other runtimes read it.
        process.entry("user").or_insert_with(|| serde_json::json!({}));
        mend_scheduler_flags(process);
        drop_unknown_capabilities(document, process, &mut warnings);
    }
    Ok(Parsed { value: deserialize(document, tree.to_string().as_bytes())?, warnings })
}

fn deserialize<T: DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T, InvalidDocument> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(&mut deserializer).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            let field = path_at(bytes, error.line(), error.column());
            InvalidDocument::Field { document: document.into(), problem: explain(&error, &field), field }
        }
        _ => InvalidDocument::Syntax { document: document.into(), problem: error.to_string() },
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

/// A key that callers in Go get away with, as their parser does not tell capitals from small letters.
const PAGE_SIZE_IN_SMALL: &[u8] = b"\"pagesize\"";

fn mend_page_sizes(tree: &mut serde_json::Value) {
    let limits = tree.pointer_mut("/linux/resources/hugepageLimits").and_then(serde_json::Value::as_array_mut);
    for limit in limits.into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
        if let Some(size) = limit.remove("pagesize") {
            limit.entry("pageSize").or_insert(size);
        }
    }
}

type Object = serde_json::Map<String, serde_json::Value>;

/// `oci-spec` writes two of the standard's scheduler flags in its own way; the standard's are turned into those.
fn mend_scheduler_flags(process: &mut Object) {
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        *flag = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => continue,
        };
    }
}

/// The names `oci-spec` refuses are taken out of the capability lists, with a warning each: a newer caller may know
/// capabilities that this kernel interface does not.
fn drop_unknown_capabilities(document: &str, process: &mut Object, warnings: &mut Vec<String>) {
    let Some(serde_json::Value::Object(sets)) = process.get_mut("capabilities") else { return };
    for (set, names) in sets.iter_mut() {
        let serde_json::Value::Array(names) = names else { continue };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if !known && name.is_string() {
                warnings.push(format!("{document}: capabilities.{set}: unknown capability {name} is ignored"));
            }
            known || !name.is_string()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_in_small_letters_is_read() {
        let text = r#"{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["a"]},
            "linux":{"resources":{"hugepageLimits":[{"pagesize":"2MB","limit":4}]}}}"#;
        let spec = parse_config(text.as_bytes()).expect("parse").value;
        let limits = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref())
            .and_then(|r| r.hugepage_limits().clone());
        assert_eq!(limits.expect("limits")[0].page_size(), "2MB");
    }

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
    fn a_process_inside_a_process_document_is_no_process() {
        for json in [r#"{"process":{},"cwd":"/"}"#, r#"{"process":5,"cwd":"/"}"#] {
            let process = parse_process(json.as_bytes()).expect("parse").value;
            assert_eq!(process.user().uid(), 0);
        }
    }

    #[test]
    fn what_is_mended_is_mended_together() {
        let json = r#"{"process":{"cwd":"/","capabilities":{"bounding":["CAP_DREAM"]},
            "scheduler":{"policy":"SCHED_DEADLINE","flags":["SCHED_FLAG_DL_OVERRUN"]}}}"#;
        assert_eq!(parse_config(json.as_bytes()).expect("parse").warnings.len(), 1);
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
