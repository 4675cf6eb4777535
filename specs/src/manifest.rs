//! Kubernetes objects as people write them: YAML or JSON, several documents in a file.
//!
//! [`parse`] gives each document as a JSON value whose shape was checked against the type of its kind, so that a wrong
//! type is reported with its line and field. [`check`] does the same for an object that is JSON already.

use crate::json_path::path_at;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event as RegardingEvent;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest manifest file accepted, in bytes; Kubernetes' own limit for one object is half of it.
pub const MAX_MANIFEST_BYTES: usize = 3 << 20;

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    /// `None` where the manifest leaves it to the context.
    pub namespace: Option<String>,
    /// The document as written.
    pub object: Value,
    /// First line of the document in its file, from 1.
    pub line: usize,
}

/// Why a manifest was refused; each names the line, and the field where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("file is {size} bytes long, the limit is {MAX_MANIFEST_BYTES}")]
    TooLarge { size: usize },
    #[error("{0}")]
    Syntax(String),
    #[error("line {line}: {field} is missing")]
    Missing { line: usize, field: &'static str },
    #[error("line {line}: kind {kind:?} of apiVersion {api_version:?} is not known; known are {}", known_kinds())]
    UnknownKind { line: usize, api_version: String, kind: String },
    #[error("line {line}: unknown field {field}")]
    UnknownField { line: usize, field: String },
}

/// A kind's type, reduced to what checking needs.
struct KnownKind {
    api_version: &'static str,
    kind: &'static str,
    check_yaml: fn(&str) -> Result<Value, serde_yaml_ng::Error>,
    check_json: fn(&str) -> Result<Value, serde_json::Error>,
}

impl KnownKind {
    const fn of<T: DeserializeOwned + Serialize>(api_version: &'static str, kind: &'static str) -> Self {
        Self { api_version, kind, check_yaml: read_yaml::<T>, check_json: read_json::<T> }
    }
}

const KNOWN_KINDS: &[KnownKind] = &[
    KnownKind::of::<ControllerRevision>("apps/v1", "ControllerRevision"),
    KnownKind::of::<DaemonSet>("apps/v1", "DaemonSet"),
    KnownKind::of::<Deployment>("apps/v1", "Deployment"),
    KnownKind::of::<ReplicaSet>("apps/v1", "ReplicaSet"),
    KnownKind::of::<Job>("batch/v1", "Job"),
    KnownKind::of::<Lease>("coordination.k8s.io/v1", "Lease"),
    KnownKind::of::<ConfigMap>("v1", "ConfigMap"),
    KnownKind::of::<Endpoints>("v1", "Endpoints"),
    KnownKind::of::<Event>("v1", "Event"),
    KnownKind::of::<Namespace>("v1", "Namespace"),
    KnownKind::of::<Node>("v1", "Node"),
    KnownKind::of::<PersistentVolume>("v1", "PersistentVolume"),
    KnownKind::of::<PersistentVolumeClaim>("v1", "PersistentVolumeClaim"),
    KnownKind::of::<Pod>("v1", "Pod"),
    KnownKind::of::<Secret>("v1", "Secret"),
    KnownKind::of::<Service>("v1", "Service"),
    KnownKind::of::<ServiceAccount>("v1", "ServiceAccount"),
    KnownKind::of::<EndpointSlice>("discovery.k8s.io/v1", "EndpointSlice"),
    KnownKind::of::<RegardingEvent>("events.k8s.io/v1", "Event"),
    KnownKind::of::<ClusterRole>("rbac.authorization.k8s.io/v1", "ClusterRole"),
    KnownKind::of::<ClusterRoleBinding>("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    KnownKind::of::<Role>("rbac.authorization.k8s.io/v1", "Role"),
    KnownKind::of::<RoleBinding>("rbac.authorization.k8s.io/v1", "RoleBinding"),
    KnownKind::of::<PriorityClass>("scheduling.k8s.io/v1", "PriorityClass"),
    KnownKind::of::<StorageClass>("storage.k8s.io/v1", "StorageClass"),
];

/// What is asked and answered, never kept: no manifest has them.
const QUESTIONS: &[KnownKind] = &[
    KnownKind::of::<SelfSubjectReview>("authentication.k8s.io/v1", "SelfSubjectReview"),
    KnownKind::of::<TokenRequest>("authentication.k8s.io/v1", "TokenRequest"),
    KnownKind::of::<TokenReview>("authentication.k8s.io/v1", "TokenReview"),
    KnownKind::of::<LocalSubjectAccessReview>("authorization.k8s.io/v1", "LocalSubjectAccessReview"),
    KnownKind::of::<SelfSubjectAccessReview>("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
    KnownKind::of::<SelfSubjectRulesReview>("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
    KnownKind::of::<SubjectAccessReview>("authorization.k8s.io/v1", "SubjectAccessReview"),
];

fn known_kinds() -> String {
    let names: Vec<String> = KNOWN_KINDS.iter().map(|k| format!("{} ({})", k.kind, k.api_version)).collect();
    names.join(", ")
}

fn known_kind(api_version: &str, kind: &str) -> Option<&'static KnownKind> {
    KNOWN_KINDS.iter().find(|k| k.api_version == api_version && k.kind == kind)
}

fn read_yaml<T: DeserializeOwned + Serialize>(text: &str) -> Result<Value, serde_yaml_ng::Error> {
    let typed: T = serde_yaml_ng::from_str(text)?;
    Ok(serde_json::to_value(typed).unwrap_or_default())
}

fn read_json<T: DeserializeOwned + Serialize>(text: &str) -> Result<Value, serde_json::Error> {
    let typed: T = serde_json::from_str(text)?;
    Ok(serde_json::to_value(typed).unwrap_or_default())
}

/// Reads every document of a manifest file.
pub fn parse(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge { size: text.len() });
    }
    let mut manifests = Vec::new();
    for (line, document) in documents(text) {
        if let Some(manifest) = parse_document(line, document)? {
            manifests.push(manifest);
        }
    }
    Ok(manifests)
}

