//! Who asks.

use std::collections::BTreeMap;

/// Members may do everything, whatever roles say.
pub const MASTERS: &str = "system:masters";
/// Programs that look after others: what the daemon says of itself.
pub const MONITORING: &str = "system:monitoring";
/// Everybody who has shown who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// What the name of a service account's user begins with; namespace and name follow.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// All service accounts; with a namespace behind it, those of that.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// A person or a program, as Kubernetes describes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whoever can open the node's socket.
    pub fn root() -> Self {
        Self::of("root", vec![MASTERS.into()])
    }

    pub fn of(name: &str, groups: Vec<String>) -> Self {
        let mut user = Self { name: name.into(), groups, ..Self::default() };
        if !user.is_in(AUTHENTICATED) {
            user.groups.push(AUTHENTICATED.into());
        }
        user
    }

    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
        Self::of(&format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"), groups)
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// A group, never a name: whoever is called `system:masters` may nothing by that.
    pub fn may_all(&self) -> bool {
        self.is_in(MASTERS)
    }
}

/// Namespace and name of the service account that a user is.
pub fn service_account_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
}
