//! What a request is about. It is told from the route that the request is dispatched by, so that there is no path that
//! is read in two ways.

use http::Method;

use super::User;
use crate::api::kinds::{Kind, namespace};
use crate::api::list::Filter;
use crate::api::metrics;
use crate::api::query::Query;
use crate::api::route::{Metrics, Route};
use crate::api::status::ApiError;
use crate::api::subresource::CONNECTED;

/// Verb and object of a request, as rules name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub verb: String,
    pub on: On,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    Resource(Resource),
    /// A path that is no resource's.
    Path(String),
}

/// Empty fields are those that the request does not name: all names, no namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Attributes {
    /// Of a request for `route`, which `path` was read as.
    pub fn of(route: &Route<'_>, path: &str, method: &Method, query: &Query) -> Self {
        match *route {
            Route::Collection { kind, namespace } => {
                let filter = Filter::from_query(query, Some(kind)).unwrap_or_default();
                let (verb, name) = match *method {
                    Method::GET | Method::HEAD => {
                        let verb = if query.flag("watch") { "watch" } else { "list" };
                        (verb.into(), filter.name().unwrap_or_default())
                    }
                    Method::DELETE => ("deletecollection".into(), ""),
                    _ => (verb(method), ""),
                };
                Self::on(kind, verb, namespace.unwrap_or_default(), name, "")
            }
            Route::Review { kind, namespace } => Self::on(kind, verb(method), namespace.unwrap_or_default(), "", ""),
            Route::Object { kind, namespace, name, subresource } => {
                let subresource = subresource.unwrap_or_default();
                let verb = if CONNECTED.contains(&subresource) { "create".into() } else { verb(method) };
                // A namespace is in itself: who has rights in it may be shown it.
                let within = if std::ptr::eq(kind, &namespace::KIND) { name } else { namespace };
                Self::on(kind, verb, within, name, subresource)
            }
            Route::Metrics(wanted) => Self::of_metrics(wanted, method),
            _ => {
                let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
                Self { verb: method.as_str().to_lowercase(), on: On::Path(format!("/{}", parts.join("/"))) }
            }
        }
    }

    /// Of something that is done to an object, or to all of a kind where `name` is empty.
    pub fn on(kind: &Kind, verb: String, namespace: &str, name: &str, subresource: &str) -> Self {
        Self::resource(verb, kind.group, kind.plural, namespace, name, subresource)
    }

    pub fn resource(verb: String, group: &str, resource: &str, namespace: &str, name: &str, subresource: &str) -> Self {
        let on = Resource {
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        Self { verb, on: On::Resource(on) }
    }

    fn of_metrics(wanted: Metrics<'_>, method: &Method) -> Self {
        let (resource, namespace, name) = match wanted {
            Metrics::Nodes => ("nodes", "", ""),
            Metrics::Node(name) => ("nodes", "", name),
            Metrics::Pods { namespace } => ("pods", namespace.unwrap_or_default(), ""),
            Metrics::Pod { namespace, name } => ("pods", namespace, name),
        };
        let verb = if *method == Method::GET && name.is_empty() { "list".into() } else { verb(method) };
        Self::resource(verb, metrics::GROUP, resource, namespace, name, "")
    }

    /// Kubernetes' words for what `user` may not.
    pub fn forbidden(&self, user: &User) -> ApiError {
        let (name, verb) = (&user.name, &self.verb);
        match &self.on {
            On::Path(path) => ApiError::Forbidden {
                resource: String::new(),
                name: String::new(),
                message: format!("User {name:?} cannot {verb} path {path:?}"),
            },
            On::Resource(on) => {
                let resource = match on.subresource.as_str() {
                    "" => on.resource.clone(),
                    subresource => format!("{}/{subresource}", on.resource),
                };
                let place = match on.namespace.as_str() {
                    "" => "at the cluster scope".into(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let group = &on.group;
                let message =
                    format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {place}");
                let qualified = if group.is_empty() { on.resource.clone() } else { format!("{}.{group}", on.resource) };
                ApiError::Forbidden { resource: qualified, name: on.name.clone(), message }
            }
        }
    }
}

/// What a method does to one object; the method's own name where Kubernetes has no verb for it.
fn verb(method: &Method) -> String {
    match *method {
        Method::POST => "create".into(),
        Method::GET | Method::HEAD => "get".into(),
        Method::PUT => "update".into(),
        Method::PATCH => "patch".into(),
        Method::DELETE => "delete".into(),
        _ => method.as_str().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(method: &str, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let route = Route::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let attributes = Attributes::of(&route, path, &method.parse().unwrap(), &Query::parse(query));
        attributes.forbidden(&User::of("alice", Vec::new())).to_string()
    }

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        for (method, path, expected) in [
            (
                "GET",
                "/api/v1/namespaces/default/pods",
                "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
            ),
            (
                "GET",
                "/api/v1/nodes/a",
                "nodes \"a\" is forbidden: User \"alice\" cannot get resource \"nodes\" in API group \"\" at the cluster scope",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "deployments.apps \"d\" is forbidden: User \"alice\" cannot patch resource \"deployments/scale\" in API group \"apps\" in the namespace \"a\"",
            ),
            ("GET", "//healthz/", "forbidden: User \"alice\" cannot get path \"/healthz\""),
        ] {
            assert_eq!(said(method, path), expected);
        }
    }

    #[test]
    fn a_request_is_about_what_it_is_dispatched_to() {
        for (method, path, expected) in [
            ("GET", "/api/v1/pods?watch=true", "cannot watch resource \"pods\" in API group \"\" at the cluster scope"),
            ("GET", "//api//v1/namespaces/a//secrets/", "cannot list resource \"secrets\""),
            ("GET", "/api/v1/namespaces/a/pods?watch=0&watch=1", "cannot list"),
            ("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name=b", "pods \"b\" is forbidden"),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name=b",
                "pods is forbidden: User \"alice\" cannot deletecollection",
            ),
            ("POST", "/api/v1/pods", "cannot create resource \"pods\" in API group \"\" at the cluster scope"),
            ("GET", "/api/v1/namespaces/a/pods/b/exec", "cannot create resource \"pods/exec\""),
            ("POST", "/api/v1/namespaces/a/pods/b/exec", "cannot create resource \"pods/exec\""),
            ("GET", "/api/v1/namespaces/a/pods/b/attach", "cannot create resource \"pods/attach\""),
            ("GET", "/api/v1/namespaces/a/pods/b/portforward", "cannot create resource \"pods/portforward\""),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "cannot get resource \"pods/log\""),
            ("GET", "/api/v1/namespaces/a/pods/http:b:80/proxy", "pods \"http:b:80\" is forbidden"),
            ("POST", "/api/v1/namespaces/a/services/b/proxy", "cannot create resource \"services/proxy\""),
            ("PUT", "/api/v1/namespaces/a/services/b/proxy", "cannot update resource \"services/proxy\""),
            (
                "PUT",
                "/api/v1/namespaces/a/pods/b/ephemeralcontainers",
                "cannot update resource \"pods/ephemeralcontainers\"",
            ),
            (
                "GET",
                "/api/v1/namespaces/a",
                "cannot get resource \"namespaces\" in API group \"\" in the namespace \"a\"",
            ),
            (
                "GET",
                "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods",
                "cannot list resource \"pods\" in API group \"metrics.k8s.io\" in the namespace \"a\"",
            ),
            ("GET", "/apis/metrics.k8s.io/v1beta1/nodes/b", "nodes.metrics.k8s.io \"b\" is forbidden"),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "cannot create resource \"selfsubjectaccessreviews\"",
            ),
            ("PROPFIND", "/api/v1/namespaces/a/pods", "cannot propfind"),
            ("HEAD", "/api/v1/namespaces/a/pods", "cannot list"),
        ] {
            assert!(said(method, path).contains(expected), "{method} {path}: {}", said(method, path));
        }
    }
}
