//! Pulls one image into a store and says what it cost: `pull STORE REFERENCE`. For benchmarks and for trying out a
//! registry by hand.

use std::path::Path;
use std::time::Instant;

use wharf_images::{PullOptions, Reference, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, reference] = arguments.as_slice() else {
        return Err("usage: pull STORE REFERENCE".into());
    };
    let reference: Reference = reference.parse()?;
    let store = Store::open(Path::new(root))?;
    for what in ["pull", "again"] {
        let started = Instant::now();
        let image = store.pull(&reference, PullOptions::default()).await?;
        println!("{what}: {} in {:.1} ms", image.id, started.elapsed().as_secs_f64() * 1e3);
    }
    let image = store.resolve(&reference.to_string())?.ok_or("the image is gone")?;
    let started = Instant::now();
    store.prepare("pull-example", &image)?;
    println!("prepare: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    store.remove_snapshot("pull-example")?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    Ok(())
}
