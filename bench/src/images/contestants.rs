//! Who pulls, and how.

pub(super) mod containerd;
pub(super) mod curl_and_tar;
pub(super) mod skopeo_and_umoci;
pub(super) mod wharf;

use std::time::{Duration, Instant};

use crate::comparison::Sample;
use crate::filesystem::{FileSystem, sync};
use crate::measure::Taken;

/// Does `job`, then waits until all of it is on the disk. `job` gives the peak of its memory in bytes.
fn synced(disk: &FileSystem, job: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<Sample> {
    let begin = Instant::now();
    let peak_bytes = job()?;
    sync(&disk.path())?;
    let time: Duration = begin.elapsed();
    Ok(Taken { time, peak_bytes }.sample())
}
