//! Questions about rights and identities: `kubectl auth can-i`, `can-i --list`, `whoami`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Caller;
use super::attributes::{Attributes, On};
use super::rbac::{grant_of, grants};
use super::service_account_token::{authenticated, own_audience};
use super::user::User;
use crate::api::body::read_object;
use crate::api::identity;
use crate::api::kinds::pod::items;
use crate::api::kinds::{Kind, review, text};
use crate::api::objects::{Objects, invalid};
use crate::api::query::Query;
use crate::api::server::{Api, method_not_allowed, with_warnings};
use crate::api::status::{ApiError, Cause};
use crate::api::tls::TokenKey;
use crate::api::update::typed;

/// Answers a question, which is an object with its answer as its status.
pub async fn serve(
    api: &Api,
    parts: &Parts,
    body: Body,
    query: &Query,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Response, ApiError> {
    if parts.method != Method::POST || (kind.namespaced && namespace.is_none()) {
        return Err(method_not_allowed(parts));
    }
    query.dry_run()?;
    let (question, warnings) = read_object(parts, body, kind, query).await?;
    let mut question = typed(kind, question)?;
    identity::check_namespace(&question, namespace.unwrap_or_default())?;
    let is = |other: &Kind| std::ptr::eq(kind, other);
    let caller = Caller::of(parts)?;
    let status = if is(&review::SELF_SUBJECT) {
        json!({"userInfo": user_info(&caller)})
    } else if is(&review::SELF_SUBJECT_RULES) {
        rules(&api.objects, &caller, text(&question, "/spec/namespace"))?
    } else if is(&review::TOKEN) {
        token_status(api, &question["spec"])?
    } else if is(&review::SELF_SUBJECT_ACCESS) {
        let attributes = asked(&question["spec"]).map_err(|causes| invalid(kind, "", causes))?;
        verdict(&api.objects, &caller, &attributes)
    } else {
        let user = named(&question["spec"]);
        let mut causes = Vec::new();
        if user.name.is_empty() && items(&question["spec"], "groups").is_empty() {
            causes.push(Cause::required("spec.user", "at least one of user or group must be specified"));
        }
        let attributes = asked(&question["spec"]);
        causes.extend(attributes.as_ref().err().cloned().into_iter().flatten());
        if let (Some(here), Ok(Attributes { on: On::Resource(on), .. })) = (namespace, &attributes)
            && on.namespace != here
        {
            let message = format!("must match metadata.namespace: {here}");
            causes.push(Cause::invalid(
                "spec.resourceAttributes.namespace",
                format_args!("{:?}", on.namespace),
                &message,
            ));
        }
        match attributes {
            Ok(attributes) if causes.is_empty() => verdict(&api.objects, &user, &attributes),
            _ => return Err(invalid(kind, "", causes)),
        }
    };
    question["status"] = status;
    question["metadata"]["creationTimestamp"] = Value::Null;
    if let Some(namespace) = namespace {
        question["metadata"]["namespace"] = namespace.into();
    }
    Ok(with_warnings((StatusCode::CREATED, axum::Json(question)).into_response(), warnings))
}

/// Whose token it is.
fn token_status(api: &Api, spec: &Value) -> Result<Value, ApiError> {
    let token = text(spec, "/token");
    if token.is_empty() {
        return Err(ApiError::BadRequest("spec.token: is required for TokenReview in authentication".into()));
    }
    let audiences = items(spec, "audiences").iter().filter_map(Value::as_str).map(str::to_owned);
    let audiences = Some(audiences.collect::<Vec<_>>()).filter(|audiences| !audiences.is_empty());
    let audiences = audiences.unwrap_or_else(own_audience);
    let known = |tokens: &std::sync::Arc<TokenKey>| {
        authenticated(&api.objects, tokens, token, &audiences, std::time::SystemTime::now())
    };
    Ok(match api.tokens.as_ref().and_then(known) {
        Some((user, audiences)) => {
            json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
        }
        None => json!({"authenticated": false, "user": {}, "error": "the token is not good here"}),
    })
}

/// A `authentication.k8s.io/v1` UserInfo.
pub fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The user that a question is about.
fn named(spec: &Value) -> User {
    let texts =
        |list: &Value| list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    User {
        name: text(spec, "/user").into(),
        uid: text(spec, "/uid").into(),
        // As they stand: a question is about nobody who has shown anything.
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

/// What a question is about.
fn asked(spec: &Value) -> Result<Attributes, Vec<Cause>> {
    let given = |field: &str| spec.get(field).filter(|value| !value.is_null());
    match (given("resourceAttributes"), given("nonResourceAttributes")) {
        (Some(on), None) => {
            let selectors = ["fieldSelector", "labelSelector"].into_iter().filter(|field| !on[field].is_null());
            let causes: Vec<Cause> = selectors
                .map(|field| {
                    let message = "rights are for all objects of a kind or for named ones";
                    Cause::unsupported(format!("spec.resourceAttributes.{field}"), message)
                })
                .collect();
            if !causes.is_empty() {
                return Err(causes);
            }
            let field = |name: &str| text(on, &format!("/{name}"));
            let verb = field("verb").to_owned();
            Ok(Attributes::resource(
                verb,
                field("group"),
                field("resource"),
                field("namespace"),
                field("name"),
                field("subresource"),
            ))
        }
        (None, Some(on)) => Ok(Attributes { verb: text(on, "/verb").into(), on: On::Path(text(on, "/path").into()) }),
        _ => {
            let message = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            Err(vec![Cause::invalid(
                "spec.resourceAttributes",
                spec.get("resourceAttributes").unwrap_or(&Value::Null),
                message,
            )])
        }
    }
}

fn verdict(objects: &Objects, user: &User, attributes: &Attributes) -> Value {
    if user.may_all() {
        return json!({"allowed": true});
    }
    match grant_of(objects, user, attributes) {
        Some(grant) => json!({"allowed": true, "reason": grant.reason()}),
        None => json!({"allowed": false}),
    }
}

/// All that a user may in a namespace.
fn rules(objects: &Objects, user: &User, namespace: &str) -> Result<Value, ApiError> {
    if namespace.is_empty() {
        return Err(ApiError::BadRequest("spec.namespace: is required: no namespace on request".into()));
    }
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    if user.may_all() {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        urls.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for grant in grants(objects, user, namespace) {
        // A rule for paths counts where it is bound for the whole node alone.
        let everywhere = grant.binding["kind"] == "ClusterRoleBinding";
        for rule in grant.rules() {
            match items(rule, "nonResourceURLs") {
                [] => resources.push(rule.clone()),
                _ if everywhere => {
                    urls.push(json!({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}))
                }
                _ => {}
            }
        }
    }
    Ok(json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false}))
}
