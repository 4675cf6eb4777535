//! Pulling and unpacking, from a registry on this machine to a fresh file system.

mod archive;
mod content;
mod contestants;
mod registry;

use std::time::Instant;

use anyhow::Context as _;
use wharf_images::Store;

use crate::Context;
use crate::bound::{Bound, Limit};
use crate::comparison::{Comparison, Contestant, Metric, Sample};
use crate::filesystem::FileSystem;
use archive::BenchImage;
use contestants::{containerd, curl_and_tar, skopeo_and_umoci, wharf};
use registry::Registry;

const OURS: &str = "wharf";
const CONTAINERD: &str = "containerd";
const PIPE: &str = "curl+zcat+tar";
const MEMORY_MAX_BYTES: f64 = (64 << 20) as f64;
const PRESENT_MAX_SECONDS: f64 = 0.020;
const SNAPSHOT_MAX_SECONDS: f64 = 0.002;

/// Twelve layers of Debian's files.
pub(crate) fn debian(context: &Context) -> anyhow::Result<Comparison> {
    pulls(context, &content::debian(context)?)
}

/// One layer of many small files.
pub(crate) fn files(context: &Context) -> anyhow::Result<Comparison> {
    pulls(context, &content::files(context)?)
}

fn pulls(context: &Context, image: &BenchImage) -> anyhow::Result<Comparison> {
    let registry = Registry::serve(context, image)?;
    let bound = |metric, at_most| Bound { ours: OURS, metric, at_most };
    Ok(Comparison {
        what: format!(
            "Pull and unpack {}, from a registry on loopback to a fresh ext4 in memory, and sync.",
            image.describe()
        ),
        contestants: vec![
            wharf::pull(context, &registry),
            containerd::pull(&registry),
            skopeo_and_umoci::pull(&registry),
            curl_and_tar::pull(&registry, image),
        ],
        bounds: vec![
            bound(Metric::Time, Limit::Times(1.0 / 1.8, &[CONTAINERD])),
            bound(Metric::Time, Limit::Times(1.0, &[PIPE])),
            bound(Metric::PeakMemory, Limit::Absolute(MEMORY_MAX_BYTES)),
        ],
        rounds: 5,
        warm_up: 1,
    })
}

/// A pull of what is there already.
pub(crate) fn present(context: &Context) -> anyhow::Result<Comparison> {
    let image = content::debian(context)?;
    let registry = Registry::serve(context, &image)?;
    Ok(Comparison {
        what: format!("Pull {} once more.", image.describe()),
        contestants: vec![wharf::pull_again(context, &registry)?, containerd::pull_again(&registry)],
        bounds: vec![Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Absolute(PRESENT_MAX_SECONDS) }],
        rounds: 50,
        warm_up: 5,
    })
}

/// A container's root file system from unpacked layers, as `wharfd` makes it.
pub(crate) fn snapshot(context: &Context) -> anyhow::Result<Comparison> {
    let image = content::debian(context)?;
    let registry = Registry::serve(context, &image)?;
    let disk = FileSystem::fresh()?;
    wharf::pull_into(context, &registry, &disk)?;
    let store = Store::open(&disk.path().join(wharf::ROOT))?;
    let here = store.resolve(registry.reference())?.context("the image is not in the store")?;
    let run = move || {
        // Kept until the store on it is done with.
        let _disk = &disk;
        let begin = Instant::now();
        store.prepare("bench", &here)?;
        let time = begin.elapsed();
        store.remove_snapshot("bench")?;
        Ok(Sample::from([(Metric::Time, time.as_secs_f64())]))
    };
    Ok(Comparison {
        what: format!("Make a container's snapshot of {}.", image.describe()),
        contestants: vec![Contestant {
            name: OURS,
            version: wharf::version(context),
            command: "wharf_images::Store::prepare".into(),
            run: Ok(Box::new(run)),
        }],
        bounds: vec![Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Absolute(SNAPSHOT_MAX_SECONDS) }],
        rounds: 200,
        warm_up: 20,
    })
}
