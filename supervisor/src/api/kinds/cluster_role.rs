//! `rbac.authorization.k8s.io/v1` ClusterRole: rights on the node as a whole, or in the namespace of a RoleBinding.

use super::role::{COLUMNS, GROUP, causes};
use super::{ALL_VERBS, Kind};

pub static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate: |role| causes(role, false),
    validate_update: |_, _| Vec::new(),
    columns: COLUMNS,
};
