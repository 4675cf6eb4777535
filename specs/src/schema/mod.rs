//! Schemas of the Kubernetes kinds: which fields an object has, and how changes to its lists and maps are merged.
//!
//! The definitions are made from the kinds' types when this crate is built (`build.rs`). They say nothing about
//! merging; [`merge`] does. [`protobuf`] reads objects in their binary form.

mod merge;
pub mod protobuf;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde_json::{Map, Value};

pub use merge::{Facts, ListType, key_default};

const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// Every definition by its name (`io.k8s.api.core.v1.Pod`), with descriptions: what OpenAPI documents are made of.
/// Unpacked anew at each call: it is large, and seldom asked for.
pub fn definitions() -> Map<String, Value> {
    let packed: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schemas.json.z"));
    let json = flate2::read::ZlibDecoder::new(packed);
    let mut definitions = serde_json::from_reader(json).unwrap_or_default();
    merge::annotate(&mut definitions);
    definitions
}

/// Name of the definition of a kind of Kubernetes itself.
pub fn definition_name(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or_default();
    format!("io.k8s.api.{group}.{version}.{kind}")
}

/// A definition without its prose.
#[derive(Debug)]
enum Node {
    Struct(BTreeMap<String, Field>),
    Map(Box<Node>),
    List(Box<Node>),
    Reference(String),
    Scalar(Scalar),
}

/// What has no parts that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Text,
    /// A text of base64.
    Bytes,
    Integer,
    Boolean,
    Time,
    /// With microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Whatever stands there.
    Json,
}

#[derive(Debug)]
struct Field {
    node: Node,
    facts: &'static Facts,
}

static NODES: LazyLock<HashMap<String, Node>> = LazyLock::new(|| {
    let definitions = definitions();
    definitions.iter().map(|(name, schema)| (name.clone(), Node::of_schema(name, schema))).collect()
});

impl Node {
    /// `definition` names the struct whose fields these are.
    fn of_schema(definition: &str, schema: &Value) -> Self {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return Self::Reference(reference.trim_start_matches(REFERENCE_PREFIX).to_owned());
        }
        if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            return Self::of_schema(definition, only);
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let field = |(name, schema): (&String, &Value)| {
                let field = Field { node: Self::of_schema("", schema), facts: merge::facts(definition, name) };
                (name.clone(), field)
            };
            return Self::Struct(properties.iter().map(field).collect());
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            return Self::Map(Box::new(Self::of_schema("", values)));
        }
        match schema.get("items") {
            Some(items) => Self::List(Box::new(Self::of_schema("", items))),
            None => Self::Scalar(Scalar::of_schema(definition, schema)),
        }
    }
}

impl Scalar {
    fn of_schema(definition: &str, schema: &Value) -> Self {
        let keyword = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
        match (keyword("type"), keyword("format"), definition.rsplit('.').next()) {
            (_, _, Some("Quantity")) => Self::Quantity,
            (_, _, Some("IntOrString")) => Self::IntOrString,
            ("string", "date-time", Some("MicroTime")) => Self::MicroTime,
            ("string", "date-time", _) => Self::Time,
            ("string", "byte", _) => Self::Bytes,
            ("string", _, _) => Self::Text,
            ("integer", _, _) => Self::Integer,
            ("boolean", _, _) => Self::Boolean,
            _ => Self::Json,
        }
    }
}

/// What stands at one place of an object.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    node: &'static Node,
    facts: &'static Facts,
}

impl Shape {
    /// The shape of a kind; `None` for a kind that is not Kubernetes' own or has no definition here.
    pub fn of_kind(api_version: &str, kind: &str) -> Option<Self> {
        let node = NODES.get(&definition_name(api_version, kind))?;
        Some(Self { node, facts: &Facts::PLAIN })
    }

    /// The node behind references, and whether one of them names a type that is replaced as a whole.
    fn resolved(self) -> (&'static Node, bool) {
        let (mut node, mut atomic) = (self.node, self.facts.atomic);
        while let Node::Reference(name) = node {
            atomic |= merge::is_atomic(name);
            node = NODES.get(name).unwrap_or(&Node::Scalar(Scalar::Json));
        }
        (node, atomic)
    }

