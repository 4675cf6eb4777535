//! Questions about rights and identities: they are asked by creating them, answered at once, and not kept.

use serde_json::Value;

use super::{AGE_COLUMN, Column, Kind, NAME_COLUMN, integer};

pub static LOCAL_SUBJECT_ACCESS: Kind = Kind {
    namespaced: true,
    ..review("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews")
};
pub static SELF_SUBJECT_ACCESS: Kind =
    review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews");
pub static SELF_SUBJECT_RULES: Kind =
    review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews");
pub static SUBJECT_ACCESS: Kind = review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews");
pub static SELF_SUBJECT: Kind = review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews");
pub static TOKEN: Kind = review("authentication.k8s.io", "TokenReview", "tokenreviews");
/// Asked of a service account.
pub static TOKEN_REQUEST: Kind = review("authentication.k8s.io", "TokenRequest", "serviceaccounts");

/// Of what has replicas: `scale`, which is shown under its object's name.
pub static SCALE: Kind = Kind {
    columns: &[
        NAME_COLUMN,
        Column { name: "Desired", data_type: "integer", priority: 0, cell: |o| replicas(o, "/spec/replicas") },
        Column { name: "Available", data_type: "integer", priority: 0, cell: |o| replicas(o, "/status/replicas") },
        AGE_COLUMN,
    ],
    ..review("autoscaling", "Scale", "scales")
};

fn replicas(scale: &Value, pointer: &str) -> Value {
    integer(scale, pointer).into()
}

const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        group,
        version: "v1",
        kind,
        plural,
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: &["create"],
        subresources: &[],
        set_defaults: |_| {},
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        columns: &[],
    }
}
