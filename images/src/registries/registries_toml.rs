//! `registries.toml`: mirrors and TLS by registry.
//!
//! ```toml
//! certs_d = ["/etc/containerd/certs.d"]    # folders of HOST/hosts.toml, for what has no section here
//!
//! [registry."docker.io"]                   # HOST[:PORT][/PATH], or "*.example.com"
//! mirrors = ["mirror.example:5000/hub"]    # HOST[:PORT][/PATH] in the place of that name, asked in this order
//!
//! [registry."mirror.example:5000"]         # a mirror is reached as its own section says
//! ca = "/etc/ssl/mirror-ca.pem"
//! client_cert = "/etc/ssl/node.pem"
//! client_key = "/etc/ssl/node.key"
//! insecure = "http"                        # or "no-verification"; true tries both, that first
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::document::{Document, RegistriesError};
use super::endpoint::{Endpoint, Named, Origin, Role, spoken_to};
use super::is_absolute;
use crate::reference::{Reference, check_place, is_loopback};

pub(super) struct RegistriesToml {
    document: Document,
    sections: Vec<Section>,
    hosts_folders: Vec<PathBuf>,
}

struct Section {
    key: String,
    place: Range<usize>,
    line: usize,
    mirrors: Vec<(String, usize)>,
    ca: Option<Named<PathBuf>>,
    client: Option<Named<(PathBuf, PathBuf)>>,
    insecure: Option<Insecure>,
}

/// What is done without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Insecure {
    /// Nothing: TLS even on this machine.
    Nothing,
    Tls,
    Verification,
    /// Verification, or TLS if there is none.
    Either,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    #[serde(default)]
    certs_d: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    registry: BTreeMap<Spanned<String>, Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    mirrors: Vec<Spanned<String>>,
    ca: Option<Spanned<PathBuf>>,
    client_cert: Option<Spanned<PathBuf>>,
    client_key: Option<Spanned<PathBuf>>,
    insecure: Option<Spanned<Value>>,
}

impl RegistriesToml {
    pub(super) fn read(path: &Path, is_required: bool) -> Result<Option<Self>, RegistriesError> {
        Document::read(path, is_required)?.map(Self::parse).transpose()
    }

    fn parse(document: Document) -> Result<Self, RegistriesError> {
        let top: Top = document.parse()?;
        let absolute = |path: &Spanned<PathBuf>| match is_absolute(path.as_ref()) {
            true => Ok(path.as_ref().clone()),
            false => {
                let problem = format!("`{}`: expected an absolute path", path.as_ref().display());
                Err(document.problem(path.span(), problem))
            }
        };
        let hosts_folders = top.certs_d.iter().map(absolute).collect::<Result<_, _>>()?;
        let mut sections = Vec::new();
        for (key, table) in top.registry {
            let place = key.span();
            let key = key.into_inner().to_ascii_lowercase();
            check_key(&key).map_err(|problem| document.problem(place.clone(), problem))?;
            // A host is the same however it is written.
            if let Some(other) = sections.iter().find(|other: &&Section| other.key == key) {
                let lines = [other.line, document.line(&place)];
                let problem = format!("registry `{key}`: has a section already, at line {}", lines[0].min(lines[1]));
                let later = if lines[1] > lines[0] { place } else { other.place.clone() };
                return Err(document.problem(later, problem));
            }
            let named = |value: &Spanned<PathBuf>, name: &str| {
                let origin = origin(&document, document.line(&value.span()), format!("registry.\"{key}\".{name}"));
                Ok::<_, RegistriesError>(Named { value: absolute(value)?, origin })
            };
            let ca = table.ca.as_ref().map(|ca| named(ca, "ca")).transpose()?;
            let client = match (&table.client_cert, &table.client_key) {
                (Some(cert), Some(key)) => {
                    let cert = named(cert, "client_cert")?;
                    Some(Named { value: (cert.value, absolute(key)?), origin: cert.origin })
                }
                (None, None) => None,
                (Some(one), None) | (None, Some(one)) => {
                    let problem = format!("registry.\"{key}\": client_cert and client_key go together, one is missing");
                    return Err(document.problem(one.span(), problem));
                }
            };
            let insecure = table.insecure.as_ref().map(|value| insecure(&document, value)).transpose()?;
            let mut mirrors = Vec::new();
            for mirror in &table.mirrors {
                let text = mirror.as_ref().to_ascii_lowercase();
                check_place(&text)
                    .map_err(|problem| document.problem(mirror.span(), format!("mirror `{text}`: {problem}")))?;
                mirrors.push((text, document.line(&mirror.span())));
            }
            sections.push(Section { line: document.line(&place), place, key, mirrors, ca, client, insecure });
        }
        Ok(Self { document, sections, hosts_folders })
    }

