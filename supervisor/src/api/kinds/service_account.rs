//! `v1` ServiceAccount: a name that pods run under, and that they are known by to the API.

use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, pod};

/// What every namespace has.
pub const DEFAULT_NAME: &str = "default";

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["token"],
    set_defaults: |_| {},
    // Secrets are listed for people; nothing is done with them.
    validate: |_| Vec::new(),
    validate_update: |_, _| Vec::new(),
    columns: &[
        NAME_COLUMN,
        Column { name: "Secrets", data_type: "integer", priority: 0, cell: |o| pod::items(o, "secrets").len().into() },
        AGE_COLUMN,
    ],
};
