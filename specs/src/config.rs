//! `wharfd.toml`: the configuration of a node. Every key is optional.
//!
//! ```toml
//! root = "/var/lib/wharf"             # images, objects: survives a reboot
//! state = "/run/wharf"                # sockets, pods: does not
//! manifests = "/etc/wharf/manifests"  # objects to apply at start and when they change
//! shim = "/usr/local/bin/wharf-shim"  # default: beside wharfd
//! cgroup_parent = "wharf"             # of pods that name none
//! cgroup_driver = "cgroupfs"          # or systemd, which then makes a slice per pod and a scope per container
//! snapshots = "auto"                  # overlay: containers' files are mounted; copy: copied; auto: what is possible
//! log_level = "info"                  # error, warn, info, debug, trace
//! max_pods = 1000                     # of the Kubernetes API; more wait until others have gone
//! auth_files = ["/etc/kubernetes/auth.json"]  # logins for registries, beside those of /etc/wharf/auth.json
//! registries = "/etc/wharf/registries.toml"   # mirrors and TLS by registry
//! cdi_folders = ["/etc/cdi", "/var/run/cdi"]  # vendors' files of devices; a later folder overrules an earlier one
//!
//! [network]
//! mode = "auto"                       # auto, embedded, cni
//! bridge = "wharf0"
//! subnet = "10.88.0.0/16"
//! subnet6 = "fd00:10:88::/64"         # pods have a second address; default: IPv4 alone
//! service_subnet = "10.96.0.0/16"     # of the virtual addresses of Services
//! service_subnet6 = "fd00:10:96::/108"  # and of those that they have besides, or instead
//! node_ports = "30000-32767"          # of Services of type NodePort
//!
//! [network.cni]
//! folder = "/etc/cni/net.d"
//! plugins = ["/opt/cni/bin", "/usr/lib/cni"]
//! timeout_seconds = 60                # of one plugin
//!
//! [dns]
//! domain = "cluster.local"            # services are NAME.NAMESPACE.svc.DOMAIN
//! address = "10.88.0.1"               # where pods find the server; default: the embedded network's bridge
//! upstream = ["192.0.2.53:53"]        # asked for other names; default: the node's resolv.conf
//!
//! [api]
//! listen = "192.0.2.1:6443"           # the Kubernetes API over TLS, beside its socket; default: nowhere
//! names = ["node.example"]            # further names and addresses in the server's certificate
//!
//! [eviction]
//! memory_mib = 100                    # pods are ended where the node has less free memory; 0: never
//! disk_percent = 5                    # or less of the file system of `root`
//! pids_percent = 5                    # or of process ids
//!
//! [checkpoint]
//! enabled = false                     # CheckpointContainer, and containers made from its archives
//! images = false                      # and from images: whoever names one decides then what root restores
//!
//! [runtimes.runc]                     # a runtime handler besides the built-in one
//! path = "/usr/sbin/runc"
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use crate::shim::CgroupDriver;

/// A whole `wharfd.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub root: PathBuf,
    pub state: PathBuf,
    pub manifests: PathBuf,
    /// `None`: the file `wharf-shim` beside the running program.
    pub shim: Option<PathBuf>,
    /// With the systemd driver the name of a slice, with or without `.slice`.
    pub cgroup_parent: String,
    pub cgroup_driver: CgroupDriver,
    pub snapshots: SnapshotMode,
    pub log_level: LogLevel,
    /// Of the Kubernetes API: more wait until others have gone. Pods of a kubelet are its own matter.
    pub max_pods: u32,
    /// Files of the form of podman's `auth.json`; asked in this order, after `/etc/wharf/auth.json`.
    pub auth_files: Vec<PathBuf>,
    /// `None`: `/etc/wharf/registries.toml`, if it is there.
    pub registries: Option<PathBuf>,
    /// Files of the Container Device Interface; a device of a later folder overrules one of the same name.
    pub cdi_folders: Vec<PathBuf>,
    pub network: Network,
    pub dns: Dns,
    pub api: Api,
    pub eviction: Eviction,
    pub checkpoint: Checkpoint,
    pub runtimes: BTreeMap<String, Runtime>,
}

/// What is done with checkpoints. Whoever makes one decides what processes, with which capabilities, a restore makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// They are written, and containers are made from archives that the node has.
    pub enabled: bool,
    /// Containers are made from images too that say of themselves that they are checkpoints; needs `enabled`.
    pub images: bool,
}

/// When pods are ended because the node runs out of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eviction {
    /// Where the node has less free memory than this, in MiB. 0: never.
    pub memory_mib: u32,
    /// Where less than this share of the file system of [`Config::root`] is free, in percent. 0: never.
    pub disk_percent: u8,
    /// Where less than this share of the process ids is free, in percent. 0: never.
    pub pids_percent: u8,
}

