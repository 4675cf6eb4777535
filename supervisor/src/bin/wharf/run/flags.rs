//! docker's small languages: `-p 127.0.0.1:80:8080/udp`, `-v /a:/b:ro`, `-m 64m`, `--cpus 0.5`, `-e K=V`.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// Least CPU time the kernel gives: 1 ms of every 100 ms.
const MIN_CPU_MILLI: f64 = 10.0;

/// A port of the container that the node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) address: Option<IpAddr>,
    /// `None`: any free one.
    pub(super) host: Option<u16>,
    pub(super) container: u16,
    pub(super) protocol: &'static str,
}

/// Reads `[[ADDRESS:]HOST:]CONTAINER[/tcp|udp]`; an IPv6 address stands in brackets.
pub(super) fn published(text: &str) -> anyhow::Result<Published> {
    let wrong = || format!("--publish {text:?}: expected [[ADDRESS:]HOST:]CONTAINER[/tcp|udp]");
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, "TCP"),
        Some((ports, "tcp")) => (ports, "TCP"),
        Some((ports, "udp")) => (ports, "UDP"),
        Some(_) => bail!(wrong()),
    };
    let port = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0).with_context(wrong);
    let (rest, container) = match ports.rsplit_once(':') {
        None => return Ok(Published { address: None, host: None, container: port(ports)?, protocol }),
        Some((rest, container)) => (rest, port(container)?),
    };
    let (address, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((address, host)) => {
            let plain = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
            (Some(plain.parse::<IpAddr>().ok().with_context(wrong)?), host)
        }
    };
    let host = if host.is_empty() && address.is_some() { None } else { Some(port(host)?) };
    Ok(Published { address, host, container, protocol })
}

/// Something of the node, or a place of its own, at a path in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Absolute; `None` for an empty directory that lives as long as the pod.
    pub(super) source: Option<String>,
    pub(super) target: String,
    pub(super) read_only: bool,
}

/// Reads `[SOURCE:]TARGET[:ro|rw]`. A relative source begins with `.` and is meant from `current`.
pub(super) fn mounted(text: &str, current: &Path) -> anyhow::Result<Mounted> {
    let wrong = || format!("--volume {text:?}: expected [SOURCE:]TARGET[:ro|rw] with an absolute TARGET");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => (None, *target, "rw"),
        [source, target] => (Some(*source), *target, "rw"),
        [source, target, mode] => (Some(*source), *target, *mode),
        _ => bail!(wrong()),
    };
    ensure!(target.starts_with('/') && target != "/", wrong());
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        other => bail!("--volume {text:?}: {other:?} is not one of ro, rw"),
    };
    let source = match source {
        None => None,
        Some(path) if path.starts_with('/') => Some(path.to_owned()),
        Some(path) if path.starts_with('.') => Some(absolute(path, current).with_context(wrong)?),
        Some("") => bail!(wrong()),
        Some(name) => bail!(
            "--volume {text:?}: {name:?} is no path, and named volumes are not supported: give a directory of the node"
        ),
    };
    Ok(Mounted { source, target: target.to_owned(), read_only })
}

/// Without `.` and `..`, which the node refuses in paths.
fn absolute(path: &str, current: &Path) -> Option<String> {
    let mut whole = current.to_owned();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(whole.pop()),
            name => whole.push(name),
        }
    }
    whole.into_os_string().into_string().ok()
}

/// Reads `64m`, `1.5g`, `4096`, `1gb` into bytes.
pub(super) fn memory(text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("--memory {text:?}: expected bytes with a unit of b, k, m, g or t, as in 64m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => bail!(wrong()),
    };
    ensure!(digits.starts_with(|c: char| c.is_ascii_digit()), wrong());
    let number: f64 = digits.parse().ok().with_context(wrong)?;
    let bytes = number * f64::from(1u32 << (shift % 32)) * if shift == 40 { 4_294_967_296.0 } else { 1.0 };
    ensure!((1.0..9e18).contains(&bytes), wrong());
    Ok(bytes as u64)
}

