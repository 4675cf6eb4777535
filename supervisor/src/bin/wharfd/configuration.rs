//! The command line and the configuration, as one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use wharf_specs::config::Config;

/// The Wharf node supervisor.
#[derive(Parser)]
#[command(name = "wharfd", version)]
pub(crate) struct Arguments {
    /// Images and objects: what survives a reboot [default: /var/lib/wharf].
    #[arg(long, value_name = "DATA")]
    pub(crate) root: Option<PathBuf>,
    /// Sockets and running pods: what does not [default: /run/wharf].
    #[arg(long, value_name = "RUN")]
    pub(crate) state: Option<PathBuf>,
    /// Configuration; every key is optional, and so is the file at its default place.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
    /// Folder of objects to apply at start and when they change [default: /etc/wharf/manifests].
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<tracing::Level>,
    /// End the pods of a node whose daemon does not run any more, and exit: for when the machine goes down.
    #[arg(long)]
    pub(crate) end_pods: bool,
}

const DEFAULT_CONFIG: &str = "/etc/wharf/wharfd.toml";

pub(crate) fn read_config(arguments: &Arguments) -> anyhow::Result<Config> {
    let path = &arguments.config;
    let mut config = match fs::read_to_string(path) {
        Ok(text) => Config::parse(&text).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_CONFIG) => {
            Config::default()
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let overrules = [
        (&arguments.root, &mut config.root),
        (&arguments.state, &mut config.state),
        (&arguments.manifests, &mut config.manifests),
    ];
    for (given, key) in overrules {
        if let Some(path) = given {
            *key = std::path::absolute(path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(config)
}