    pub(super) fn hosts_folders(&self) -> &[PathBuf] {
        &self.hosts_folders
    }

    /// Whether a section is for the reference.
    pub(super) fn knows(&self, reference: &Reference) -> bool {
        self.section(&reference.name()).is_some()
    }

    /// The mirrors of the reference's section, then the registry itself.
    pub(super) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistriesError> {
        let name = reference.name();
        let section = self.section(&name);
        let mut endpoints = Vec::new();
        if let Some(section) = section {
            // The mirror's path takes the place of the key's own.
            let host_end = name.find('/').unwrap_or(name.len());
            let end = if section.key.starts_with("*.") { host_end } else { section.key.len() };
            let rest = name[end..].trim_start_matches('/');
            for (mirror, line) in &section.mirrors {
                let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
                let repository =
                    [path, rest].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
                let own = self.section(&format!("{host}/{repository}"));
                let key = format!("registry.\"{}\".mirrors", section.key);
                endpoints.extend(reached(host, &repository, Role::Mirror, own, origin(&self.document, *line, key)));
            }
        }
        let own = section.map(|section| origin(&self.document, section.line, format!("registry.\"{}\"", section.key)));
        let (host, repository) = (reference.registry(), reference.repository());
        endpoints.extend(reached(host, repository, Role::Registry, section, own.unwrap_or_default()));
        Ok(endpoints)
    }

