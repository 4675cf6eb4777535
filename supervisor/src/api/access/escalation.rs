//! Nobody gives a right that they do not have: neither by a role nor by a binding to one, unless they may `escalate` that
//! role or `bind` to it.

use serde_json::Value;

use super::attributes::Attributes;
use super::rbac::{self, covers_url, grants, has, is_every};
use super::{User, authorize};
use crate::api::kinds::pod::items;
use crate::api::kinds::{Kind, cluster_role, cluster_role_binding, role, role_binding, text};
use crate::api::objects::Objects;
use crate::api::status::ApiError;

/// Single rights that one write may give: each is looked for among the writer's.
const MAX_RIGHTS: usize = 20_000;

/// Refuses a write that would turn `old` (null where there is none) into `new` and give away what `user` does not have.
pub fn check(objects: &Objects, user: &User, kind: &Kind, old: &Value, new: &Value) -> Result<(), ApiError> {
    let is = |other: &Kind| std::ptr::eq(kind, other);
    let is_role = is(&role::KIND) || is(&cluster_role::KIND);
    let is_binding = is(&role_binding::KIND) || is(&cluster_role_binding::KIND);
    if user.may_all() || !(is_role || is_binding) {
        return Ok(());
    }
    let (namespace, name) = (text(new, "/metadata/namespace"), text(new, "/metadata/name"));
    let refused = |message: String| ApiError::Forbidden { resource: kind.resource(), name: name.into(), message };
    if is_role {
        let same = old["rules"] == new["rules"];
        let escalates = Attributes::on(kind, "escalate".into(), namespace, name, "");
        if same || authorize(objects, user, &escalates).is_ok() {
            return Ok(());
        }
        return has_all(objects, user, namespace, items(new, "rules")).map_err(refused);
    }
    if !old.is_null() && old["subjects"] == new["subjects"] && old["roleRef"] == new["roleRef"] {
        return Ok(());
    }
    let role_kind: &Kind = if text(new, "/roleRef/kind") == "Role" { &role::KIND } else { &cluster_role::KIND };
    let binds = Attributes::on(role_kind, "bind".into(), namespace, text(new, "/roleRef/name"), "");
    if authorize(objects, user, &binds).is_ok() {
        return Ok(());
    }
    // A role that is made later would give its rights without anybody being asked.
    let missing = || ApiError::NotFound { resource: role_kind.resource(), name: text(new, "/roleRef/name").into() };
    let role = rbac::role_of(objects, new).ok_or_else(missing)?;
    has_all(objects, user, namespace, items(&role, "rules")).map_err(refused)
}

/// Holds every single right of `wanted` against the rules that the user has there.
fn has_all(objects: &Objects, user: &User, namespace: &str, wanted: &[Value]) -> Result<(), String> {
    let count = |rule: &Value| {
        let of = |list: &str| items(rule, list).len().max(1);
        ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"]
            .iter()
            .fold(1_usize, |product, list| product.saturating_mul(of(list)))
    };
    if wanted.iter().fold(0_usize, |sum, rule| sum.saturating_add(count(rule))) > MAX_RIGHTS {
        return Err(format!(
            "the rules are more than {MAX_RIGHTS} single rights, too many to be held against those of their author"
        ));
    }
    let grants: Vec<rbac::Grant> = grants(objects, user, namespace).collect();
    let own: Vec<&Value> = grants.iter().flat_map(|grant| grant.rules()).collect();
    let lacking: Vec<String> = wanted.iter().filter(|rule| !is_covered(rule, &own)).map(shown).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let (name, groups) = (&user.name, &user.groups);
    Err(format!(
        "user {name:?} (groups={groups:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        lacking.join("\n")
    ))
}

