//! containerd's `certs.d/HOST/hosts.toml`, read as it is (containerd, "Registry Host Configuration").
//!
//! ```toml
//! server = "https://registry-1.docker.io"
//! [host."https://mirror.example"]
//! capabilities = ["pull", "resolve"]
//! ca = "ca.pem"                            # relative to the file's folder
//! client = [["node.pem", "node.key"]]
//! skip_verify = false
//! override_path = false
//! dial_timeout = "5s"
//! header.x-team = "infra"
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::document::{Document, RegistriesError};
use super::endpoint::{Endpoint, Named, Origin, Role, Tls, spoken_to};
use crate::reference::Reference;

const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
    capabilities: Option<Vec<Spanned<String>>>,
    ca: Option<Spanned<Value>>,
    client: Option<Spanned<Value>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
    #[serde(default)]
    header: BTreeMap<String, Spanned<Value>>,
}

/// What is said of one host; the keys of the file's top are said of the server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    capabilities: Option<Vec<Spanned<String>>>,
    ca: Option<Spanned<Value>>,
    client: Option<Spanned<Value>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
    #[serde(default)]
    header: BTreeMap<String, Spanned<Value>>,
}

/// The endpoints for `reference` of the first `hosts.toml` that `folder` has for its host; `None` if it has none.
pub(super) fn endpoints(folder: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>, RegistriesError> {
    let host = reference.registry();
    // A colon is no character for a folder everywhere: containerd takes `host_port_` too, and first.
    let names = [
        host.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_")),
        Some(host.into()),
        Some("_default".into()),
    ];
    for name in names.into_iter().flatten() {
        if let Some(document) = Document::read(&folder.join(name).join("hosts.toml"), false)? {
            return File { document: &document, reference }.endpoints().map(Some);
        }
    }
    Ok(None)
}

struct File<'a> {
    document: &'a Document,
    reference: &'a Reference,
}

