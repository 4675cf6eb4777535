//! HTTP proxies, as the environment names them.

use std::fmt;

/// Proxies between us and the registries; a registry on this machine is never asked through one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http:` (`HTTP_PROXY`).
    pub http: Option<String>,
    /// For `https:` (`HTTPS_PROXY`).
    pub https: Option<String>,
    /// Hosts, domains, addresses and networks that are reached without one, by commas (`NO_PROXY`).
    pub none: Option<String>,
}

impl Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in small letters too; an empty one is none.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| {
            let either = [name.to_owned(), name.to_ascii_lowercase()];
            either.iter().find_map(|name| variable(name)).filter(|value| !value.is_empty())
        };
        let all = set("ALL_PROXY");
        Self {
            http: set("HTTP_PROXY").or_else(|| all.clone()),
            https: set("HTTPS_PROXY").or(all),
            none: set("NO_PROXY"),
        }
    }

    /// The proxy for one kind of URL, without its login.
    pub fn shown(&self, is_plain: bool) -> Option<String> {
        let proxy = if is_plain { &self.http } else { &self.https };
        proxy.as_deref().map(without_login)
    }
}

/// A proxy's URL may have a password in it.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("http", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    format!("{scheme}://{host}")
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxies({:?}, {:?}, none {:?})", self.shown(true), self.shown(false), self.none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_proxies_in_either_case() {
        let read = |set: &[(&str, &str)]| {
            Proxies::of_environment(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
        };
        let proxies =
            read(&[("http_proxy", "http://a:1"), ("HTTPS_PROXY", "b:2"), ("NO_PROXY", "x"), ("ALL_PROXY", "c")]);
        assert_eq!(
            (proxies.shown(true).unwrap(), proxies.shown(false).unwrap()),
            ("http://a:1".into(), "http://b:2".into())
        );
        assert_eq!(read(&[("all_proxy", "c"), ("HTTP_PROXY", "")]).shown(true).as_deref(), Some("http://c"));
        assert_eq!(read(&[]), Proxies::default());
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        let proxies = Proxies { http: Some("http://me:secret@p:1/x@y".into()), ..Proxies::default() };
        assert_eq!(proxies.shown(true).unwrap(), "http://p:1");
        assert!(!format!("{proxies:?}").contains("secret"));
    }
}
