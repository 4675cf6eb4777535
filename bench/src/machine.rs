//! Where and when figures were taken: without that they mean nothing.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// UTC, to the second.
    pub date: String,
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    pub memory_bytes: u64,
    /// Of the minute before: what else was running. Figures of a busy machine are those of who had more threads.
    pub load: f64,
    /// What `git describe` says of what was measured.
    pub revision: String,
}

impl Machine {
    pub fn here() -> Self {
        let field = |file: &str, key: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'))?;
            Some(value.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = field("/proc/meminfo", "MemTotal");
        let kib = memory.and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
        let load = std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse().ok());
        let git = std::process::Command::new("git").args(["describe", "--always", "--dirty", "--tags"]).output();
        let revision = git.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.unwrap_or(0) << 10,
            load: load.unwrap_or(0.0),
            revision: revision.filter(|text| !text.is_empty()).unwrap_or_else(unknown),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { date, kernel, processor, processors, memory_bytes, load, revision } = self;
        let gib = memory_bytes >> 30;
        write!(
            formatter,
            "{date}, Linux {kernel}, {processors} × {processor}, {gib} GiB, load {load}, wharf {revision}"
        )
    }
}
