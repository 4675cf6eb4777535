//! Request paths of the Kubernetes API.

use std::borrow::Cow;

use super::kinds::{Kind, PROXY, REVIEWS};
use super::metrics;
use super::status::ApiError;

/// What a path names.
#[derive(Clone, Copy)]
pub enum Route<'a> {
    /// `/`.
    Paths,
    /// `/healthz`, `/livez`, `/readyz`: all of it, or one check.
    Health {
        path: &'a str,
        check: Option<&'a str>,
    },
    /// `/metrics`.
    Exposition,
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    Group {
        group: &'a str,
    },
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Resources {
        group: &'a str,
        version: &'a str,
    },
    OpenApi(Document<'a>),
    Metrics(Metrics<'a>),
    Collection {
        kind: &'static Kind,
        namespace: Option<&'a str>,
    },
    /// A question about rights, which is asked by creating it.
    Review {
        kind: &'static Kind,
        namespace: Option<&'a str>,
    },
    Object {
        kind: &'static Kind,
        namespace: &'a str,
        name: &'a str,
        subresource: Option<&'a str>,
    },
}

/// Figures in `metrics.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metrics<'a> {
    Nodes,
    Node(&'a str),
    Pods { namespace: Option<&'a str> },
    Pod { namespace: &'a str, name: &'a str },
}

/// An OpenAPI document.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Document<'a> {
    V2,
    /// Where the documents of the groups are.
    V3Index,
    V3 {
        group: &'a str,
        version: &'a str,
    },
}

/// The path of a request without `%XX`. It is read in one way by all: a `/` of a name, or a byte that no name has, is
/// found nowhere.
pub fn decoded(path: &str) -> Result<Cow<'_, str>, ApiError> {
    if !path.contains('%') {
        return Ok(path.into());
    }
    let not_found = || ApiError::NoSuchPath { path: path.into() };
    let (mut decoded, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let [first, others @ ..] = rest {
        rest = others;
        let mut byte = *first;
        if byte == b'%' {
            let digits = others.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(not_found)?;
            byte = u8::from_str_radix(digits, 16).map_err(|_| not_found())?;
            rest = &others[2..];
            if matches!(byte, b'/' | b'%') || byte.is_ascii_control() {
                return Err(not_found());
            }
        }
        decoded.push(byte);
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| not_found())
}

/// The path that a route is read from, as [`decoded`] gives it, and what comes behind it as it was written: for a request that
/// goes on to a pod, whose paths are nobody's here.
pub fn split(path: &str) -> Result<(Cow<'_, str>, Option<&str>), ApiError> {
    let end = end_of_components(path, PROXIED_COMPONENTS).filter(|end| {
        let Ok(head) = decoded(&path[..*end]) else { return false };
        let parts: Vec<&str> = head.split('/').filter(|part| !part.is_empty()).collect();
        matches!(parts.as_slice(), ["api", _, "namespaces", _, _, _, PROXY])
    });
    match end {
        Some(end) => Ok((decoded(&path[..end])?, Some(&path[end..]))),
        None => Ok((decoded(path)?, None)),
    }
}

/// `api/v1/namespaces/NAMESPACE/pods/ID/proxy`
const PROXIED_COMPONENTS: usize = 7;

/// Where the first `count` components of a path end. Decoding makes neither more of them nor fewer.
fn end_of_components(path: &str, count: usize) -> Option<usize> {
    let (mut end, mut found) = (0, 0);
    for part in path.split('/') {
        end += part.len();
        found += usize::from(!part.is_empty());
        if found == count {
            return Some(end);
        }
        end += 1;
    }
    None
}

impl<'a> Route<'a> {
    /// Reads a path, which [`decoded`] has given; what no kind serves is not found.
    pub fn parse(path: &'a str) -> Result<Self, ApiError> {
        let not_found = || ApiError::NoSuchPath { path: path.into() };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [] => Ok(Self::Paths),
            [path @ ("healthz" | "livez" | "readyz")] => Ok(Self::Health { path, check: None }),
            [path @ ("healthz" | "livez" | "readyz"), check] => Ok(Self::Health { path, check: Some(check) }),
            ["metrics"] => Ok(Self::Exposition),
            ["version"] => Ok(Self::Version),
            ["api"] => Ok(Self::CoreVersions),
            ["apis"] => Ok(Self::Groups),
            ["openapi", "v2"] => Ok(Self::OpenApi(Document::V2)),
            ["openapi", "v3"] => Ok(Self::OpenApi(Document::V3Index)),
            ["openapi", "v3", "api", version] => Ok(Self::OpenApi(Document::V3 { group: "", version })),
            ["openapi", "v3", "apis", group, version] => Ok(Self::OpenApi(Document::V3 { group, version })),
            ["api", version] => Ok(Self::Resources { group: "", version }),
            ["apis", group] => Ok(Self::Group { group }),
            ["apis", group, version] => Ok(Self::Resources { group, version }),
            ["apis", metrics::GROUP, metrics::VERSION, rest @ ..] => {
                figures(rest).map(Self::Metrics).ok_or_else(not_found)
            }
            ["api", version, rest @ ..] => resource("", version, rest).ok_or_else(not_found),
            ["apis", group, version, rest @ ..] => resource(group, version, rest).ok_or_else(not_found),
            _ => Err(not_found()),
        }
    }
}

