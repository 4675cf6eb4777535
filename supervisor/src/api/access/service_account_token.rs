//! Tokens of service accounts: JSON Web Tokens with Kubernetes' claims. Each is for the account as it was when it was
//! given, and for a pod where it was given to one: another of the same name is another.

use std::time::SystemTime;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::User;
use crate::api::body::read_object;
use crate::api::identity;
use crate::api::kinds::pod::items;
use crate::api::kinds::{Kind, pod, review, secret, service_account, text};
use crate::api::objects::{Objects, invalid, metadata_of, time_text};
use crate::api::query::Query;
use crate::api::server::{Api, Target, with_warnings};
use crate::api::status::{ApiError, Cause};
use crate::api::tls::TokenKey;
use crate::api::update::typed;

/// Who gives tokens, and who they are for where nobody else is named.
pub const AUDIENCE: &str = "https://kubernetes.default.svc";
/// The claim that all but the account's name is in. Other tokens have none of that name.
const PRIVATE_CLAIM: &str = "kubernetes.io";
/// As long as nothing else is wanted.
pub const DEFAULT_SECONDS: i64 = 3600;
/// Kubernetes' own limits.
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// Of all audiences of one token, which has to fit a header.
const MAX_AUDIENCE_BYTES: usize = 1024;
/// What a token can be bound to, by the name of its claim.
static BOUND_TO: [(&str, &Kind); 2] = [("pod", &pod::KIND), ("secret", &secret::KIND)];

/// What a token is to say.
pub struct Wanted<'a> {
    pub account: &'a Value,
    /// It is good no longer than this object, of a kind of [`BOUND_TO`], is there.
    pub bound: Option<&'a Value>,
    pub audiences: Vec<String>,
    pub seconds: i64,
}

impl Wanted<'_> {
    /// A token that is good from `now` on.
    pub fn issue(&self, tokens: &TokenKey, now: Timestamp) -> String {
        let begin = now.as_second();
        let (namespace, account) = (text(self.account, "/metadata/namespace"), reference(self.account));
        let mut private = json!({"namespace": namespace, "serviceaccount": account});
        if let Some(bound) = self.bound {
            private[text(bound, "/kind").to_lowercase()] = reference(bound);
        }
        tokens.sign(json!({
            "iss": AUDIENCE, "aud": self.audiences, "sub": subject(self.account), "jti": uuid::Uuid::new_v4().to_string(),
            "iat": begin, "nbf": begin, "exp": begin + self.seconds, PRIVATE_CLAIM: private,
        }))
    }

    /// When `token` is to be replaced, if it is one of those that are wanted: after four fifths of its time.
    pub fn renewal(&self, tokens: &TokenKey, token: &str, now: Timestamp) -> Option<Timestamp> {
        let claims = tokens.verified(token, SystemTime::from(now))?;
        let private = &claims[PRIVATE_CLAIM];
        let bound = self.bound.map(|bound| (text(bound, "/kind").to_lowercase(), reference(bound)));
        let same = claims["sub"] == subject(self.account)
            && claims["aud"] == json!(self.audiences)
            && private["serviceaccount"] == reference(self.account)
            && bound.is_none_or(|(kind, bound)| private[kind] == bound);
        let (begin, end) = (claims["iat"].as_i64()?, claims["exp"].as_i64()?);
        let at = begin + self.seconds / 5 * 4;
        (same && end - begin == self.seconds && now.as_second() < at).then(|| Timestamp::from_second(at).ok())?
    }
}