/// The documents of a YAML stream, each with the line it starts on.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            documents.push((start_line, &text[start..offset]));
            start = offset + line.len();
            start_line = index + 2;
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

fn parse_document(line: usize, document: &str) -> Result<Option<Manifest>, ManifestError> {
    // Leading newlines keep the parser's line numbers those of the file.
    let padded = "\n".repeat(line - 1) + document;
    let object: Value = serde_yaml_ng::from_str(&padded).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    if object.is_null() {
        return Ok(None);
    }
    let text_of = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let content_line = line + document.lines().take_while(|l| l.trim().is_empty() || l.starts_with('#')).count();
    let missing = |field| ManifestError::Missing { line: content_line, field };
    let api_version = text_of("/apiVersion").ok_or_else(|| missing("apiVersion"))?;
    let kind = text_of("/kind").ok_or_else(|| missing("kind"))?;
    let known = known_kind(&api_version, &kind).ok_or_else(|| ManifestError::UnknownKind {
        line: line_of_key(document, line, "kind").unwrap_or(content_line),
        api_version: api_version.clone(),
        kind: kind.clone(),
    })?;
    let typed = (known.check_yaml)(&padded).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let name = text_of("/metadata/name").ok_or_else(|| missing("metadata.name"))?;
    if let Some(field) = lost_fields(&object, &typed).into_iter().next() {
        let key = field.rsplit(['.', ']']).next().unwrap_or_default();
        let line = line_of_key(document, line, key).unwrap_or(content_line);
        return Err(ManifestError::UnknownField { line, field });
    }
    let namespace = text_of("/metadata/namespace");
    Ok(Some(Manifest { api_version, kind, name, namespace, object, line: content_line }))
}

/// The first line that starts with `key:`, at any depth.
fn line_of_key(document: &str, first_line: usize, key: &str) -> Option<usize> {
    let is_key = |line: &str| {
        let line = line.trim_start().trim_start_matches("- ");
        line.trim_matches('"').strip_prefix(key).is_some_and(|rest| rest.trim_start_matches('"').starts_with(':'))
    };
    document.lines().position(is_key).map(|index| first_line + index)
}

