//! `rbac.authorization.k8s.io/v1` ClusterRoleBinding: who has the rights of a ClusterRole, on the node as a whole.

use super::role::GROUP;
use super::role_binding::{COLUMNS, causes, set_defaults, validate_update};
use super::{ALL_VERBS, Kind};

pub static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults,
    validate: |binding| causes(binding, false),
    validate_update,
    columns: COLUMNS,
};