fn reference(object: &Value) -> Value {
    json!({"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]})
}

fn subject(account: &Value) -> String {
    User::service_account(text(account, "/metadata/namespace"), text(account, "/metadata/name")).name
}

/// Whoever a token is for, and which of `audiences` it names.
pub fn authenticated(
    objects: &Objects,
    tokens: &TokenKey,
    token: &str,
    audiences: &[String],
    now: SystemTime,
) -> Option<(User, Vec<String>)> {
    let claims = tokens.verified(token, now)?;
    if claims.get(PRIVATE_CLAIM).is_none() {
        // For whoever asks: it names nobody.
        return tokens.user(token, now).map(|user| (user, audiences.to_vec()));
    }
    let meant: Vec<String> = items(&claims, "aud").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let meant: Vec<String> = audiences.iter().filter(|audience| meant.contains(audience)).cloned().collect();
    if meant.is_empty() || claims["iss"] != AUDIENCE {
        return None;
    }
    let private = &claims[PRIVATE_CLAIM];
    let namespace = text(private, "/namespace");
    // As it was then: gone, or another of that name, is not it.
    let is_there = |kind: &Kind, reference: &Value| {
        let object = objects.get(kind, namespace, text(reference, "/name")).ok()?;
        let uid = text(reference, "/uid");
        (!uid.is_empty() && text(&object, "/metadata/uid") == uid).then_some(object)
    };
    let account = is_there(&service_account::KIND, &private["serviceaccount"])?;
    if claims["sub"] != subject(&account) {
        return None;
    }
    let mut user = User::service_account(namespace, text(&account, "/metadata/name"));
    user.uid = text(&account, "/metadata/uid").into();
    for (claim, kind) in BOUND_TO {
        let Some(bound) = private.get(claim) else { continue };
        let object = is_there(kind, bound)?;
        for (field, pointer) in [("name", "/metadata/name"), ("uid", "/metadata/uid")] {
            if std::ptr::eq(kind, &pod::KIND) {
                let key = format!("authentication.kubernetes.io/pod-{field}");
                user.extra.insert(key, vec![text(&object, pointer).into()]);
            }
        }
    }
    Some((user, meant))
}

/// The API itself, where a question names no other audience.
pub fn own_audience() -> Vec<String> {
    vec![AUDIENCE.into()]
}

/// Answers `serviceaccounts/NAME/token`.
pub(in crate::api) async fn serve(
    api: &Api,
    parts: &Parts,
    body: Body,
    query: &Query,
    target: Target<'_>,
) -> Result<Response, ApiError> {
    let Target { namespace, name, .. } = target;
    let account = api.objects.get(&service_account::KIND, namespace, name)?;
    query.dry_run()?;
    let kind = &review::TOKEN_REQUEST;
    let (request, warnings) = read_object(parts, body, kind, query).await?;
    let mut request = typed(kind, request)?;
    metadata_of(&mut request)?.entry("name").or_insert_with(|| name.into());
    identity::check(&request, namespace, name)?;
    let Some(tokens) = &api.tokens else {
        let message = "this node gives no tokens: its API is served on its socket alone (`api.listen` of wharfd.toml)";
        return Err(ApiError::BadRequest(message.into()));
    };
    let mut audiences: Vec<String> =
        items(&request["spec"], "audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = own_audience();
    }
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let mut causes = lifetime_causes(seconds, "spec.expirationSeconds");
    if audiences.iter().map(String::len).sum::<usize>() > MAX_AUDIENCE_BYTES {
        let message = format!("may not have more than {MAX_AUDIENCE_BYTES} bytes");
        causes.push(Cause::invalid("spec.audiences", audiences.len(), &message));
    }
    if !causes.is_empty() {
        return Err(invalid(kind, name, causes));
    }
    let bound = bound(&api.objects, namespace, name, &request["spec"]["boundObjectRef"])?;
    let now = Timestamp::now();
    let wanted = Wanted { account: &account, bound: bound.as_deref(), audiences, seconds };
    let token = wanted.issue(tokens, now);
    let end = Timestamp::from_second(now.as_second() + seconds).unwrap_or(Timestamp::MAX);
    request["spec"]["audiences"] = json!(wanted.audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({"token": token, "expirationTimestamp": time_text(end)});
    let metadata = metadata_of(&mut request)?;
    metadata.insert("name".into(), name.into());
    metadata.insert("namespace".into(), namespace.into());
    metadata.insert("creationTimestamp".into(), time_text(now).into());
    Ok(with_warnings((StatusCode::CREATED, axum::Json(request)).into_response(), warnings))
}

/// What is wrong with the time that a token is to be good for.
pub fn lifetime_causes(seconds: i64, field: &str) -> Vec<Cause> {
    let message = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        MIN_SECONDS..=MAX_SECONDS => return Vec::new(),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    vec![Cause::invalid(field, seconds, message)]
}

/// The object that a token is to be bound to.
fn bound(
    objects: &Objects,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<Option<std::sync::Arc<Value>>, ApiError> {
    if reference.is_null() {
        return Ok(None);
    }
    let (kind, version, name) = (text(reference, "/kind"), text(reference, "/apiVersion"), text(reference, "/name"));
    let known = BOUND_TO.iter().find(|(_, known)| known.kind == kind && known.version == version);
    let Some((_, kind)) = known else {
        let cause = Cause::unsupported("spec.boundObjectRef", &format!("{version}/{kind}: a v1 Pod or a v1 Secret"));
        return Err(invalid(&review::TOKEN_REQUEST, account, vec![cause]));
    };
    let object = objects.get(kind, namespace, name)?;
    let conflict = |message: String| ApiError::Conflict { resource: kind.resource(), name: name.into(), message };
    let (wanted, found) = (text(reference, "/uid"), text(&object, "/metadata/uid"));
    if !wanted.is_empty() && wanted != found {
        return Err(conflict(format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record ({found})"
        )));
    }
    if std::ptr::eq(*kind, &pod::KIND) && pod::service_account(&object) != account {
        let message = format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        );
        return Err(ApiError::BadRequest(message));
    }
    Ok(Some(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::object_store::{Key, ObjectStore};

    async fn objects(uid: &str, pod_uid: &str) -> Objects {
        let object = |kind: &str, name: &str, uid: &str| json!({"kind": kind, "metadata": {"name": name, "namespace": "a", "uid": uid}});
        let store = ObjectStore::in_memory([
            (Key::new("serviceaccounts", "a", "robot"), object("ServiceAccount", "robot", uid)),
            (Key::new("pods", "a", "web"), object("Pod", "web", pod_uid)),
        ]);
        Objects::open(store.unwrap(), "node").await.unwrap()
    }

    #[tokio::test]
    async fn a_token_is_good_for_the_account_and_the_pod_that_it_was_given_to() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = TokenKey::open_or_create(folder.path()).unwrap();
        let here = objects("1", "2").await;
        let account = here.get(&service_account::KIND, "a", "robot").unwrap();
        let pod = here.get(&pod::KIND, "a", "web").unwrap();
        let wanted = Wanted { account: &account, bound: Some(&pod), audiences: own_audience(), seconds: 1000 };
        let now = Timestamp::now();
        let token = wanted.issue(&tokens, now);
        let clock = SystemTime::from(now);
        let user = |objects: &Objects, audience: &str, clock: SystemTime| {
            authenticated(objects, &tokens, &token, &[audience.to_owned()], clock).map(|(user, _)| user)
        };
        let robot = user(&here, AUDIENCE, clock).unwrap();
        assert_eq!((robot.name.as_str(), robot.uid.as_str()), ("system:serviceaccount:a:robot", "1"));
        assert_eq!(robot.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
        assert_eq!(robot.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(user(&here, "vault", clock), None);
        assert_eq!(user(&here, AUDIENCE, clock + std::time::Duration::from_secs(1001)), None);
        assert_eq!(user(&objects("other", "2").await, AUDIENCE, clock), None);
        assert_eq!(user(&objects("1", "other").await, AUDIENCE, clock), None);
        // It is nobody's who is asked for by name alone.
        assert_eq!(tokens.user(&token, clock), None);

        let after = |seconds: i64| Timestamp::from_second(now.as_second() + seconds).unwrap();
        assert_eq!(wanted.renewal(&tokens, &token, now), Some(after(800)));
        assert_eq!(wanted.renewal(&tokens, &token, after(800)), None);
        assert_eq!(wanted.renewal(&tokens, "nonsense", now), None);
        let longer = Wanted { seconds: 2000, audiences: own_audience(), ..wanted };
        assert_eq!(longer.renewal(&tokens, &token, now), None);
        let other = Wanted { seconds: 1000, audiences: vec!["vault".into()], ..longer };
        assert_eq!(other.renewal(&tokens, &token, now), None);
    }

    #[test]
    fn tokens_are_good_for_ten_minutes_at_least() {
        for (seconds, fits) in [(599, false), (600, true), (1 << 32, true), ((1 << 32) + 1, false), (-1, false)] {
            assert_eq!(lifetime_causes(seconds, "x").is_empty(), fits, "{seconds}");
        }
    }
}