/// Why a JSON object is not of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("no kind {kind:?} in apiVersion {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("{field}: {message}")]
    Type { field: String, message: String },
}

/// An object reduced to the fields of its kind, and the names of the fields that were left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub object: Value,
    pub unknown_fields: Vec<String>,
}

/// Checks `object` against the type of its kind.
pub fn check(api_version: &str, kind: &str, object: &Value) -> Result<Checked, ShapeError> {
    let question = || QUESTIONS.iter().find(|known| known.api_version == api_version && known.kind == kind);
    let known = known_kind(api_version, kind)
        .or_else(question)
        .ok_or_else(|| ShapeError::UnknownKind { api_version: api_version.into(), kind: kind.into() })?;
    // As text again: the place of an error in it leads to the field.
    let text = object.to_string();
    let typed = (known.check_json)(&text).map_err(|error| {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text).to_string();
        ShapeError::Type { field: path_at(text.as_bytes(), error.line(), error.column()), message }
    })?;
    let unknown_fields = lost_fields(object, &typed);
    Ok(Checked { object: typed, unknown_fields })
}

/// Fields that did not survive the way through the typed object: the type does not have them.
fn lost_fields(written: &Value, typed: &Value) -> Vec<String> {
    let mut lost = Vec::new();
    collect_lost(written, typed, &mut String::new(), &mut lost);
    lost
}

fn collect_lost(written: &Value, typed: &Value, path: &mut String, lost: &mut Vec<String>) {
    let length = path.len();
    match (written, typed) {
        (Value::Object(written), Value::Object(typed)) => {
            for (key, value) in written {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                match typed.get(key) {
                    Some(typed) => collect_lost(value, typed, path, lost),
                    // The types leave out null and what is empty: nothing was said there.
                    None if is_empty(value) => {}
                    None => lost.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        (Value::Array(written), Value::Array(typed)) => {
            for (index, (written, typed)) in written.iter().zip(typed).enumerate() {
                path.push_str(&format!("[{index}]"));
                collect_lost(written, typed, path, lost);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENT: &str = "\
# a comment
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: web:1
";

    #[test]
    fn documents_keep_their_lines() {
        let text = format!("{DEPLOYMENT}---\n\napiVersion: v1\nkind: Namespace\nmetadata: {{name: a}}\n---\n");
        let manifests = parse(&text).unwrap();
        let seen: Vec<_> = manifests.iter().map(|m| (m.kind.as_str(), m.name.as_str(), m.line)).collect();
        assert_eq!(seen, [("Deployment", "web", 2), ("Namespace", "a", 19)]);
    }

    #[test]
    fn a_wrong_type_names_line_and_field() {
        let error = parse(&DEPLOYMENT.replace("replicas: 3", "replicas: three")).unwrap_err().to_string();
        assert!(error.contains("spec.replicas") && error.contains("line 7"), "{error}");
    }

    #[test]
    fn an_unknown_kind_names_its_line_and_what_is_known() {
        let error = parse(&DEPLOYMENT.replace("kind: Deployment", "kind: Deploymint")).unwrap_err().to_string();
        assert!(error.starts_with("line 3: kind \"Deploymint\"") && error.contains("Deployment (apps/v1)"), "{error}");
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = parse(&DEPLOYMENT.replace("        image:", "        imagge: x\n        image:")).unwrap_err();
        let expected =
            ManifestError::UnknownField { line: 16, field: "spec.template.spec.containers[0].imagge".into() };
        assert_eq!(error, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(parse("kind: Pod\n"), Err(ManifestError::Missing { line: 1, field: "apiVersion" }));
        let nameless = "apiVersion: v1\nkind: Namespace\nmetadata: {}\n";
        assert_eq!(parse(nameless), Err(ManifestError::Missing { line: 1, field: "metadata.name" }));
    }

    #[test]
    fn broken_yaml_names_its_line() {
        let error = parse("apiVersion: v1\nkind: [\n").unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
    }

    #[test]
    fn empty_files_hold_nothing() {
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse("---\n# only a comment\n---\n"), Ok(vec![]));
    }
}
