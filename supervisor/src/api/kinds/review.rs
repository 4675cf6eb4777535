//! Questions about rights and identities: they are asked by creating them, answered at once, and not kept.

use super::Kind;

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