    /// The most specific section for `HOST[:PORT]/PATH`: the longest name, else the longest domain.
    fn section(&self, name: &str) -> Option<&Section> {
        let whole = |section: &&Section| {
            name.strip_prefix(section.key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let host = name.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let domain = |section: &&Section| {
            section.key.strip_prefix('*').is_some_and(|domain| host.ends_with(domain) && host.len() > domain.len())
        };
        let longest = |section: &&Section| section.key.len();
        let exact = self.sections.iter().filter(whole).max_by_key(longest);
        exact.or_else(|| self.sections.iter().filter(domain).max_by_key(longest))
    }
}

/// The ways to reach one host, as its section says: more than one where either will do.
fn reached(host: &str, repository: &str, role: Role, section: Option<&Section>, origin: Origin) -> Vec<Endpoint> {
    let says_tls = section.is_some_and(|section| section.ca.is_some() || section.client.is_some());
    let insecure = match section.and_then(|section| section.insecure) {
        Some(insecure) => insecure,
        None if is_loopback(host) && !says_tls => Insecure::Tls,
        None => Insecure::Nothing,
    };
    // A mirror has what the registry has: what is pushed there only would be lost.
    let pushes = role == Role::Registry;
    let endpoint =
        |scheme: &str| Endpoint { origin: origin.clone(), pushes, ..Endpoint::at(scheme, host, repository, role) };
    let plain = Endpoint { is_second_try: insecure == Insecure::Either, ..endpoint("http") };
    let mut by_tls = endpoint("https");
    by_tls.tls.is_unverified = matches!(insecure, Insecure::Verification | Insecure::Either);
    if let Some(section) = section {
        by_tls.tls.authorities.extend(section.ca.clone());
        by_tls.tls.client.clone_from(&section.client);
    }
    match insecure {
        Insecure::Tls => vec![plain],
        Insecure::Nothing | Insecure::Verification => vec![by_tls],
        Insecure::Either => vec![by_tls, plain],
    }
}

fn insecure(document: &Document, value: &Spanned<Value>) -> Result<Insecure, RegistriesError> {
    match value.as_ref() {
        Value::Boolean(true) => Ok(Insecure::Either),
        Value::Boolean(false) => Ok(Insecure::Nothing),
        Value::String(text) if text == "http" => Ok(Insecure::Tls),
        Value::String(text) if text == "no-verification" => Ok(Insecure::Verification),
        other => {
            let problem = format!("insecure = {other}: expected \"http\", \"no-verification\", true or false");
            Err(document.problem(value.span(), problem))
        }
    }
}

/// `HOST[:PORT][/PATH]` or `*.DOMAIN`.
fn check_key(key: &str) -> Result<(), String> {
    let checked = match key.strip_prefix("*.") {
        Some(domain) if domain.contains(['/', ':']) => Err("expected nothing but a domain behind `*.`".into()),
        Some(domain) => check_place(domain).map_err(|problem| problem.to_string()),
        None if key == spoken_to("docker.io") || key == "index.docker.io" => {
            Err("Docker Hub is called docker.io".into())
        }
        None => check_place(key).map_err(|problem| problem.to_string()),
    };
    checked.map_err(|problem: String| format!("registry `{key}`: {problem}"))
}

fn origin(document: &Document, line: usize, key: String) -> Origin {
    Origin { file: Some((document.path.clone(), line)), key }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RegistriesToml, String> {
        RegistriesToml::parse(Document::of_text("/r.toml", text)).map_err(|error| error.to_string())
    }

    fn urls(text: &str, reference: &str) -> Vec<String> {
        let reference: Reference = reference.parse().unwrap();
        let file = parse(text).unwrap();
        file.endpoints(&reference).unwrap().iter().map(Endpoint::url).collect()
    }

    #[test]
    fn mirrors_come_first_and_take_the_place_of_the_key() {
        let text = "[registry.'docker.io']\nmirrors = ['m.io:5000', 'n.io/hub', '127.0.0.1:1']\n\
            [registry.'q.io/team']\nmirrors = ['m.io/q']\n[registry.'*.corp.io']\nmirrors = ['m.io/corp']\n\
            [registry.'x.corp.io']\n";
        assert_eq!(
            urls(text, "busybox"),
            [
                "https://m.io:5000/v2/library/busybox",
                "https://n.io/v2/hub/library/busybox",
                "http://127.0.0.1:1/v2/library/busybox",
                "https://registry-1.docker.io/v2/library/busybox",
            ]
        );
        assert_eq!(urls(text, "q.io/team/app"), ["https://m.io/v2/q/app", "https://q.io/v2/team/app"]);
        assert_eq!(urls(text, "q.io/teams/app"), ["https://q.io/v2/teams/app"]);
        assert_eq!(urls(text, "a.b.corp.io:5/app"), ["https://m.io/v2/corp/app", "https://a.b.corp.io:5/v2/app"]);
        assert_eq!(urls(text, "x.corp.io/app"), ["https://x.corp.io/v2/app"]);
        assert_eq!(urls(text, "corp.io/app"), ["https://corp.io/v2/app"]);
    }

    #[test]
    fn tls_is_as_the_section_of_who_is_spoken_to_says() {
        let text = "[registry.'a.io']\nmirrors = ['m.io']\nca = '/a.pem'\n[registry.'m.io']\ninsecure = 'no-verification'\n\
            client_cert = '/c'\nclient_key = '/k'\n[registry.'p.io']\ninsecure = 'http'\n[registry.'e.io']\ninsecure = true\n\
            [registry.'localhost']\nca = '/a.pem'\n";
        let file = parse(text).unwrap();
        let endpoints = |name: &str| file.endpoints(&name.parse().unwrap()).unwrap();
        let [mirror, own] = <[Endpoint; 2]>::try_from(endpoints("a.io/x")).unwrap();
        assert!(mirror.tls.is_unverified && mirror.tls.authorities.is_empty());
        assert_eq!(mirror.tls.client.unwrap().origin.to_string(), "registry.\"m.io\".client_cert in /r.toml, line 6");
        assert_eq!(mirror.origin.to_string(), "registry.\"a.io\".mirrors in /r.toml, line 2");
        assert!(!own.tls.is_unverified && own.tls.client.is_none());
        assert_eq!(own.tls.authorities[0].origin.to_string(), "registry.\"a.io\".ca in /r.toml, line 3");
        assert!(endpoints("p.io/x")[0].is_plain());
        let either = endpoints("e.io/x");
        assert!(either[0].tls.is_unverified && !either[0].is_second_try);
        assert!(either[1].is_plain() && either[1].is_second_try);
        assert!(!endpoints("localhost/x")[0].is_plain());
        assert!(endpoints("localhost:5000/x")[0].is_plain());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, part) in [
            ("[registry.'a.io']\nmirror = ['b']\n", "line 2: unknown field `mirror`, expected one of `mirrors`, `ca`"),
            ("\nfoo = 1\n", "line 2: unknown field `foo`"),
            ("[registry.'a.io'\n", "line 1: "),
            ("[registry.'a.io']\nmirrors = 'b.io'\n", "line 2: invalid type: string"),
            ("[registry.'a.io']\nmirrors = [\n'b.io',\n'https://c.io']\n", "line 4: mirror `https://c.io`: "),
            ("[registry.'a.io']\nca = 'a.pem'\n", "line 2: `a.pem`: expected an absolute path"),
            ("[registry.'a.io']\n\nclient_cert = '/c'\n", "line 3: registry.\"a.io\": client_cert and client_key"),
            ("[registry.'a.io']\ninsecure = 'maybe'\n", "line 2: insecure = \"maybe\": expected \"http\""),
            ("[registry.'a b']\n", "line 1: registry `a b`: "),
            ("[registry.'*.a.io/x']\n", "line 1: registry `*.a.io/x`: expected nothing but a domain"),
            ("[registry.'index.docker.io']\n", "Docker Hub is called docker.io"),
            ("[registry.'a.io']\n[registry.'a.io']\n", "line 2: duplicate key"),
            ("certs_d = ['certs.d']\n", "line 1: `certs.d`: expected an absolute path"),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.starts_with("/r.toml: ") && error.contains(part), "{text}: {error}");
        }
    }
}
