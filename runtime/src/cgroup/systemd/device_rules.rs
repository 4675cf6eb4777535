//! Device rules as systemd can keep them: everything is forbidden but a list. systemd writes this list again whenever
//! it is reloaded, so that it must know it on v1; on v2 its program stands beside ours, which has the exact rules.

use super::super::devices::{Kind, Rule};
use super::properties::property;
use crate::dbus::Value;
use std::fs;

/// Policy and list for the rules; none if systemd could only refuse more than they do.
pub(super) fn properties(rules: &[Rule], v1: bool) -> Vec<Value> {
    let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
    let (list, exact) = list(rules, &devices);
    let open = vec![property("DevicePolicy", "auto")];
    let Some(list) = list else { return open };
    if !exact && !v1 {
        return open;
    }
    let entries = list.into_iter().map(|(name, access)| Value::Struct(vec![name.into(), access.into()])).collect();
    vec![property("DevicePolicy", "strict"), property("DeviceAllow", Value::Array("(ss)".into(), entries))]
}

/// Devices and access in systemd's notation; none where all are allowed at first. Not exact if a rule is lost.
fn list(rules: &[Rule], devices: &str) -> (Option<Vec<(String, String)>>, bool) {
    let mut allowed: Vec<&Rule> = Vec::new();
    let mut exact = true;
    for rule in rules {
        if rule.is_everything() && rule.allow {
            return (None, true);
        } else if rule.is_everything() {
            allowed.clear();
        } else if rule.allow {
            allowed.push(rule);
        } else {
            // Taking away is possible where the very same was given.
            let before = allowed.len();
            allowed.retain(|given| !given.same_devices(rule) || given.access != rule.access);
            exact &= allowed.len() < before || !allowed.iter().any(|given| given.kind == rule.kind);
        }
    }
    let mut entries = Vec::new();
    for rule in allowed {
        let kinds = rule.kind.map_or(vec![Kind::Character, Kind::Block], |kind| vec![kind]);
        for kind in kinds {
            match name(kind, rule.major, rule.minor, devices) {
                Some(name) => entries.push((name, rule.access.text())),
                None => exact = false,
            }
        }
    }
    (Some(entries), exact)
}

/// `/dev/char/1:3`, `char-pts` for all of a driver, `char-*` for all.
fn name(kind: Kind, major: Option<u32>, minor: Option<u32>, devices: &str) -> Option<String> {
    let prefix = if kind == Kind::Block { "block" } else { "char" };
    match (major, minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{prefix}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{prefix}-{}", driver(kind, major, devices)?)),
        (None, None) => Some(format!("{prefix}-*")),
        (None, Some(_)) => None,
    }
}

/// The driver of a major number, from `/proc/devices`.
fn driver(kind: Kind, major: u32, devices: &str) -> Option<&str> {
    let (characters, blocks) = devices.split_once("Block devices:").unwrap_or((devices, ""));
    let section = if kind == Kind::Block { blocks } else { characters };
    let mut pairs = section.lines().filter_map(|line| line.trim().split_once(' '));
    pairs.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::super::super::devices::rules;
    use super::*;

    const DEVICES: &str = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  7 loop\n";

    fn listed(json: &str) -> (Option<Vec<String>>, bool) {
        let rules = rules(Some(&serde_json::from_str(json).expect("resources"))).expect("rules");
        let (list, exact) = list(&rules, DEVICES);
        (list.map(|list| list.into_iter().map(|(name, access)| format!("{name} {access}")).collect()), exact)
    }

    #[test]
    fn the_usual_rules_are_a_list_of_what_is_allowed() {
        let (list, exact) = listed(
            r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":7,"access":"rw"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"}]}"#,
        );
        let list = list.expect("a list");
        assert!(exact);
        for entry in
            ["block-loop rw", "/dev/char/10:229 rwm", "char-* m", "block-* m", "/dev/char/1:3 rwm", "char-pts rwm"]
        {
            assert!(list.iter().any(|found| found == entry), "{entry} is not in {list:?}");
        }
    }

    #[test]
    fn rules_that_allow_all_are_no_list() {
        assert_eq!(listed(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#), (None, true));
    }

    #[test]
    fn a_driver_without_a_name_is_not_exact() {
        let (_, exact) = listed(r#"{"devices":[{"allow":true,"type":"c","major":99,"access":"r"}]}"#);
        assert!(!exact);
    }
}