    /// How the place is merged; of a list that nothing is known of, as one value.
    pub fn facts(self) -> &'static Facts {
        self.facts
    }

    /// Changed only as a whole in a server-side apply: a scalar, an atomic struct or map, a list without keys.
    pub fn is_atomic(self) -> bool {
        match self.resolved() {
            (_, true) | (Node::Scalar(_), _) => true,
            (Node::List(_), false) => self.facts.list == ListType::Atomic,
            _ => false,
        }
    }

    /// A struct's field, or a map's value; `None` where the struct has no such field.
    pub fn field(self, name: &str) -> Option<Self> {
        match self.resolved().0 {
            Node::Struct(fields) => fields.get(name).map(|field| Self { node: &field.node, facts: field.facts }),
            Node::Map(values) => Some(Self { node: values, facts: &Facts::PLAIN }),
            _ => None,
        }
    }

    /// A list's items.
    pub fn items(self) -> Option<Self> {
        match self.resolved().0 {
            Node::List(items) => Some(Self { node: items, facts: &Facts::PLAIN }),
            _ => None,
        }
    }

    /// Whether the names of the fields are fixed, as opposed to a map's keys.
    pub fn is_struct(self) -> bool {
        matches!(self.resolved().0, Node::Struct(_))
    }

    pub fn is_map(self) -> bool {
        matches!(self.resolved().0, Node::Map(_))
    }

    pub fn is_list(self) -> bool {
        matches!(self.resolved().0, Node::List(_))
    }
}

/// Paths of the fields of `value` that its type does not have: `spec.containers[0].imagge`.
pub fn unknown_fields(shape: Shape, value: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    collect_unknown(shape, value, "", &mut unknown);
    unknown
}

fn collect_unknown(shape: Shape, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) if shape.is_struct() || shape.is_map() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match shape.field(name) {
                    Some(shape) => collect_unknown(shape, value, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        Value::Array(items) => {
            let Some(shape) = shape.items() else { return };
            for (index, item) in items.iter().enumerate() {
                collect_unknown(shape, item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kind: &str, api_version: &str, path: &[&str]) -> Option<Shape> {
        path.iter().try_fold(Shape::of_kind(api_version, kind)?, |shape, step| match *step {
            "[]" => shape.items(),
            name => shape.field(name),
        })
    }

    #[test]
    fn shapes_follow_structs_maps_lists_and_references() {
        let ports = at("Deployment", "apps/v1", &["spec", "template", "spec", "containers", "[]", "ports"]).unwrap();
        assert!(ports.is_list() && !ports.is_atomic());
        assert_eq!(ports.facts().list, ListType::Map(&["containerPort", "protocol"]));
        assert_eq!(ports.facts().merge_key, Some("containerPort"));
        let labels = at("Pod", "v1", &["metadata", "labels"]).unwrap();
        assert!(labels.is_map() && labels.field("anything").unwrap().is_atomic());
        assert!(at("Deployment", "apps/v1", &["spec", "selector"]).unwrap().is_atomic());
        assert!(at("Pod", "v1", &["spec", "nodeSelector"]).unwrap().is_atomic());
        assert!(at("Pod", "v1", &["spec", "containers", "[]", "command"]).unwrap().is_atomic());
        assert!(at("Pod", "v1", &["spec", "nothing"]).is_none());
        assert!(Shape::of_kind("v1", "Nothing").is_none());
    }

    #[test]
    fn every_rule_of_merging_is_about_a_field_that_exists() {
        let definitions = definitions();
        for (definition, field) in merge::places() {
            let properties = &definitions[&definition]["properties"];
            assert!(properties.get(field).is_some(), "{definition} has no {field}");
        }
        for definition in merge::atomic_types() {
            assert!(definitions.contains_key(&definition), "{definition} is not reached by any kind");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(node: &Node) {
            match node {
                Node::Reference(name) => assert!(NODES.contains_key(name), "{name}"),
                Node::Struct(fields) => fields.values().for_each(|field| check(&field.node)),
                Node::Map(inner) | Node::List(inner) => check(inner),
                Node::Scalar(_) => {}
            }
        }
        assert!(NODES.len() > 100);
        NODES.values().for_each(check);
    }
}
