//! `kubectl --as NAME --as-group GROUP`: a request as somebody else, for those who may `impersonate` them.

use std::sync::Arc;

use http::HeaderMap;

use super::attributes::Attributes;
use super::authorize;
use super::user::{AUTHENTICATED, User, service_account_of};
use crate::api::objects::Objects;
use crate::api::status::ApiError;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// Group of the resources that fields of users are named by.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whoever the request is to be answered for: its author, unless the headers name somebody else.
pub fn impersonated(objects: &Objects, author: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, ApiError> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(author);
    }
    let texts = |name: &str| {
        let values = headers.get_all(name).iter().map(|value| value.to_str().map(str::to_owned));
        values.collect::<Result<Vec<String>, _>>().map_err(|_| ApiError::BadRequest(format!("{name}: is not readable")))
    };
    let only = |name: &str| match texts(name)?.as_slice() {
        [] => Ok(String::new()),
        [one] => Ok(one.clone()),
        _ => Err(ApiError::BadRequest(format!("{name}: is given twice"))),
    };
    let name = only(USER)?;
    if name.is_empty() {
        return Err(ApiError::BadRequest("impersonate-user: is required to impersonate anybody".into()));
    }
    let may = |group: &str, resource: &str, namespace: &str, name: &str, part: &str| {
        let attributes = Attributes::resource("impersonate".into(), group, resource, namespace, name, part);
        authorize(objects, &author, &attributes)
    };
    let (groups, uid) = (texts(GROUP)?, only(UID)?);
    let mut user = match service_account_of(&name) {
        Some((namespace, account)) => {
            may("", "serviceaccounts", namespace, account, "")?;
            let account = User::service_account(namespace, account);
            if groups.is_empty() { account } else { User::of(&name, groups.clone()) }
        }
        None => {
            may("", "users", "", &name, "")?;
            User::of(&name, groups.clone())
        }
    };
    // Everybody who asks is known; only somebody whose request has no certificate and no token would not be.
    if name == "system:anonymous" {
        user.groups.retain(|group| group != AUTHENTICATED);
        user.groups.push("system:unauthenticated".into());
    }
    for group in &groups {
        may("", "groups", "", group, "")?;
    }
    if !uid.is_empty() {
        may(AUTHENTICATION, "uids", "", &uid, "")?;
        user.uid = uid;
    }
    for header in headers.keys() {
        match header.as_str() {
            USER | GROUP | UID => {}
            other => {
                let key = other.strip_prefix(EXTRA_PREFIX);
                let Some(key) = key else {
                    if other.starts_with("impersonate-") {
                        return Err(ApiError::BadRequest(format!("{other}: no such header")));
                    }
                    continue;
                };
                let values = texts(other)?;
                for value in &values {
                    may(AUTHENTICATION, "userextras", "", value, key)?;
                }
                user.extra.insert(key.into(), values);
            }
        }
    }
    Ok(Arc::new(user))
}