/// Reads a number of CPUs into thousandths.
pub(super) fn cpus(text: &str) -> anyhow::Result<u64> {
    let number: Option<f64> = text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit() || c == '.'));
    match number.map(|cpus| cpus * 1000.0) {
        Some(milli) if (MIN_CPU_MILLI..1e9).contains(&milli) => Ok(milli.round() as u64),
        _ => bail!("--cpus {text:?}: expected a number of CPUs of at least 0.01, as in 0.5"),
    }
}

/// Reads `NAME=VALUE`, or `NAME` for the value it has `here`; `None` where it has none.
pub(super) fn variable(text: &str, here: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<(String, String)>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, here(text)),
    };
    ensure!(!name.is_empty(), "--env {text:?}: expected NAME=VALUE or NAME");
    Ok(value.map(|value| (name.to_owned(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_as_docker_reads_them() {
        let port = |address: Option<&str>, host, container, protocol| Published {
            address: address.map(|address| address.parse().unwrap()),
            host,
            container,
            protocol,
        };
        for (text, expected) in [
            ("80", port(None, None, 80, "TCP")),
            ("8080:80", port(None, Some(8080), 80, "TCP")),
            ("8080:80/udp", port(None, Some(8080), 80, "UDP")),
            ("127.0.0.1:8080:80/tcp", port(Some("127.0.0.1"), Some(8080), 80, "TCP")),
            ("127.0.0.1::80", port(Some("127.0.0.1"), None, 80, "TCP")),
            ("[::1]:8080:80", port(Some("::1"), Some(8080), 80, "TCP")),
        ] {
            assert_eq!(published(text).unwrap(), expected, "{text}");
        }
        for wrong in
            ["", "x", "0", "65536", "80:", ":80", "80:80/sctp", "1:2:3", "localhost:1:2", "8000-8001:80", "-1:80"]
        {
            assert!(published(wrong).unwrap_err().to_string().contains("--publish"), "{wrong}");
        }
    }

    #[test]
    fn volumes_read_as_docker_reads_them() {
        let volume = |source: Option<&str>, target: &str, read_only| Mounted {
            source: source.map(str::to_owned),
            target: target.into(),
            read_only,
        };
        for (text, expected) in [
            ("/data", volume(None, "/data", false)),
            ("/a:/b", volume(Some("/a"), "/b", false)),
            ("/a:/b:ro", volume(Some("/a"), "/b", true)),
            (".:/b:rw", volume(Some("/here/now"), "/b", false)),
            ("../x/./y:/b", volume(Some("/here/x/y"), "/b", false)),
        ] {
            assert_eq!(mounted(text, Path::new("/here/now")).unwrap(), expected, "{text}");
        }
        for wrong in ["", "data", "/a:b", "/a:/", "/a:/b:rox", ":/b", "/a:/b:ro:z"] {
            assert!(mounted(wrong, Path::new("/")).is_err(), "{wrong}");
        }
        assert!(mounted("name:/b", Path::new("/")).unwrap_err().to_string().contains("named volumes"));
    }

    #[test]
    fn memory_has_binary_units() {
        for (text, expected) in [
            ("64m", 64 << 20),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("512", 512),
            ("2kb", 2048),
            ("1MiB", 1 << 20),
            ("1t", 1 << 40),
        ] {
            assert_eq!(memory(text).unwrap(), expected, "{text}");
        }
        for wrong in ["", "m", "lots", "-1m", "0", "1x", "1e400", "inf", "nan"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_thousandths() {
        for (text, expected) in [("0.5", 500), ("2", 2000), (".25", 250), ("0.01", 10)] {
            assert_eq!(cpus(text).unwrap(), expected, "{text}");
        }
        for wrong in ["", "0", "0.001", "-1", "half", "inf", "nan", "+1"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_variable_without_value_is_taken_from_here() {
        let here = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(variable("A=b=c", here).unwrap(), pair("A", "b=c"));
        assert_eq!(variable("HOME", here).unwrap(), pair("HOME", "/root"));
        assert_eq!(variable("OTHER", here).unwrap(), None);
        assert!(variable("=x", here).is_err());
    }
}
