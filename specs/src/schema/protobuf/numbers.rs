//! Which field of a message has which number: `field_numbers.txt`, read once.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A numbered field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    Field {
        name: &'static str,
        /// An empty value is a value; in other fields it means that they are not set.
        keeps_empty: bool,
    },
    /// A message whose fields stand among those of the outer one.
    Embedded { message: String },
}

/// The fields of messages by number, the messages by their name without `io.k8s.` and `api.`: `core.v1.Pod`.
static MESSAGES: LazyLock<HashMap<&'static str, HashMap<u32, Numbered>>> = LazyLock::new(|| {
    let mut messages = HashMap::new();
    let (mut message, mut number) = ("", 0);
    for line in include_str!("field_numbers.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        if !line.starts_with(' ') {
            (message, number) = (words.next().unwrap_or_default(), 0);
        }
        let fields: &mut HashMap<u32, Numbered> = messages.entry(message).or_default();
        for word in words {
            let (jump, name) = word.split_once(':').map_or((None, word), |(jump, name)| (jump.parse().ok(), name));
            number = jump.unwrap_or(number + 1);
            fields.insert(number, Numbered::of(message, name));
        }
    }
    messages
});

impl Numbered {
    fn of(message: &str, name: &'static str) -> Self {
        match (name.strip_prefix('@'), name.strip_suffix('?')) {
            (Some(embedded), _) => {
                let package = message.rsplit_once('.').map_or("", |(package, _)| package);
                Self::Embedded { message: format!("{package}.{embedded}") }
            }
            (None, Some(name)) => Self::Field { name, keeps_empty: true },
            (None, None) => Self::Field { name, keeps_empty: false },
        }
    }
}

/// The numbered fields of the message that a definition names; none for a definition that is no message.
pub(super) fn numbers(message: &str) -> Option<&'static HashMap<u32, Numbered>> {
    MESSAGES.get(message)
}

/// The message of a definition: `core.v1.Pod` of `io.k8s.api.core.v1.Pod`.
pub(super) fn message_of(definition: &str) -> &str {
    let prefixes = ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."];
    prefixes.iter().find_map(|prefix| definition.strip_prefix(prefix)).unwrap_or(definition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{NODES, Node};
    use std::collections::BTreeSet;

    /// Every field that the message and those embedded in it have, by name.
    fn names(message: &str) -> Vec<&'static str> {
        let fields = numbers(message).unwrap_or_else(|| panic!("{message} has no numbers"));
        let names = fields.values().flat_map(|field| match field {
            Numbered::Field { name, .. } => vec![*name],
            Numbered::Embedded { message } => names(message),
        });
        names.collect()
    }

    #[test]
    fn every_field_of_every_definition_has_one_number() {
        for (definition, node) in NODES.iter() {
            let Node::Struct(fields) = node else { continue };
            let message = message_of(definition);
            let numbered = names(message);
            let unique: BTreeSet<&str> = numbered.iter().copied().collect();
            assert_eq!(unique.len(), numbered.len(), "{message}");
            // Those of an object as a whole stand in the envelope.
            let expected = fields.keys().map(String::as_str);
            let expected = expected.filter(|name| unique.contains(name) || !["apiVersion", "kind"].contains(name));
            assert_eq!(unique, expected.collect::<BTreeSet<_>>(), "{message}");
        }
    }

    #[test]
    fn a_number_is_one_more_or_said() {
        let metadata = numbers("meta.v1.ObjectMeta").unwrap();
        assert_eq!(metadata[&1], Numbered::Field { name: "name", keeps_empty: false });
        assert_eq!(metadata[&9], Numbered::Field { name: "deletionTimestamp", keeps_empty: true });
        assert_eq!(metadata[&17], Numbered::Field { name: "managedFields", keeps_empty: false });
        assert_eq!(metadata.get(&15), None);
        let volume = numbers("core.v1.Volume").unwrap();
        assert_eq!(volume[&2], Numbered::Embedded { message: "core.v1.VolumeSource".into() });
    }
}
