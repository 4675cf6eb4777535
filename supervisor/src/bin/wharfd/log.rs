//! What is logged, and the level, which can change while the daemon runs.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use wharf_specs::config::Config;

use crate::configuration::Arguments;

pub(crate) fn log_filter(arguments: &Arguments, config: &Config) -> EnvFilter {
    EnvFilter::new(arguments.log_level.map_or_else(|| config.log_level.as_str().into(), |level| level.to_string()))
}

/// Changes what is logged.
pub(crate) type LogLevel = Box<dyn Fn(EnvFilter) -> anyhow::Result<()>>;

pub(crate) fn start_log(arguments: &Arguments, config: &Config) -> anyhow::Result<LogLevel> {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(log_filter(arguments, config))
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.init();
    Ok(Box::new(move |filter| handle.reload(filter).context("change the log level")))
}