impl File<'_> {
    fn endpoints(&self) -> Result<Vec<Endpoint>, RegistriesError> {
        let top: Top = self.document.parse()?;
        // A map has no order, the file has.
        let mut hosts: Vec<(Spanned<String>, Table)> = top.host.into_iter().collect();
        hosts.sort_by_key(|(url, _)| url.span().start);
        let mut endpoints = Vec::new();
        for (url, table) in &hosts {
            endpoints.push(self.endpoint(url, &format!("host.\"{}\"", url.as_ref()), table, Role::Mirror)?);
        }
        let table = Table {
            capabilities: top.capabilities,
            ca: top.ca,
            client: top.client,
            skip_verify: top.skip_verify,
            override_path: top.override_path,
            dial_timeout: top.dial_timeout,
            header: top.header,
        };
        let by_name = Endpoint::by_name(self.reference);
        let server = top.server.unwrap_or_else(|| Spanned::new(0..0, by_name.root));
        endpoints.push(self.endpoint(&server, "server", &table, Role::Registry)?);
        Ok(endpoints)
    }

    fn endpoint(
        &self,
        url: &Spanned<String>,
        key: &str,
        table: &Table,
        role: Role,
    ) -> Result<Endpoint, RegistriesError> {
        let text = url.as_ref();
        let whole = if text.contains("://") { text.clone() } else { format!("https://{text}") };
        let bad = || self.document.problem(url.span(), format!("{key}: `{text}` is no URL of a registry"));
        let parsed = Url::parse(&whole).map_err(|_| bad())?;
        let is_plain_url = parsed.query().is_none() && parsed.fragment().is_none() && parsed.username().is_empty();
        let name = parsed.host_str().filter(|_| matches!(parsed.scheme(), "http" | "https") && is_plain_url);
        let name = name.ok_or_else(bad)?;
        let host = parsed.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let path = parsed.path().trim_end_matches('/');
        let end = if table.override_path || path.ends_with("/v2") { "" } else { "/v2" };
        let root = format!("{}://{}{path}{end}", parsed.scheme(), spoken_to(&host));
        let login_host = if host == spoken_to("docker.io") { "docker.io" } else { &host };
        let mut endpoint = Endpoint::with_root(root, login_host, self.reference.repository(), role);
        endpoint.origin = self.origin(&url.span(), key.into());
        if spoken_to(&host) != spoken_to(self.reference.registry()) {
            endpoint.namespace = Some(self.reference.registry().into());
        }
        if let Some(all) = &table.capabilities {
            for capability in all {
                self.check_capability(key, capability)?;
            }
            let has = |name: &str| all.iter().any(|capability| capability.as_ref() == name);
            (endpoint.pulls, endpoint.resolves, endpoint.pushes) = (has("pull"), has("resolve"), has("push"));
        }
        let timeout = table.dial_timeout.as_ref();
        let read = |text: &Spanned<String>| {
            let problem =
                || format!("{key}.dial_timeout: `{}`: expected a time as in \"5s\" or \"300ms\"", text.as_ref());
            duration(text.as_ref()).ok_or_else(|| self.document.problem(text.span(), problem()))
        };
        endpoint.connect_time = timeout.map(read).transpose()?;
        endpoint.tls = self.tls(key, table)?;
        endpoint.headers = self.headers(key, &table.header)?;
        Ok(endpoint)
    }

    fn check_capability(&self, key: &str, capability: &Spanned<String>) -> Result<(), RegistriesError> {
        match CAPABILITIES.contains(&capability.as_ref().as_str()) {
            true => Ok(()),
            false => {
                let problem =
                    format!("{key}.capabilities: `{}`: expected one of pull, resolve, push", capability.as_ref());
                Err(self.document.problem(capability.span(), problem))
            }
        }
    }

    fn tls(&self, key: &str, table: &Table) -> Result<Tls, RegistriesError> {
        let mut tls = Tls { is_unverified: table.skip_verify, ..Tls::default() };
        if let Some(value) = &table.ca {
            let key = format!("{key}.ca");
            let files = texts(value.as_ref()).ok_or_else(|| {
                self.document.problem(value.span(), format!("{key}: expected a file or a list of files"))
            })?;
            let origin = self.origin(&value.span(), key);
            let named = |file| Named { value: self.beside(file), origin: origin.clone() };
            tls.authorities = files.into_iter().map(named).collect();
        }
        if let Some(value) = &table.client {
            let key = format!("{key}.client");
            let refuse = |expected: &str| self.document.problem(value.span(), format!("{key}: expected {expected}"));
            let pairs: Option<Vec<(PathBuf, PathBuf)>> = match value.as_ref() {
                Value::Array(all) => all.iter().map(|one| self.pair(one)).collect(),
                one => self.pair(one).map(|pair| vec![pair]),
            };
            let pairs = pairs.ok_or_else(|| refuse("a file, or a list of files or of [certificate, key]"))?;
            let origin = self.origin(&value.span(), key.clone());
            tls.client = match <[_; 1]>::try_from(pairs) {
                Ok([value]) => Some(Named { value, origin }),
                Err(none) if none.is_empty() => None,
                Err(_) => return Err(refuse("one certificate: a connection can show no more")),
            };
        }
        Ok(tls)
    }

    /// A certificate with its key: in two files, or in one.
    fn pair(&self, value: &Value) -> Option<(PathBuf, PathBuf)> {
        let files = texts(value)?;
        match files.as_slice() {
            [one] | [one, ""] => Some((self.beside(one), self.beside(one))),
            [cert, key] => Some((self.beside(cert), self.beside(key))),
            _ => None,
        }
    }

    fn headers(
        &self,
        key: &str,
        table: &BTreeMap<String, Spanned<Value>>,
    ) -> Result<Vec<(String, String)>, RegistriesError> {
        let mut headers = Vec::new();
        for (name, value) in table {
            let refuse = |problem: &str| self.document.problem(value.span(), format!("{key}.header.{name}: {problem}"));
            let values = texts(value.as_ref()).ok_or_else(|| refuse("expected a text or a list of texts"))?;
            if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(refuse("is no name of a header"));
            }
            for value in values {
                // The value may be a secret: it is not repeated.
                reqwest::header::HeaderValue::from_str(value).map_err(|_| refuse("is no value of a header"))?;
                headers.push((name.clone(), value.to_owned()));
            }
        }
        Ok(headers)
    }

    fn origin(&self, place: &Range<usize>, key: String) -> Origin {
        Origin { file: Some((self.document.path.clone(), self.document.line(place))), key }
    }

    /// Relative paths begin at the file's folder.
    fn beside(&self, path: &str) -> PathBuf {
        self.document.path.parent().unwrap_or(Path::new("/")).join(path)
    }
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(all) => all.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// A time as Go writes it, of one unit or several: `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, behind) = rest.split_at(number);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == &behind[..unit])?;
        seconds += value.parse::<f64>().ok()? * factor;
        rest = &behind[unit..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, reference: &str) -> Result<Vec<Endpoint>, String> {
        let (document, reference) = (Document::of_text("/d/h/hosts.toml", text), reference.parse().unwrap());
        File { document: &document, reference: &reference }.endpoints().map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_come_in_the_files_order_and_the_server_last() {
        let text = "server = 'https://upstream.io'\n[host.'https://z.io/hub']\n[host.'http://a.io:5000/x/v2']\n\
            [host.'https://o.io/exact']\noverride_path = true\n";
        let endpoints = read(text, "docker.io/a/b").unwrap();
        let urls: Vec<String> = endpoints.iter().map(Endpoint::url).collect();
        let expected = [
            "https://z.io/hub/v2/a/b",
            "http://a.io:5000/x/v2/a/b",
            "https://o.io/exact/a/b",
            "https://upstream.io/v2/a/b",
        ];
        assert_eq!(urls, expected);
        assert_eq!(endpoints[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(endpoints[1].host(), "a.io:5000");
        assert_eq!(endpoints[1].origin.to_string(), "host.\"http://a.io:5000/x/v2\" in /d/h/hosts.toml, line 3");
        let urls: Vec<String> = read("", "busybox").unwrap().iter().map(Endpoint::url).collect();
        assert_eq!(urls, ["https://registry-1.docker.io/v2/library/busybox"]);
    }

    #[test]
    fn what_is_said_of_a_host_is_carried_out() {
        let text = "ca = '/abs.pem'\n[host.'m.io']\ncapabilities = ['pull']\nca = ['a.pem', 'b.pem']\n\
            client = [['c.pem', 'c.key']]\nskip_verify = true\ndial_timeout = '1m0.5s'\n[host.'m.io'.header]\nx-a = ['1', '2']\n";
        let endpoints = read(text, "q.io/a").unwrap();
        let host = &endpoints[0];
        assert!(host.pulls && !host.resolves && !host.pushes && host.tls.is_unverified);
        let authorities: Vec<String> = host.tls.authorities.iter().map(|ca| ca.value.display().to_string()).collect();
        assert_eq!(authorities, ["/d/h/a.pem", "/d/h/b.pem"]);
        assert_eq!(host.tls.client.as_ref().unwrap().value, ("/d/h/c.pem".into(), "/d/h/c.key".into()));
        assert_eq!(host.connect_time, Some(Duration::from_millis(60_500)));
        assert_eq!(host.headers, [("x-a".into(), "1".into()), ("x-a".into(), "2".into())]);
        assert!(!format!("{host:?}").contains("\"1\""));
        assert_eq!(endpoints[1].tls.authorities[0].value, Path::new("/abs.pem"));
        let one = &read("client = 'both.pem'", "q.io/a").unwrap()[0];
        assert_eq!(one.tls.client.as_ref().unwrap().value, ("/d/h/both.pem".into(), "/d/h/both.pem".into()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_no_secret() {
        for (text, part) in [
            ("\nserve = 'x'\n", "line 2: unknown field `serve`"),
            ("[host.'m.io']\nskip-verify = true\n", "line 2: unknown field `skip-verify`"),
            ("server = 'ftp://x'\n", "line 1: server: `ftp://x` is no URL of a registry"),
            ("[host.'https://u:p@x']\n", "is no URL of a registry"),
            (
                "[host.'m.io']\ncapabilities = ['pull', 'delete']\n",
                "line 2: host.\"m.io\".capabilities: `delete`: expected one of",
            ),
            ("ca = 7\n", "line 1: server.ca: expected a file"),
            ("client = [['a', 'b', 'c']]\n", "server.client: expected a file"),
            ("client = ['a', 'b']\n", "server.client: expected one certificate"),
            ("dial_timeout = 'soon'\n", "server.dial_timeout: `soon`: expected a time"),
            ("[header]\nauthorization = \"secret\\n\"\n", "line 2: server.header.authorization: is no value"),
            ("[header]\n'a b' = 'secret'\n", "server.header.a b: is no name"),
            ("[header]\na = 7\n", "server.header.a: expected a text"),
            ("skip_verify = 'yes'\n", "line 1: invalid type: string"),
        ] {
            let error = read(text, "q.io/a").expect_err(text);
            assert!(error.starts_with("/d/h/hosts.toml: line ") && error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn folders_are_named_by_host_and_port_or_stand_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let write = |host: &str, server: &str| {
            std::fs::create_dir(folder.path().join(host)).unwrap();
            std::fs::write(folder.path().join(host).join("hosts.toml"), format!("server = 'https://{server}'"))
                .unwrap();
        };
        let server = |reference: &str| {
            let found = endpoints(folder.path(), &reference.parse().unwrap()).unwrap();
            found.map(|endpoints| endpoints[0].host().to_owned())
        };
        write("a.io:5000", "one");
        assert_eq!(server("a.io:5000/x").as_deref(), Some("one"));
        write("a.io_5000_", "two");
        assert_eq!(server("a.io:5000/x").as_deref(), Some("two"));
        assert_eq!(server("a.io/x"), None);
        write("_default", "three");
        assert_eq!(server("a.io/x").as_deref(), Some("three"));
    }
}