/// Whether each single right of a rule is in one of `own`.
fn is_covered(rule: &Value, own: &[&Value]) -> bool {
    let texts = |list: &str| items(rule, list).iter().map(|value| value.as_str().unwrap_or_default());
    let urls: Vec<&str> = texts("nonResourceURLs").collect();
    let names: Vec<Option<&str>> = match items(rule, "resourceNames") {
        [] => vec![None],
        _ => texts("resourceNames").map(Some).collect(),
    };
    texts("verbs").all(|verb| {
        let held: Vec<&&Value> = own.iter().filter(|own| has(own, "verbs", verb)).collect();
        let has_url = |url: &&str| {
            held.iter().any(|own| items(own, "nonResourceURLs").iter().any(|rule| covers_url(rule.as_str(), url)))
        };
        let has_resource = |group: &str, resource: &str, name: Option<&str>| {
            held.iter().any(|own| {
                let own_names = items(own, "resourceNames");
                has(own, "apiGroups", group)
                    && holds_resource(own, resource)
                    && (own_names.is_empty() || own_names.iter().any(|own| own.as_str() == name))
            })
        };
        urls.iter().all(has_url)
            && texts("apiGroups").all(|group| {
                texts("resources").all(|resource| names.iter().all(|name| has_resource(group, resource, *name)))
            })
    })
}

/// Whether a rule is for that resource as another rule writes it.
fn holds_resource(own: &Value, resource: &str) -> bool {
    let every = |own: &Value| resource.split_once('/').is_some_and(|(_, sub)| is_every(own, sub));
    has(own, "resources", resource) || items(own, "resources").iter().any(every)
}

fn shown(rule: &Value) -> String {
    let lists = [
        ("APIGroups", "apiGroups"),
        ("Resources", "resources"),
        ("ResourceNames", "resourceNames"),
        ("NonResourceURLs", "nonResourceURLs"),
        ("Verbs", "verbs"),
    ];
    let lists = lists.iter().filter(|(_, list)| !items(rule, list).is_empty());
    let lists: Vec<String> = lists.map(|(name, list)| format!("{name}:{}", rule[list])).collect();
    format!("{{{}}}", lists.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_is_covered_when_each_of_its_rights_is_held() {
        let rule = |groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs, "resourceNames": names});
        let reader = rule(&[""], &["pods", "services"], &["get", "list"], &[]);
        let named = rule(&[""], &["secrets"], &["get"], &["a", "b"]);
        let scaler = rule(&["apps"], &["*/scale"], &["*"], &[]);
        let url = json!({"nonResourceURLs": ["/api/*"], "verbs": ["get"]});
        let own = [&reader, &named, &scaler, &url];
        for (wanted, expected) in [
            (rule(&[""], &["pods"], &["get"], &[]), true),
            (rule(&[""], &["pods"], &["get"], &["x"]), true),
            (rule(&[""], &["pods"], &["get", "delete"], &[]), false),
            (rule(&[""], &["pods", "secrets"], &["get"], &[]), false),
            (rule(&["", "apps"], &["pods"], &["get"], &[]), false),
            (rule(&[""], &["secrets"], &["get"], &["b"]), true),
            (rule(&[""], &["secrets"], &["get"], &["b", "c"]), false),
            (rule(&[""], &["secrets"], &["get"], &[]), false),
            (rule(&[""], &["*"], &["get"], &[]), false),
            (rule(&["*"], &["pods"], &["get"], &[]), false),
            (rule(&[""], &["pods"], &["*"], &[]), false),
            (rule(&["apps"], &["deployments/scale", "*/scale"], &["update", "*"], &[]), true),
            (rule(&["apps"], &["deployments"], &["update"], &[]), false),
            (json!({"nonResourceURLs": ["/api/v1", "/api/*"], "verbs": ["get"]}), true),
            (json!({"nonResourceURLs": ["/*"], "verbs": ["get"]}), false),
            (json!({"nonResourceURLs": ["/api/v1"], "verbs": ["*"]}), false),
        ] {
            assert_eq!(is_covered(&wanted, &own), expected, "{wanted}");
        }
        let all = rule(&["*"], &["*"], &["*"], &[]);
        assert!(is_covered(&rule(&["*"], &["pods/exec"], &["*"], &[]), &[&all]));
    }
}
