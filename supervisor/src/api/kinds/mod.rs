//! The kinds this node serves: one file each, gathered in [`KINDS`].

pub mod cluster_role;
pub mod cluster_role_binding;
pub mod config_map;
pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
pub mod job;
pub mod job_index;
mod job_policy;
pub mod lease;
pub mod namespace;
pub mod node;
pub mod node_affinity;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_affinity;
mod pod_columns;
pub mod pod_disruption;
pub(in crate::api) mod pod_ephemeral;
mod pod_fields;
mod pod_probe;
pub mod pod_qos;
pub(in crate::api) mod pod_resize;
mod pod_resources;
mod pod_source;
pub mod pod_tolerations;
mod pod_update;
pub mod priority_class;
pub mod regarding_event;
pub mod replica_set;
pub mod review;
pub mod role;
pub mod role_binding;
pub mod secret;
pub mod service;
pub mod service_account;
pub(crate) mod service_addresses;
mod service_causes;
pub mod storage_class;
mod template_columns;
mod topology_spread;
mod view;
pub mod volume_fields;

use serde_json::Value;

use super::status::Cause;

/// What the API machinery needs to know of a kind.
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    /// Groups of kinds that a client may ask for at once: `all`.
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// What clients may do, as discovery names it.
    pub verbs: &'static [&'static str],
    pub subresources: &'static [&'static str],
    /// Fills in what was left out, on create and update.
    pub set_defaults: fn(&mut Value),
    /// Names every wrong or unsupported field.
    pub validate: fn(&Value) -> Vec<Cause>,
    /// Names fields that may not change from the first object to the second.
    pub validate_update: fn(&Value, &Value) -> Vec<Cause>,
    pub columns: &'static [Column],
}