impl Eviction {
    fn check(&self) -> Result<(), ConfigError> {
        let shares = [("eviction.disk_percent", self.disk_percent), ("eviction.pids_percent", self.pids_percent)];
        match shares.into_iter().find(|(_, percent)| *percent > 99) {
            Some((key, percent)) => {
                Err(ConfigError::Value { key, found: percent.to_string(), wanted: "is not between 0 and 99" })
            }
            None => Ok(()),
        }
    }
}

/// How pods get their network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    pub mode: NetworkMode,
    /// Name of the embedded network's bridge; also names its nftables table, so that several nodes share a machine.
    pub bridge: String,
    /// Of the embedded network: IPv4, in CIDR form; the bridge gets its first address.
    pub subnet: String,
    /// Of the embedded network: IPv6, in CIDR form, no smaller than `subnet`. `None`: pods have IPv4 alone, and the node
    /// is not made to forward IPv6.
    pub subnet6: Option<String>,
    /// Virtual addresses of Services, whoever wires pods: IPv4, in CIDR form.
    pub service_subnet: String,
    /// Likewise of IPv6; `None`: Services have none.
    pub service_subnet6: Option<String>,
    /// Ports of the node for Services: first and last.
    pub node_ports: String,
    pub cni: Cni,
}

impl Network {
    /// Whether the node is to have anything of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.subnet6.is_some() || self.service_subnet6.is_some()
    }
}

/// Who wires pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// CNI plugins where the folder has a configuration, and otherwise the embedded network.
    #[default]
    Auto,
    /// The embedded network, whatever the folder has.
    Embedded,
    /// CNI plugins: without a configuration no pod is taken.
    Cni,
}

/// Where CNI's configurations and plugins are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cni {
    /// Holds the network configurations; the first valid one in the order of their names is used.
    pub folder: PathBuf,
    /// Searched for a plugin's program, in this order.
    pub plugins: Vec<PathBuf>,
    /// How long one plugin may take, in seconds; then it is killed with all it started.
    pub timeout_seconds: u32,
}

/// `network.cni.timeout_seconds` up to here: an hour, beyond which no client waits for a pod.
const MAX_CNI_TIMEOUT_SECONDS: u32 = 3600;

/// Names of services, for pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Services are `NAME.NAMESPACE.svc` of this.
    pub domain: String,
    /// An address of the node that pods reach; `None`: that of the embedded network's bridge.
    pub address: Option<IpAddr>,
    /// Who knows other names; none: the servers of the node's resolv.conf.
    pub upstream: Vec<SocketAddr>,
}

/// The Kubernetes API over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// `None`: the API is served on its socket alone. Port 0 is a free one.
    pub listen: Option<SocketAddr>,
    /// Names and addresses by which clients reach it, beside the obvious ones: in the server's certificate.
    pub names: Vec<String>,
}

/// How containers get their root file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotMode {
    /// Mounted where that is possible, else copied.
    #[default]
    Auto,
    /// Mounted by overlayfs, or not at all.
    Overlay,
    /// Copied: every container takes as much room as its image.
    Copy,
}

/// An OCI runtime with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    pub path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/wharf".into(),
            state: "/run/wharf".into(),
            manifests: "/etc/wharf/manifests".into(),
            shim: None,
            cgroup_parent: "wharf".into(),
            cgroup_driver: CgroupDriver::default(),
            snapshots: SnapshotMode::default(),
            log_level: LogLevel::default(),
            max_pods: 1000,
            auth_files: Vec::new(),
            registries: None,
            cdi_folders: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            network: Network::default(),
            dns: Dns::default(),
            api: Api::default(),
            eviction: Eviction::default(),
            checkpoint: Checkpoint::default(),
            runtimes: BTreeMap::new(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: NetworkMode::default(),
            bridge: "wharf0".into(),
            subnet: "10.88.0.0/16".into(),
            subnet6: None,
            service_subnet: "10.96.0.0/16".into(),
            service_subnet6: None,
            node_ports: "30000-32767".into(),
            cni: Cni::default(),
        }
    }
}

impl Default for Eviction {
    fn default() -> Self {
        Self { memory_mib: 100, disk_percent: 5, pids_percent: 5 }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { domain: "cluster.local".into(), address: None, upstream: Vec::new() }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            folder: "/etc/cni/net.d".into(),
            plugins: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            timeout_seconds: 60,
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("line {line}: {reason}")]
    Syntax { line: usize, reason: String },
    #[error("{key}: {found:?} {wanted}")]
    Value { key: &'static str, found: String, wanted: &'static str },
}

