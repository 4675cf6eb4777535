//! Virtio-serial ports, found by the name that the host gave them: there is no udev to make links.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Ports are announced one by one after the driver is loaded.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

pub fn open(name: &str) -> Result<File> {
    let limit = Instant::now() + LIMIT;
    while Instant::now() < limit {
        if let Some(path) = find(name) {
            return File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()));
        }
        sleep(POLL);
    }
    bail!("the host gave no port {name}")
}

fn find(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let port = ports
        .into_iter()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim_end() == name))?;
    Some(Path::new("/dev").join(port.file_name()))
}
