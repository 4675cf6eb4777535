//! How many requests there were, and how long they took: counted without locks, by what is known beforehand alone, so that
//! nobody makes it grow by asking for something else.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::request::Parts;
use http::{Method, StatusCode};

use super::body::content_type;
use super::discovery::served;
use super::kinds::{Kind, PROXY};
use super::metrics;
use super::query::Query;
use super::route::{Metrics, Route};
use super::server::APPLY_TYPE;
use super::subresource::CONNECTED;

/// Upper ends of the durations that are counted together, in seconds; Kubernetes has these among its own.
pub(super) const BOUNDS: [f64; 9] = [0.005, 0.025, 0.1, 0.4, 1.0, 5.0, 10.0, 30.0, 60.0];

/// What the API answers; any other code, which a pod may answer through the proxy, is counted as `other`.
const CODES: [u16; 25] = [
    101, 200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 500, 502,
    503, 504,
];

/// As Kubernetes calls them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Apply,
    Connect,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Post,
    Put,
    Watch,
    Other,
}

const VERBS: [(Verb, &str); 11] = [
    (Verb::Apply, "APPLY"),
    (Verb::Connect, "CONNECT"),
    (Verb::Delete, "DELETE"),
    (Verb::DeleteCollection, "DELETECOLLECTION"),
    (Verb::Get, "GET"),
    (Verb::List, "LIST"),
    (Verb::Patch, "PATCH"),
    (Verb::Post, "POST"),
    (Verb::Put, "PUT"),
    (Verb::Watch, "WATCH"),
    (Verb::Other, "other"),
];

/// What requests are about. All empty: paths that are no resource's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: &'static str,
}

/// In the order of the counters.
fn resources() -> impl Iterator<Item = Resource> {
    let figures = ["nodes", "pods"].map(|resource| Resource {
        group: metrics::GROUP,
        version: metrics::VERSION,
        resource,
        subresource: "",
    });
    let kinds = served().flat_map(|kind| {
        let (group, version, resource) = (kind.group, kind.version, kind.plural);
        let parts = [""].into_iter().chain(kind.parts());
        parts.map(move |subresource| Resource { group, version, resource, subresource })
    });
    [Resource::default()].into_iter().chain(figures).chain(kinds)
}

const PATHS: usize = 0;
const NODE_FIGURES: usize = 1;
const POD_FIGURES: usize = 2;
const FIRST_KIND: usize = 3;

/// Where a kind's requests are counted; after them come those for its sub-resources.
fn index_of(kind: &Kind) -> usize {
    let before = served().take_while(|other| !std::ptr::eq(*other, kind));
    before.fold(FIRST_KIND, |index, other| index + 1 + other.parts().count())
}

/// What one request is counted as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    resource: usize,
    verb: Verb,
}

