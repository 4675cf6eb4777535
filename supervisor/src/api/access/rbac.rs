//! What roles and bindings grant. They are read from the objects at each question: there is no second copy that could be
//! behind.

use std::sync::Arc;

use serde_json::Value;

use super::User;
use super::attributes::{Attributes, On, Resource};
use super::user::SERVICE_ACCOUNT_PREFIX;
use crate::api::kinds::pod::items;
use crate::api::kinds::{Kind, cluster_role, cluster_role_binding, role, role_binding, text};
use crate::api::objects::Objects;

/// A role that a user has by a binding.
pub struct Grant {
    pub binding: Arc<Value>,
    pub role: Arc<Value>,
    /// Which of the binding's subjects the user is.
    subject: usize,
}

impl Grant {
    pub fn rules(&self) -> &[Value] {
        items(&self.role, "rules")
    }

    /// Why something is allowed, in Kubernetes' words.
    pub fn reason(&self) -> String {
        let binding = &self.binding;
        let subject = &items(binding, "subjects")[self.subject];
        let name = match text(binding, "/metadata/namespace") {
            "" => text(binding, "/metadata/name").to_owned(),
            namespace => format!("{}/{namespace}", text(binding, "/metadata/name")),
        };
        let who = match text(subject, "/namespace") {
            "" => text(subject, "/name").to_owned(),
            namespace => format!("{}/{namespace}", text(subject, "/name")),
        };
        format!(
            "RBAC: allowed by {} {name:?} of {} {:?} to {} {who:?}",
            text(binding, "/kind"),
            text(&self.role, "/kind"),
            text(&self.role, "/metadata/name"),
            text(subject, "/kind"),
        )
    }
}

/// The roles that a user has in a namespace, or on the node as a whole where that is empty.
pub fn grants(objects: &Objects, user: &User, namespace: &str) -> impl Iterator<Item = Grant> {
    let everywhere = objects.list(&cluster_role_binding::KIND, None).0;
    let here = match namespace {
        "" => Vec::new(),
        namespace => objects.list(&role_binding::KIND, Some(namespace)).0,
    };
    everywhere.into_iter().chain(here).filter_map(move |binding| {
        let subject = items(&binding, "subjects").iter().position(|subject| is_subject(user, subject, namespace))?;
        let role = role_of(objects, &binding)?;
        Some(Grant { binding, role, subject })
    })
}

/// The first role that lets the user do that.
pub fn grant_of(objects: &Objects, user: &User, attributes: &Attributes) -> Option<Grant> {
    let namespace = match &attributes.on {
        On::Resource(on) => on.namespace.as_str(),
        On::Path(_) => "",
    };
    grants(objects, user, namespace).find(|grant| grant.rules().iter().any(|rule| allows(rule, attributes)))
}

/// The role that a binding is of, if it is there.
pub fn role_of(objects: &Objects, binding: &Value) -> Option<Arc<Value>> {
    let (kind, namespace): (&Kind, &str) = match text(binding, "/roleRef/kind") {
        "ClusterRole" => (&cluster_role::KIND, ""),
        // A binding for the whole node names no Role: it has no namespace to find it in.
        "Role" if !text(binding, "/metadata/namespace").is_empty() => {
            (&role::KIND, text(binding, "/metadata/namespace"))
        }
        _ => return None,
    };
    objects.get(kind, namespace, text(binding, "/roleRef/name")).ok()
}

fn is_subject(user: &User, subject: &Value, namespace: &str) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => user.name == name,
        "Group" => user.is_in(name),
        "ServiceAccount" => {
            let namespace = match text(subject, "/namespace") {
                "" => namespace,
                own => own,
            };
            let own = user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|own| own.split_once(':'));
            !namespace.is_empty() && own == Some((namespace, name))
        }
        _ => false,
    }
}

/// Whether a list of a rule has one of these values, or all of them.
pub(super) fn has(rule: &Value, list: &str, wanted: &str) -> bool {
    items(rule, list).iter().any(|value| value == "*" || value == wanted)
}

/// Whether a rule lets somebody do that.
fn allows(rule: &Value, attributes: &Attributes) -> bool {
    if !has(rule, "verbs", &attributes.verb) {
        return false;
    }
    match &attributes.on {
        On::Path(path) => items(rule, "nonResourceURLs").iter().any(|url| covers_url(url.as_str(), path)),
        On::Resource(on) => {
            let names = items(rule, "resourceNames");
            has(rule, "apiGroups", &on.group)
                && covers_resource(rule, on)
                && (names.is_empty() || names.iter().any(|name| *name == on.name.as_str()))
        }
    }
}

