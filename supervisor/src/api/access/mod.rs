//! Who asks, and what they may: every request is authorized by the route that it is dispatched by.
//!
//! | file | job |
//! |---|---|
//! | `user.rs` | who asks: name and groups |
//! | `attributes.rs` | what a request is about: verb, resource, namespace, name |
//! | `rbac.rs` | what roles and bindings grant |
//! | `escalation.rs` | nobody gives a right that they do not have |
//! | `impersonation.rs` | asking as somebody else |
//! | `built_in.rs` | roles and bindings that every node has |
//! | `service_account_token.rs` | tokens of service accounts |
//! | `review.rs` | questions about rights and identities |

mod attributes;
pub(super) mod built_in;
pub(super) mod escalation;
mod impersonation;
mod rbac;
pub(super) mod review;
pub mod service_account_token;
mod user;

use http::request::Parts;

pub(super) use attributes::Attributes;
pub(super) use impersonation::impersonated;
pub use user::{MASTERS, User};

use super::objects::Objects;
use super::status::ApiError;
use std::sync::Arc;

/// On whose behalf a request is answered. What the node itself does has nobody.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Arc<User>);

impl Caller {
    /// Of a request that has come through `answer`, which notes them; nobody else may do anything.
    pub(super) fn of(parts: &Parts) -> Result<Arc<User>, ApiError> {
        parts.extensions.get::<Self>().map(|caller| caller.0.clone()).ok_or(ApiError::Unauthorized)
    }
}

/// Lets the request through, or says what its author may not do.
pub(super) fn authorize(objects: &Objects, user: &User, attributes: &Attributes) -> Result<(), ApiError> {
    match user.may_all() || rbac::grant_of(objects, user, attributes).is_some() {
        true => Ok(()),
        false => Err(attributes.forbidden(user)),
    }
}