impl Subject {
    pub(super) fn of(route: &Route<'_>, parts: &Parts, query: &Query) -> Self {
        let verb = match parts.method {
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Post,
            Method::PUT => Verb::Put,
            Method::PATCH if content_type(parts) == APPLY_TYPE => Verb::Apply,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        let of_all = |verb| match verb {
            Verb::Get if query.flag("watch") => Verb::Watch,
            Verb::Get => Verb::List,
            Verb::Delete => Verb::DeleteCollection,
            verb => verb,
        };
        match *route {
            Route::Collection { kind, .. } => Self { resource: index_of(kind), verb: of_all(verb) },
            Route::Review { kind, .. } => Self { resource: index_of(kind), verb },
            Route::Object { kind, subresource, .. } => {
                let part = subresource.and_then(|part| kind.parts().position(|own| own == part));
                let connects = subresource.is_some_and(|part| part == PROXY || CONNECTED.contains(&part));
                let verb = if connects { Verb::Connect } else { verb };
                Self { resource: index_of(kind) + part.map_or(0, |part| part + 1), verb }
            }
            Route::Metrics(Metrics::Nodes) => Self { resource: NODE_FIGURES, verb: of_all(verb) },
            Route::Metrics(Metrics::Node(_)) => Self { resource: NODE_FIGURES, verb },
            Route::Metrics(Metrics::Pods { .. }) => Self { resource: POD_FIGURES, verb: of_all(verb) },
            Route::Metrics(Metrics::Pod { .. }) => Self { resource: POD_FIGURES, verb },
            _ => Self { resource: PATHS, verb },
        }
    }

    /// Of a path that is read as nothing.
    pub(super) fn unknown() -> Self {
        Self { resource: PATHS, verb: Verb::Other }
    }
}

/// The counters. Those of a resource take memory once somebody has asked for it.
pub(super) struct RequestCount {
    counters: Box<[OnceLock<Arc<Counters>>]>,
}

impl Default for RequestCount {
    fn default() -> Self {
        Self { counters: resources().map(|_| OnceLock::new()).collect() }
    }
}

/// Of one resource.
#[derive(Default)]
struct Counters {
    verbs: [VerbCounters; VERBS.len()],
    watches: AtomicI64,
}

#[derive(Default)]
struct VerbCounters {
    /// For each of [`CODES`], and for others.
    codes: [AtomicU64; CODES.len() + 1],
    /// For each of [`BOUNDS`], and for longer ones; none is counted twice.
    durations: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// Counted as long as it lives.
pub(super) struct OpenWatch(Arc<Counters>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Relaxed);
    }
}

/// What was counted of one verb for one resource.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) resource: Resource,
    pub(super) verb: &'static str,
    /// Code and number, of those that there were.
    pub(super) codes: Vec<(String, u64)>,
    /// How many took no longer than each of [`BOUNDS`].
    pub(super) durations: [u64; BOUNDS.len()],
    pub(super) total: u64,
    pub(super) seconds: f64,
}

impl RequestCount {
    fn counters(&self, index: usize) -> Option<&Arc<Counters>> {
        Some(self.counters.get(index)?.get_or_init(Arc::default))
    }