fn figures<'a>(parts: &[&'a str]) -> Option<Metrics<'a>> {
    Some(match *parts {
        ["nodes"] => Metrics::Nodes,
        ["nodes", name] => Metrics::Node(name),
        ["pods"] => Metrics::Pods { namespace: None },
        ["namespaces", namespace, "pods"] => Metrics::Pods { namespace: Some(namespace) },
        ["namespaces", namespace, "pods", name] => Metrics::Pod { namespace, name },
        _ => return None,
    })
}

fn resource<'a>(group: &str, version: &str, parts: &[&'a str]) -> Option<Route<'a>> {
    let review = |plural: &str, namespaced: bool| {
        let mut reviews = REVIEWS.iter().filter(|kind| (kind.group, kind.version) == (group, version));
        reviews.find(|kind| kind.plural == plural && (kind.namespaced || !namespaced)).copied()
    };
    match *parts {
        [plural] => {
            if let Some(kind) = review(plural, false) {
                return Some(Route::Review { kind, namespace: None });
            }
        }
        ["namespaces", namespace, plural] => {
            if let Some(kind) = review(plural, true) {
                return Some(Route::Review { kind, namespace: Some(namespace) });
            }
        }
        _ => {}
    }
    let find = |plural: &str| Kind::find(group, version, plural);
    let (namespace, parts) = match *parts {
        // `namespaces/NAME` alone and its sub-resources are the namespace itself.
        ["namespaces", namespace, ref rest @ ..] if rest.first().is_some_and(|plural| find(plural).is_some()) => {
            (Some(namespace), rest)
        }
        _ => (None, parts),
    };
    match (namespace, parts) {
        (namespace, &[plural]) => {
            let kind = find(plural).filter(|kind| kind.namespaced || namespace.is_none())?;
            Some(Route::Collection { kind, namespace })
        }
        (namespace, &[plural, name, ref rest @ ..]) if rest.len() <= 1 => {
            let kind = find(plural).filter(|kind| kind.namespaced == namespace.is_some())?;
            let subresource = rest.first().copied();
            if subresource.is_some_and(|sub| !kind.parts().any(|part| part == sub)) {
                return None;
            }
            Some(Route::Object { kind, namespace: namespace.unwrap_or_default(), name, subresource })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match Route::parse(path) {
            Ok(Route::Collection { kind, namespace }) => format!("{} in {namespace:?}", kind.plural),
            Ok(Route::Object { kind, namespace, name, subresource }) => {
                format!("{} {namespace}/{name} {subresource:?}", kind.plural)
            }
            Ok(Route::Resources { group, version }) => format!("resources {group}/{version}"),
            Ok(Route::Review { kind, namespace }) => format!("ask {} in {namespace:?}", kind.plural),
            Ok(Route::Metrics(metrics)) => format!("{metrics:?}"),
            Ok(Route::Health { path, check }) => format!("{path} {check:?}"),
            Ok(Route::Paths) => "paths".into(),
            Ok(_) => "other".into(),
            Err(error) => error.code().as_str().into(),
        }
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        for (path, expected) in [
            ("/api/v1", "resources /v1"),
            ("/apis/apps/v1", "resources apps/v1"),
            ("/api/v1/pods", "pods in None"),
            ("/api/v1/namespaces/a/pods", "pods in Some(\"a\")"),
            ("/api/v1/namespaces/a/pods/b", "pods a/b None"),
            ("/api/v1/namespaces/a/pods/b/log", "pods a/b Some(\"log\")"),
            ("/api/v1/namespaces", "namespaces in None"),
            ("/api/v1/namespaces/a", "namespaces /a None"),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "deployments a/d Some(\"scale\")"),
            ("/api/v1/namespaces/a/pods/b/nothing", "404"),
            ("/api/v1/pods/b", "404"),
            ("/api/v1/nothings", "404"),
            ("/openapi/v3/apis/apps/v1", "other"),
            ("/apis/metrics.k8s.io/v1beta1", "resources metrics.k8s.io/v1beta1"),
            ("/apis/metrics.k8s.io/v1beta1/nodes/a", "Node(\"a\")"),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/a/pods", "Pods { namespace: Some(\"a\") }"),
            ("/apis/metrics.k8s.io/v1beta1/pods/a", "404"),
            ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "ask selfsubjectaccessreviews in None"),
            ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews/a", "404"),
            ("/apis/authorization.k8s.io/v1/namespaces/a/selfsubjectaccessreviews", "404"),
            (
                "/apis/authorization.k8s.io/v1/namespaces/a/localsubjectaccessreviews",
                "ask localsubjectaccessreviews in Some(\"a\")",
            ),
            ("/api/v1/selfsubjectaccessreviews", "404"),
            ("//api//v1/namespaces//a/pods/", "pods in Some(\"a\")"),
            ("/api/v1/namespaces/a/pods/..", "pods a/.. None"),
            ("/api/v1/namespaces/a/../b/pods", "404"),
            ("/api/v2/pods", "404"),
            ("/", "paths"),
            ("//", "paths"),
            ("/readyz", "readyz None"),
            ("/livez//ping/", "livez Some(\"ping\")"),
            ("/healthz/a/b", "404"),
            ("/metrics", "other"),
            ("/metrics/pods", "404"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }

    #[test]
    fn what_goes_on_to_a_pod_stays_as_it_was_written() {
        let pod = "/api/v1/namespaces/a/pods/b:80/proxy";
        let split = |path: &'static str| split(path).map(|(head, rest)| (head.into_owned(), rest)).ok();
        for (path, rest) in [
            ("/api/v1/namespaces/a/pods/b:80/proxy", ""),
            ("/api/v1/namespaces/a/pods/b:80/proxy/", "/"),
            ("/api/v1/namespaces/a/pods/b%3A80/pro%78y//x%2F..%00/../%zz", "//x%2F..%00/../%zz"),
            ("/api/v1/namespaces/a/pods/b:80/proxy/proxy", "/proxy"),
        ] {
            assert_eq!(split(path), Some((pod.to_owned(), Some(rest))), "{path}");
        }
        assert_eq!(split("//api/v1//namespaces/a/pods/b:80/proxy/x").unwrap().1, Some("/x"));
        assert_eq!(shown(pod), "pods a/b:80 Some(\"proxy\")");
        assert_eq!(shown("/api/v1/namespaces/a/services/b/proxy"), "services a/b Some(\"proxy\")");
        assert_eq!(shown("/api/v1/namespaces/a/configmaps/b/proxy"), "404");
        assert_eq!(split("/api/v1/namespaces/a/pods/b/log"), Some(("/api/v1/namespaces/a/pods/b/log".into(), None)));
        // A slash that is none divides nothing.
        assert_eq!(split("/api/v1/namespaces/a/pods/b%2Fproxy/x/y"), None);
        assert_eq!(split("/api/v1/namespaces/a%2Fpods/b/proxy/x/y"), None);
    }

    #[test]
    fn paths_are_decoded_once_and_names_have_no_slash() {
        let clean = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Adiscovery";
        assert_eq!(decoded(clean).unwrap(), "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:discovery");
        assert_eq!(decoded("/api/v1/%70ods").unwrap(), "/api/v1/pods");
        assert_eq!(decoded("/api/v1/namespaces/a/pods/%2e%2E").unwrap(), "/api/v1/namespaces/a/pods/..");
        for path in ["/a%2Fb", "/a%2fb", "/a%252fb", "/a%00", "/a%0a", "/a%", "/a%2", "/a%zz", "/a%+1", "/a%ff"] {
            assert!(decoded(path).is_err(), "{path}");
        }
    }
}
