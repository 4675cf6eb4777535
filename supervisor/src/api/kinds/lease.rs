//! `coordination.k8s.io/v1` Lease: who of several leads, as long as it says so. What holds it is up to its clients; the node
//! keeps it, and refuses a change of a version that is not the newest.

use serde_json::Value;

use super::pod_fields::unsupported;
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate,
    validate_update: |_, _| Vec::new(),
    columns: &[
        NAME_COLUMN,
        Column {
            name: "Holder",
            data_type: "string",
            priority: 0,
            cell: |lease| text(lease, "/spec/holderIdentity").into(),
        },
        AGE_COLUMN,
    ],
};

/// Fields of the specification that mean something: a `strategy` asks the server to choose the holder.
const FIELDS: &[&str] = &["acquireTime", "holderIdentity", "leaseDurationSeconds", "leaseTransitions", "renewTime"];

fn validate(lease: &Value) -> Vec<Cause> {
    let spec = lease.get("spec").unwrap_or(&Value::Null);
    let mut causes = unsupported(spec, "spec", FIELDS);
    let bounds = [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ];
    for (field, least, message) in bounds {
        if let Some(number) = spec.get(field).and_then(Value::as_i64).filter(|number| *number < least) {
            causes.push(Cause::invalid(format!("spec.{field}"), number, message));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_has_a_length_and_no_strategy() {
        let fields = |spec: Value| -> Vec<String> {
            validate(&json!({"spec": spec})).into_iter().map(|cause| cause.field).collect()
        };
        assert_eq!(fields(json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 0})), [""; 0]);
        assert_eq!(fields(Value::Null), [""; 0]);
        assert_eq!(fields(json!({"leaseDurationSeconds": 0})), ["spec.leaseDurationSeconds"]);
        assert_eq!(fields(json!({"leaseTransitions": -1})), ["spec.leaseTransitions"]);
        assert_eq!(fields(json!({"strategy": "OldestEmulationVersion"})), ["spec.strategy"]);
        assert_eq!(fields(json!({"preferredHolder": "b"})), ["spec.preferredHolder"]);
    }
}