    /// Counts a request whose answer began after `duration`.
    pub(super) fn answered(&self, subject: Subject, code: StatusCode, duration: Duration) {
        let Some(counters) = self.counters(subject.resource) else { return };
        let counters = &counters.verbs[subject.verb as usize];
        let code = CODES.iter().position(|known| *known == code.as_u16()).unwrap_or(CODES.len());
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        counters.codes[code].fetch_add(1, Relaxed);
        counters.durations[bucket].fetch_add(1, Relaxed);
        counters.nanoseconds.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn watching(&self, kind: &Kind) -> Option<OpenWatch> {
        let counters = self.counters(index_of(kind))?;
        counters.watches.fetch_add(1, Relaxed);
        Some(OpenWatch(counters.clone()))
    }

    fn in_use(&self) -> impl Iterator<Item = (Resource, &Arc<Counters>)> {
        resources().zip(&self.counters).filter_map(|(resource, counters)| Some((resource, counters.get()?)))
    }

    /// Whatever there was at least once.
    pub(super) fn counted(&self) -> Vec<Counted> {
        let of_resource = |(resource, counters): (Resource, &Arc<Counters>)| {
            let all = VERBS.iter().zip(&counters.verbs);
            let counted = all.map(|((_, verb), counters)| Counted::read(resource, verb, counters));
            counted.filter(|counted| !counted.codes.is_empty()).collect::<Vec<_>>()
        };
        self.in_use().flat_map(of_resource).collect()
    }

    /// How many watches are open, of those resources that were ever watched.
    pub(super) fn watches(&self) -> Vec<(Resource, i64)> {
        let was_watched = |counters: &Counters| {
            let codes = &counters.verbs[Verb::Watch as usize].codes;
            codes.iter().any(|code| code.load(Relaxed) != 0)
        };
        let watched = self.in_use().filter(|(_, counters)| was_watched(counters));
        watched.map(|(resource, counters)| (resource, counters.watches.load(Relaxed))).collect()
    }
}

impl Counted {
    fn read(resource: Resource, verb: &'static str, counters: &VerbCounters) -> Self {
        let names = CODES.iter().map(u16::to_string).chain(["other".to_owned()]);
        let codes = names.zip(&counters.codes).map(|(name, count)| (name, count.load(Relaxed)));
        let mut total = 0;
        let sums = counters.durations.each_ref().map(|count| {
            total += count.load(Relaxed);
            total
        });
        let mut durations = [0; BOUNDS.len()];
        durations.copy_from_slice(&sums[..BOUNDS.len()]);
        let seconds = Duration::from_nanos(counters.nanoseconds.load(Relaxed)).as_secs_f64();
        Self { resource, verb, codes: codes.filter(|(_, count)| *count != 0).collect(), durations, total, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(method: &str, uri: &str) -> (Resource, &'static str) {
        let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let subject = Subject::of(&Route::parse(parts.uri.path()).unwrap(), &parts, &query);
        (resources().nth(subject.resource).unwrap(), VERBS[subject.verb as usize].1)
    }

    #[test]
    fn requests_are_counted_as_what_they_are() {
        for (method, uri, counted) in [
            ("GET", "/api/v1/pods", "/v1 pods/ LIST"),
            ("GET", "/api/v1/pods?watch=1", "/v1 pods/ WATCH"),
            ("HEAD", "/api/v1/namespaces/a/pods/b", "/v1 pods/ GET"),
            ("GET", "/api/v1/namespaces/a/pods/b/exec", "/v1 pods/exec CONNECT"),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "/v1 pods/log GET"),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "apps/v1 deployments/ DELETECOLLECTION"),
            ("PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale", "apps/v1 deployments/scale PUT"),
            ("PROPFIND", "/api/v1/namespaces/a/services/s", "/v1 services/ other"),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "authorization.k8s.io/v1 selfsubjectaccessreviews/ POST",
            ),
            ("GET", "/apis/metrics.k8s.io/v1beta1/nodes/n", "metrics.k8s.io/v1beta1 nodes/ GET"),
            ("GET", "/apis/metrics.k8s.io/v1beta1/pods", "metrics.k8s.io/v1beta1 pods/ LIST"),
            ("GET", "/apis/events.k8s.io/v1/events", "events.k8s.io/v1 events/ LIST"),
            ("GET", "/version", "/ / GET"),
        ] {
            let (Resource { group, version, resource, subresource }, verb) = subject(method, uri);
            assert_eq!(format!("{group}/{version} {resource}/{subresource} {verb}"), counted, "{method} {uri}");
        }
        assert!(VERBS.iter().enumerate().all(|(index, (verb, _))| *verb as usize == index));
    }

    #[test]
    fn durations_are_counted_up_to_each_bound() {
        let count = RequestCount::default();
        let subject = Subject { resource: FIRST_KIND, verb: Verb::Get };
        for (code, milliseconds) in [(200, 1), (200, 5), (404, 6), (418, 90_000)] {
            count.answered(subject, StatusCode::from_u16(code).unwrap(), Duration::from_millis(milliseconds));
        }
        let counted = count.counted().remove(0);
        assert_eq!(counted.codes, [("200".to_owned(), 2), ("404".to_owned(), 1), ("other".to_owned(), 1)]);
        assert_eq!((counted.durations, counted.total), ([2, 3, 3, 3, 3, 3, 3, 3, 3], 4));
        assert!((counted.seconds - 90.012).abs() < 1e-9);
        assert_eq!(count.counted().len(), 1);
    }

    #[test]
    fn watches_are_counted_while_they_are_open() {
        let count = RequestCount::default();
        let kind = served().next().unwrap();
        let watches = [count.watching(kind), count.watching(kind)];
        count.answered(Subject { resource: FIRST_KIND, verb: Verb::Watch }, StatusCode::OK, Duration::ZERO);
        assert_eq!(count.watches().iter().map(|(_, open)| *open).collect::<Vec<_>>(), [2]);
        drop(watches);
        assert_eq!(count.watches()[0].1, 0);
    }
}
