//! `update`.

use crate::Fault;
use crate::cli::UpdateOptions;
use crate::store::Store;
use std::path::Path;
use wharf_runtime::bundle::{load_resources, read_resources};
use wharf_runtime::state::Status;
use wharf_specs::oci::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

pub(crate) fn run(options: &UpdateOptions, store: &Store) -> Result<u8, Fault> {
    let container = store.load(&options.id)?;
    if container.status() == Status::Stopped {
        return Err(Fault::new("cannot update a container that is stopped"));
    }
    let resources = match &options.resources {
        Some(path) => from_file(path)?,
        None => from_flags(options)?,
    };
    container.update_rdt(options.l3_cache_schema.as_deref(), options.mem_bw_schema.as_deref())?;
    container.cgroup().update(&resources)?;
    Ok(0)
}

fn from_file(path: &Path) -> Result<LinuxResources, Fault> {
    let parsed = if path == Path::new("-") { read_resources(std::io::stdin())? } else { load_resources(path)? };
    Ok(parsed.value)
}

fn from_flags(options: &UpdateOptions) -> Result<LinuxResources, Fault> {
    let mut cpu = LinuxCpu::default();
    cpu.set_period(options.cpu_period)
        .set_quota(options.cpu_quota)
        .set_burst(options.cpu_burst)
        .set_shares(options.cpu_share)
        .set_idle(options.cpu_idle)
        .set_realtime_period(options.cpu_rt_period)
        .set_realtime_runtime(options.cpu_rt_runtime)
        .set_cpus(options.cpuset_cpus.clone())
        .set_mems(options.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(size(options.memory.as_deref(), "--memory")?)
        .set_reservation(size(options.memory_reservation.as_deref(), "--memory-reservation")?)
        .set_swap(size(options.memory_swap.as_deref(), "--memory-swap")?);
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory));
    if let Some(limit) = options.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if options.blkio_weight.is_some() {
        let mut io = LinuxBlockIo::default();
        io.set_weight(options.blkio_weight);
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}

/// Bytes, with the suffixes k, m, g, t of 1024.
fn size(text: Option<&str>, flag: &str) -> Result<Option<i64>, Fault> {
    let Some(text) = text else { return Ok(None) };
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, shift) = match trimmed.chars().last() {
        Some('k') => (&trimmed[..trimmed.len() - 1], 10),
        Some('m') => (&trimmed[..trimmed.len() - 1], 20),
        Some('g') => (&trimmed[..trimmed.len() - 1], 30),
        Some('t') => (&trimmed[..trimmed.len() - 1], 40),
        _ => (trimmed, 0),
    };
    let bytes = digits.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << shift));
    let bytes = bytes.filter(|bytes| *bytes >= -1);
    bytes.map(Some).ok_or_else(|| {
        Fault::new(format!("{flag}: {text:?} is not a size; allowed: -1, bytes, or a number with k, m, g"))
    })
}