impl Config {
    /// Reads the text of a `wharfd.toml`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
            ConfigError::Syntax { line, reason: error.message().replace('\n', " ") }
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let absolute = |key, path: &Path| match path.is_absolute() {
            true => Ok(()),
            false => {
                Err(ConfigError::Value { key, found: path.display().to_string(), wanted: "is not an absolute path" })
            }
        };
        absolute("root", &self.root)?;
        absolute("state", &self.state)?;
        absolute("manifests", &self.manifests)?;
        if let Some(shim) = &self.shim {
            absolute("shim", shim)?;
        }
        if self.max_pods == 0 {
            return Err(ConfigError::Value { key: "max_pods", found: "0".into(), wanted: "is not 1 or more" });
        }
        for file in &self.auth_files {
            absolute("auth_files", file)?;
        }
        if let Some(file) = &self.registries {
            absolute("registries", file)?;
        }
        for folder in &self.cdi_folders {
            absolute("cdi_folders", folder)?;
        }
        for runtime in self.runtimes.values() {
            absolute("runtimes.path", &runtime.path)?;
        }
        self.eviction.check()?;
        self.network.cni.check(absolute)?;
        self.dns.check()?;
        self.api.check()?;
        if self.checkpoint.images && !self.checkpoint.enabled {
            let wanted = "needs checkpoint.enabled";
            return Err(ConfigError::Value { key: "checkpoint.images", found: "true".into(), wanted });
        }
        if self.cgroup_driver == CgroupDriver::Systemd {
            let name = self.cgroup_parent.strip_suffix(".slice").unwrap_or(&self.cgroup_parent);
            let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            return match name.split('-').all(plain) {
                true => Ok(()),
                false => Err(ConfigError::Value {
                    key: "cgroup_parent",
                    found: self.cgroup_parent.clone(),
                    wanted: "is not the name of a slice of letters, digits, _ and single dashes",
                }),
            };
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let parts = self.cgroup_parent.split('/');
        if parts.into_iter().any(|part| part.is_empty() || part.starts_with('.') || !part.chars().all(plain)) {
            return Err(ConfigError::Value {
                key: "cgroup_parent",
                found: self.cgroup_parent.clone(),
                wanted: "is not a relative path of letters, digits, _ - .",
            });
        }
        Ok(())
    }
}

impl Api {
    fn check(&self) -> Result<(), ConfigError> {
        let is_name =
            |name: &str| name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label));
        match self.names.iter().find(|name| !is_name(name)) {
            None => Ok(()),
            Some(name) => {
                let wanted = "is no address and no name of lowercase letters, digits, - and .";
                Err(ConfigError::Value { key: "api.names", found: name.clone(), wanted })
            }
        }
    }
}

/// A part of a name in the DNS.
fn is_label(label: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&label.len()) && label.chars().all(plain)
}

impl Dns {
    fn check(&self) -> Result<(), ConfigError> {
        // The longest name of a service, before it, still makes a name of at most 253 bytes.
        match self.domain.len() <= 100 && self.domain.split('.').all(is_label) {
            true => Ok(()),
            false => Err(ConfigError::Value {
                key: "dns.domain",
                found: self.domain.clone(),
                wanted: "is no domain of at most 100 lowercase letters, digits, - and .",
            }),
        }
    }
}

