//! What the fuzz targets call, with their seeds and with mutations of them by a generator of fixed seed: the same
//! cases in every run. A panic fails the test.

mod fixture;

use std::path::Path;

use fixture::{is_root, noise};
use wharf_images::untrusted;

/// Mutations of each seed of a text; of a layer, which is unpacked, there are fewer.
const CASES: u64 = 300;
const LAYER_CASES: u64 = 40;

/// Each seed of a target, and damaged copies: bytes flipped, cut out, doubled and cut off.
fn inputs(target: &str, cases: u64) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (name, seed) = (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap());
        inputs.push((name.clone(), seed.clone()));
        for case in 0..cases {
            let dice = noise(case + 1, 32);
            let mut bytes = seed.clone();
            for four in dice.chunks(4).take(1 + usize::from(dice[31] % 8)) {
                let at = (usize::from(four[0]) << 8 | usize::from(four[1])) % bytes.len().max(1);
                match four[2] % 4 {
                    _ if bytes.is_empty() => {}
                    0 => bytes[at] = four[3],
                    1 => drop(bytes.drain(at..bytes.len().min(at + usize::from(four[3])))),
                    2 => bytes.extend_from_within(at..),
                    _ => bytes[at] ^= 1 << (four[3] % 8),
                }
                bytes.truncate(64 << 10);
            }
            inputs.push((format!("{name}, {case}"), bytes));
        }
    }
    inputs
}

/// How many of the seeds, and of all inputs, were taken.
fn taken(target: &str, cases: u64, take: impl Fn(&[u8]) -> bool) -> (usize, usize) {
    let mut taken = (0, 0);
    for (name, bytes) in inputs(target, cases) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(&bytes)));
        let outcome = outcome.unwrap_or_else(|_| panic!("{target}: {name}"));
        taken.0 += usize::from(outcome && !name.contains(", "));
        taken.1 += usize::from(outcome);
    }
    taken
}

#[test]
fn references_and_documents_never_panic() {
    let (seeds, all) = taken("reference", CASES, untrusted::reference);
    assert!(seeds == 5 && all > 100, "{seeds} {all}");
    let (seeds, all) = taken("document", CASES, untrusted::document);
    assert!(seeds == 3 && all > 20, "{seeds} {all}");
}

#[test]
fn files_of_archives_never_panic() {
    let (seeds, all) = taken("files", CASES, untrusted::files);
    assert!(seeds == 2 && all > 20, "{seeds} {all}");
}

#[test]
fn layers_never_panic_and_never_reach_out_of_their_root() {
    if !is_root("layers_never_panic_and_never_reach_out_of_their_root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (seeds, all) = taken("layer", LAYER_CASES, |bytes| untrusted::layer(bytes, directory.path()).unwrap());
    assert!(seeds >= 7 && all > 30, "{seeds} {all}");
}