/// A column of `kubectl get`.
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer` or `date`.
    pub data_type: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
    pub cell: fn(&Value) -> Value,
}

pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Of what the node makes itself and never gives away.
pub const NODES_VERBS: &[&str] = &["get", "list", "patch", "update", "watch"];

/// The sub-resource by which requests go on to a pod.
pub const PROXY: &str = "proxy";

/// Every kind that objects are stored as, in the order of discovery.
pub const KINDS: &[&Kind] = &[
    &namespace::KIND,
    &config_map::KIND,
    &endpoints::KIND,
    &event::KIND,
    &node::KIND,
    &persistent_volume::KIND,
    &persistent_volume_claim::KIND,
    &pod::KIND,
    &secret::KIND,
    &service::KIND,
    &service_account::KIND,
    &controller_revision::KIND,
    &daemon_set::KIND,
    &deployment::KIND,
    &replica_set::KIND,
    &job::KIND,
    &lease::KIND,
    &endpoint_slice::KIND,
    &cluster_role::KIND,
    &cluster_role_binding::KIND,
    &role::KIND,
    &role_binding::KIND,
    &priority_class::KIND,
    &storage_class::KIND,
];

/// Questions: served beside the kinds, but nothing of them is kept.
pub const REVIEWS: &[&Kind] = &[
    &review::SELF_SUBJECT,
    &review::TOKEN,
    &review::LOCAL_SUBJECT_ACCESS,
    &review::SELF_SUBJECT_ACCESS,
    &review::SELF_SUBJECT_RULES,
    &review::SUBJECT_ACCESS,
];

/// Every kind that is served: those that are stored, and others that show the same objects.
pub fn served() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().chain(view::kinds())
}

/// A PUT makes them where there are none: those whose strategy says `AllowCreateOnUpdate` in Kubernetes' registry.
const MADE_BY_PUT: [&Kind; 9] = [
    &endpoints::KIND,
    &event::KIND,
    &regarding_event::KIND,
    &service::KIND,
    &lease::KIND,
    &cluster_role::KIND,
    &cluster_role_binding::KIND,
    &role::KIND,
    &role_binding::KIND,
];

/// Requests go on to what is behind them.
const PROXIED: [&Kind; 2] = [&pod::KIND, &service::KIND];

impl Kind {
    pub fn is_made_by_put(&self) -> bool {
        MADE_BY_PUT.iter().any(|kind| std::ptr::eq(*kind, self))
    }

    /// Every sub-resource, [`PROXY`] among them.
    pub fn parts(&'static self) -> impl Iterator<Item = &'static str> {
        let proxy = PROXIED.iter().any(|kind| std::ptr::eq(*kind, self)).then_some(PROXY);
        self.subresources.iter().copied().chain(proxy)
    }

    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.into(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The rule that a name breaks, if it does.
    pub fn broken_name_rule(&self, name: &str) -> Option<&'static str> {
        let (fits, rule) = match self.group {
            role::GROUP => (is_path_segment(name), PATH_SEGMENT_RULE),
            _ => (is_dns_subdomain(name), "must be a lowercase RFC 1123 subdomain"),
        };
        (!fits).then_some(rule)
    }

    /// The kind that serves `group/version/plural`.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        served().find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    /// The kind of a manifest.
    pub fn of_manifest(api_version: &str, kind: &str) -> Option<&'static Kind> {
        served().find(|k| k.api_version() == api_version && k.kind == kind)
    }
}

/// A string in an object, empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An integer in an object, 0 where there is none.
pub fn integer(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether a value says nothing: it and all that is in it are what they would be if they were left out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// Sets a field of a JSON object that is not there yet.
pub fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut() {
        fields.entry(field).or_insert_with(|| value.into());
    }
}

pub const NAME_COLUMN: Column =
    Column { name: "Name", data_type: "string", priority: 0, cell: |object| text(object, "/metadata/name").into() };
pub const AGE_COLUMN: Column = Column {
    name: "Age",
    data_type: "string",
    priority: 0,
    cell: |object| super::table::age(text(object, "/metadata/creationTimestamp")).into(),
};

/// A DNS label (RFC 1123): the form of namespaces' names and containers'.
pub fn is_dns_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// A DNS subdomain (RFC 1123): the form of most names.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

const PATH_SEGMENT_RULE: &str = "must be 1 to 253 printable bytes without / and %, and not . or ..";

/// What can stand in a path: the form of the names of roles, such as `system:basic-user`.
pub fn is_path_segment(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(['/', '%'])
        && !name.chars().any(char::is_control)
}

/// A name with an optional DNS subdomain and `/` before it: the form of labels and conditions.
pub fn is_qualified_name(name: &str) -> bool {
    let (prefix, name) = name.rsplit_once('/').map_or((None, name), |(prefix, name)| (Some(prefix), name));
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    prefix.is_none_or(is_dns_subdomain)
        && name.len() <= 63
        && name.chars().all(inner)
        && ends(name.chars().next())
        && ends(name.chars().last())
}

/// The form of labels' values.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || (!value.contains('/') && is_qualified_name(value))
}

/// The selector of a Deployment or ReplicaSet must select its own template's pods.
fn selector_causes(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    match super::selector::Selector::from_label_selector(&selector) {
        Err(message) => causes.push(Cause::invalid("spec.selector", selector, &message)),
        Ok(selector) if selector.is_empty() => {
            causes.push(Cause::required("spec.selector", "it selects the pods that this object owns"));
        }
        Ok(selector) => {
            let labels = object.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
            if !selector.matches(&labels) {
                let message = "`selector` does not match template `labels`";
                causes.push(Cause::invalid("spec.template.metadata.labels", labels, message));
            }
        }
    }
    if integer(object, "/spec/replicas") < 0 {
        let replicas = integer(object, "/spec/replicas");
        causes.push(Cause::invalid("spec.replicas", replicas, "must be greater than or equal to 0"));
    }
    if integer(object, "/spec/minReadySeconds") < 0 {
        let seconds = integer(object, "/spec/minReadySeconds");
        causes.push(Cause::invalid("spec.minReadySeconds", seconds, "must be greater than or equal to 0"));
    }
    let template = object.pointer("/spec/template/spec").cloned().unwrap_or_default();
    causes.extend(pod::spec_causes(&template, "spec.template.spec"));
    if !pod::items(&template, "ephemeralContainers").is_empty() {
        let message = "ephemeral containers not allowed in pod template";
        causes.push(Cause::forbidden("spec.template.spec.ephemeralContainers", message));
    }
    let policy = text(&template, "/restartPolicy");
    if policy != "Always" {
        causes
            .push(Cause::unsupported("spec.template.spec.restartPolicy", &format!("{policy:?}: only \"Always\" here")));
    }
    causes
}

/// The selector is part of what an object is.
fn selector_is_immutable(old: &Value, new: &Value) -> Vec<Cause> {
    match (old.pointer("/spec/selector"), new.pointer("/spec/selector")) {
        (old, new) if old == new => Vec::new(),
        (_, new) => {
            let shown = new.map(Value::to_string).unwrap_or_default();
            vec![Cause::invalid("spec.selector", shown, "field is immutable")]
        }
    }
}

/// Defaults of a Deployment's or ReplicaSet's common part.
fn template_defaults(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        set_default(spec, "replicas", 1);
    }
    if let Some(template) = object.pointer_mut("/spec/template/spec") {
        pod::spec_defaults(template);
    }
}
