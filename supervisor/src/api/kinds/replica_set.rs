//! `apps/v1` ReplicaSet.

use super::template_columns::{CONTAINERS_COLUMN, IMAGES_COLUMN, SELECTOR_COLUMN};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, selector_causes};

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["scale", "status"],
    set_defaults: super::template_defaults,
    validate: selector_causes,
    validate_update: super::selector_is_immutable,
    columns: &[
        NAME_COLUMN,
        Column { name: "Desired", data_type: "integer", priority: 0, cell: |o| integer(o, "/spec/replicas").into() },
        Column { name: "Current", data_type: "integer", priority: 0, cell: |o| integer(o, "/status/replicas").into() },
        Column {
            name: "Ready",
            data_type: "integer",
            priority: 0,
            cell: |o| integer(o, "/status/readyReplicas").into(),
        },
        AGE_COLUMN,
        CONTAINERS_COLUMN,
        IMAGES_COLUMN,
        SELECTOR_COLUMN,
    ],
};