/// `pods`, `pods/log`, `*`, and `*/scale` for that of every resource.
fn covers_resource(rule: &Value, on: &Resource) -> bool {
    match on.subresource.as_str() {
        "" => has(rule, "resources", &on.resource),
        subresource => {
            has(rule, "resources", &format!("{}/{subresource}", on.resource))
                || items(rule, "resources").iter().any(|resource| is_every(resource, subresource))
        }
    }
}

/// Whether `resource` is `*/SUBRESOURCE`.
pub(super) fn is_every(resource: &Value, subresource: &str) -> bool {
    resource.as_str().and_then(|resource| resource.strip_prefix("*/")) == Some(subresource)
}

/// A path, or the beginning of paths with a `*` behind it.
pub(super) fn covers_url(rule: Option<&str>, path: &str) -> bool {
    let Some(rule) = rule else { return false };
    rule == path || rule.strip_suffix('*').is_some_and(|beginning| path.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods(verb: &str, name: &str, subresource: &str) -> Attributes {
        Attributes::resource(verb.into(), "", "pods", "default", name, subresource)
    }

    #[test]
    fn rules_allow_what_they_name() {
        let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
        for (rule, asked, expected) in [
            (rule(&[""], &["pods"], &["get", "list"]), pods("list", "", ""), true),
            (rule(&[""], &["pods"], &["get"]), pods("list", "", ""), false),
            (rule(&["apps"], &["pods"], &["*"]), pods("get", "a", ""), false),
            (rule(&[""], &["pods"], &["*"]), pods("get", "a", "log"), false),
            (rule(&[""], &["pods/log"], &["get"]), pods("get", "a", "log"), true),
            (rule(&[""], &["pods/log"], &["get"]), pods("get", "a", ""), false),
            (rule(&[""], &["*/log"], &["get"]), pods("get", "a", "log"), true),
            (rule(&[""], &["*/log"], &["get"]), pods("get", "a", ""), false),
            (rule(&["*"], &["*"], &["*"]), pods("get", "a", "log"), true),
            (rule(&[""], &["POD*"], &["*"]), pods("get", "a", ""), false),
            (rule(&[], &[], &["*"]), pods("get", "a", ""), false),
        ] {
            assert_eq!(allows(&rule, &asked), expected, "{rule} {asked:?}");
        }
    }

    #[test]
    fn names_limit_a_rule_to_requests_that_name_one() {
        let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"], "resourceNames": ["a"]});
        assert!(allows(&rule, &pods("get", "a", "")));
        assert!(!allows(&rule, &pods("get", "b", "")) && !allows(&rule, &pods("list", "", "")));
        // There is no name yet, and `*` is none.
        assert!(!allows(&rule, &pods("create", "", "")));
        let star = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"], "resourceNames": ["*"]});
        assert!(!allows(&star, &pods("get", "a", "")));
    }

    #[test]
    fn paths_are_named_whole_or_by_their_beginning() {
        let rule = json!({"nonResourceURLs": ["/healthz", "/api/*"], "verbs": ["get"]});
        let path = |verb: &str, path: &str| Attributes { verb: verb.into(), on: On::Path(path.into()) };
        assert!(allows(&rule, &path("get", "/healthz")) && allows(&rule, &path("get", "/api/v1")));
        for (verb, asked) in [("get", "/healthz/x"), ("get", "/apis"), ("get", "/api"), ("post", "/healthz")] {
            assert!(!allows(&rule, &path(verb, asked)), "{verb} {asked}");
        }
        assert!(!allows(&rule, &pods("get", "/healthz", "")));
        let everything = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        assert!(!allows(&everything, &path("get", "/healthz")));
    }

    #[test]
    fn subjects_are_users_groups_and_service_accounts() {
        let user = User::service_account("a", "robot");
        let subject =
            |kind: &str, namespace: &str, name: &str| json!({"kind": kind, "namespace": namespace, "name": name});
        for (subject, namespace, expected) in [
            (subject("ServiceAccount", "a", "robot"), "b", true),
            (subject("ServiceAccount", "", "robot"), "a", true),
            (subject("ServiceAccount", "", "robot"), "b", false),
            (subject("ServiceAccount", "", "robot"), "", false),
            (subject("ServiceAccount", "b", "robot"), "a", false),
            (subject("User", "", "system:serviceaccount:a:robot"), "", true),
            (subject("Group", "", "system:serviceaccounts:a"), "", true),
            (subject("Group", "", "system:serviceaccounts:b"), "", false),
            (subject("Group", "", "system:authenticated"), "", true),
            (subject("User", "", "*"), "", false),
            (subject("Group", "", "*"), "", false),
        ] {
            assert_eq!(is_subject(&user, &subject, namespace), expected, "{subject} in {namespace:?}");
        }
        assert!(!User::of("system:masters", Vec::new()).may_all());
    }
}
