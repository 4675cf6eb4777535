//! `/metrics`: what the API has to say of itself, in Prometheus' text format 0.0.4 and under Kubernetes' names. Labels have
//! values that are known beforehand alone.

use std::fmt::{Display, Write as _};
use std::time::UNIX_EPOCH;

use axum::response::{IntoResponse, Response};
use http::header;

use super::discovery;
use super::kinds::text;
use super::request_count::{BOUNDS, Resource};
use super::server::Api;

const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn answer(api: &Api) -> Response {
    let mut page = Page::default();
    requests(&mut page, api);
    page.family("apiserver_storage_objects", "gauge", "Objects stored, by resource.");
    for (resource, count) in api.objects.store().counts() {
        page.sample("apiserver_storage_objects", &[("resource", &resource)], count);
    }
    process(&mut page, api);
    let version = discovery::version();
    let labels = ["major", "minor", "gitVersion", "platform"].map(|field| text(&version, &format!("/{field}")));
    let [major, minor, git_version, platform] = labels;
    page.family("kubernetes_build_info", "gauge", "The version whose API this is, always 1.");
    let labels: &[(&str, &dyn Display)] =
        &[("git_version", &git_version), ("major", &major), ("minor", &minor), ("platform", &platform)];
    page.sample("kubernetes_build_info", labels, 1);
    page.family("wharf_build_info", "gauge", "The version of the daemon, always 1.");
    page.sample("wharf_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    ([(header::CONTENT_TYPE, TYPE)], page.0).into_response()
}

fn requests(page: &mut Page, api: &Api) {
    let counted = api.usage.requests.counted();
    let name = "apiserver_request_total";
    page.family(name, "counter", "Requests answered, by verb, resource and code.");
    for request in &counted {
        for (code, count) in &request.codes {
            let [group, resource, subresource, verb, version] = labels(&request.resource, &request.verb);
            page.sample(name, &[("code", code), group, resource, subresource, verb, version], count);
        }
    }
    let name = "apiserver_request_duration_seconds";
    page.family(name, "histogram", "From a request to the beginning of its answer, in seconds.");
    let (bucket, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
    for request in &counted {
        let [group, resource, subresource, verb, version] = labels(&request.resource, &request.verb);
        for (bound, below) in BOUNDS.iter().zip(request.durations) {
            page.sample(&bucket, &[group, resource, subresource, verb, version, ("le", bound)], below);
        }
        page.sample(&bucket, &[group, resource, subresource, verb, version, ("le", &"+Inf")], request.total);
        let own = [group, resource, subresource, verb, version];
        page.sample(&sum, &own, request.seconds);
        page.sample(&count, &own, request.total);
    }
    let name = "apiserver_longrunning_requests";
    page.family(name, "gauge", "Watches that are open.");
    for (resource, open) in api.usage.requests.watches() {
        page.sample(name, &labels(&resource, &"WATCH"), open);
    }
}

type Label<'a> = (&'a str, &'a dyn Display);

fn labels<'a>(resource: &'a Resource, verb: &'a &'static str) -> [Label<'a>; 5] {
    [
        ("group", &resource.group),
        ("resource", &resource.resource),
        ("subresource", &resource.subresource),
        ("verb", verb),
        ("version", &resource.version),
    ]
}

fn process(page: &mut Page, api: &Api) {
    let started = api.usage.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    page.one("process_start_time_seconds", "gauge", "When the daemon began, in seconds since 1970.", started);
    // Where one of these cannot be read, it is left out.
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let status = read("status");
    for (field, name, help) in [
        ("VmRSS", "process_resident_memory_bytes", "Memory of the daemon."),
        ("VmSize", "process_virtual_memory_bytes", "Addresses that the daemon has in use."),
    ] {
        if let Some(kilobytes) = kilobytes(&status, field) {
            page.one(name, "gauge", help, kilobytes * 1024);
        }
    }
    if let Some(seconds) = processor_seconds(&read("stat")) {
        page.one("process_cpu_seconds_total", "counter", "Processor time of the daemon, in seconds.", seconds);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // One of them is this folder's.
        page.one("process_open_fds", "gauge", "Open descriptors of the daemon.", descriptors.count().saturating_sub(1));
    }
}

fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Of user and system together, which stand after the program's name. The kernel counts in hundredths of a second towards
/// programs, whatever its own clock is.
fn processor_seconds(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ').skip(11).map(str::parse::<u64>);
    Some((fields.next()?.ok()? + fields.next()?.ok()?) as f64 / 100.0)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{value}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A family of one.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_prometheus_text() {
        let mut page = Page::default();
        page.family("a_total", "counter", "All of a.");
        page.sample("a_total", &[("code", &200), ("verb", &"GET")], 3);
        page.one("b", "gauge", "One.", 0.5);
        let expected = "# HELP a_total All of a.\n# TYPE a_total counter\na_total{code=\"200\",verb=\"GET\"} 3\n\
                        # HELP b One.\n# TYPE b gauge\nb 0.5\n";
        assert_eq!(page.0, expected);
    }

    #[test]
    fn the_process_is_read_from_the_kernel_s_files() {
        assert_eq!(kilobytes("VmSize:\t  100 kB\nVmRSS:\t   12 kB\n", "VmRSS"), Some(12));
        assert_eq!(kilobytes("Threads:\t1\n", "VmRSS"), None);
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 100";
        assert_eq!(processor_seconds(stat), Some(3.0));
        assert_eq!(processor_seconds(""), None);
    }
}