impl Cni {
    fn check(&self, absolute: impl Fn(&'static str, &Path) -> Result<(), ConfigError>) -> Result<(), ConfigError> {
        absolute("network.cni.folder", &self.folder)?;
        for folder in &self.plugins {
            absolute("network.cni.plugins", folder)?;
            // They are told to plugins as one text with colons between them.
            if folder.as_os_str().as_encoded_bytes().contains(&b':') {
                let found = folder.display().to_string();
                return Err(ConfigError::Value { key: "network.cni.plugins", found, wanted: "has a : in it" });
            }
        }
        if self.plugins.is_empty() {
            let wanted = "has to name a folder";
            return Err(ConfigError::Value { key: "network.cni.plugins", found: "[]".into(), wanted });
        }
        if !(1..=MAX_CNI_TIMEOUT_SECONDS).contains(&self.timeout_seconds) {
            let found = self.timeout_seconds.to_string();
            let wanted = "is not between 1 and 3600";
            return Err(ConfigError::Value { key: "network.cni.timeout_seconds", found, wanted });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_optional() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn keys_overrule_the_defaults_one_by_one() {
        let config = Config::parse("[network]\nbridge = \"w1\"\n[runtimes.runc]\npath = \"/usr/sbin/runc\"\n").unwrap();
        assert_eq!(config.network, Network { bridge: "w1".into(), ..Network::default() });
        assert_eq!(config.runtimes["runc"].path, Path::new("/usr/sbin/runc"));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            ("root = \"/a\"\nrot = \"/b\"\n", "line 2: unknown field `rot`"),
            ("\n\nroot = 7\n", "line 3: invalid type"),
            ("[network\n", "line 1: "),
            ("log_level = \"loud\"", "line 1: unknown variant `loud`"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(line), "{error}");
        }
    }

    #[test]
    fn cni_s_folders_and_time_are_bounded() {
        let config = Config::parse("[network]\nmode = \"cni\"\n[network.cni]\nfolder = \"/net.d\"\n").unwrap();
        assert_eq!((config.network.mode, config.network.cni.folder), (NetworkMode::Cni, "/net.d".into()));
        for (key, expected) in [
            ("mode = \"cny\"", "line 2: unknown variant `cny`"),
            ("cni.folder = \"net.d\"", "network.cni.folder: \"net.d\" is not an absolute path"),
            ("cni.plugins = []", "network.cni.plugins: \"[]\" has to name a folder"),
            ("cni.plugins = [\"bin\"]", "network.cni.plugins: \"bin\" is not an absolute path"),
            ("cni.plugins = [\"/a:/b\"]", "network.cni.plugins: \"/a:/b\" has a : in it"),
            ("cni.timeout_seconds = 0", "network.cni.timeout_seconds: \"0\" is not between 1 and 3600"),
            ("cni.timeout_seconds = 3601", "network.cni.timeout_seconds: \"3601\" is not between 1 and 3600"),
            ("cni.timeout_seconds = -1", "line 2: invalid value"),
            ("cni.path = \"/x\"", "line 2: unknown field `path`"),
        ] {
            let error = Config::parse(&format!("[network]\n{key}\n")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{key}: {error}");
        }
    }

    #[test]
    fn names_for_pods_have_a_domain_and_servers() {
        let config = Config::parse("[dns]\naddress = \"10.1.0.1\"\nupstream = [\"127.0.0.1:5300\"]\n").unwrap();
        assert_eq!((config.dns.domain.as_str(), config.dns.upstream.len()), ("cluster.local", 1));
        for (key, expected) in [
            ("domain = \"Cluster.local\"", "dns.domain: \"Cluster.local\" is no domain"),
            ("domain = \"a..b\"", "dns.domain: \"a..b\" is no domain"),
            ("address = \"gateway\"", "line 2: invalid"),
            ("upstream = [\"9.9.9.9\"]", "line 2: invalid socket address"),
        ] {
            let error = Config::parse(&format!("[dns]\n{key}\n")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{key}: {error}");
        }
    }

    #[test]
    fn the_api_listens_where_it_is_told_and_nowhere_by_default() {
        assert_eq!(Config::parse("").unwrap().api.listen, None);
        let config =
            Config::parse("[api]\nlisten = \"[::]:6443\"\nnames = [\"node.example\", \"192.0.2.7\"]\n").unwrap();
        assert_eq!(config.api.listen.map(|address| address.port()), Some(6443));
        for (key, expected) in [
            ("listen = \"6443\"", "line 2: invalid socket address"),
            ("listen = \"localhost:6443\"", "line 2: invalid socket address"),
            ("names = [\"node example\"]", "api.names: \"node example\" is no address"),
            ("names = [\"\"]", "api.names: \"\" is no address"),
            ("token = \"x\"", "line 2: unknown field `token`"),
        ] {
            let error = Config::parse(&format!("[api]\n{key}\n")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{key}: {error}");
        }
    }

    #[test]
    fn relative_paths_and_odd_cgroups_are_refused() {
        for text in [
            "root = \"a\"",
            "shim = \"x\"",
            "cgroup_parent = \"/w\"",
            "cgroup_parent = \"../w\"",
            "auth_files = [\"a\"]",
            "cdi_folders = [\"a\"]",
            "max_pods = 0",
            "eviction.disk_percent = 100",
            "eviction.pids_percent = 100",
        ] {
            assert!(matches!(Config::parse(text), Err(ConfigError::Value { .. })), "{text}");
        }
    }

    #[test]
    fn with_systemd_the_parent_is_a_slice() {
        let parse = |parent: &str| Config::parse(&format!("cgroup_driver = \"systemd\"\ncgroup_parent = \"{parent}\""));
        for parent in ["wharf", "wharf.slice", "machines-wharf.slice"] {
            assert_eq!(parse(parent).unwrap().cgroup_driver, CgroupDriver::Systemd, "{parent}");
        }
        for parent in ["a/b", "a--b", "-a", "a.b", ".slice"] {
            assert!(matches!(parse(parent), Err(ConfigError::Value { key: "cgroup_parent", .. })), "{parent}");
        }
    }
}
