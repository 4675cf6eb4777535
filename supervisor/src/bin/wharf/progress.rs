//! How far a pull, push or load is: a bar for each layer on a terminal, a line for each that is done elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use wharf_images::{Digest, LayerProgress, LayerState, ProgressFn};

use crate::units::size_text;

/// Digits of a digest that tell layers apart for a person.
const SHORT_DIGITS: usize = 12;
const BAR: &str = "{prefix}: {msg:<12} [{bar:30}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";

/// Who shows progress on standard error; nobody where `quiet`.
pub(crate) fn shown(quiet: bool) -> Option<ProgressFn> {
    if quiet {
        return None;
    }
    Some(if std::io::stderr().is_terminal() { bars() } else { lines() })
}

fn lines() -> ProgressFn {
    Arc::new(|layer: LayerProgress| {
        let outcome = match layer.state {
            LayerState::Waiting | LayerState::Transferring => return,
            LayerState::Present => "already present".into(),
            LayerState::Mounted => "mounted from another repository".into(),
            LayerState::Complete => format!("complete, {}", size_text(layer.total)),
        };
        eprintln!("{}: {outcome}", short(&layer.layer));
    })
}

fn bars() -> ProgressFn {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    let layers: Mutex<HashMap<Digest, ProgressBar>> = Mutex::default();
    Arc::new(move |layer: LayerProgress| {
        let mut layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = layers.entry(layer.layer).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(layer.total).with_style(style.clone()).with_prefix(short(&layer.layer)));
            bar.set_message("waiting");
            bar
        });
        match layer.state {
            LayerState::Waiting => {}
            LayerState::Transferring => {
                bar.set_message("transferring");
                bar.set_position(layer.done);
            }
            LayerState::Present | LayerState::Mounted | LayerState::Complete => {
                bar.set_position(layer.total);
                bar.finish_with_message(match layer.state {
                    LayerState::Present => "present",
                    LayerState::Mounted => "mounted",
                    _ => "complete",
                });
            }
        }
    })
}

/// The digits of a digest that are shown.
pub(crate) fn short(digest: &Digest) -> String {
    let mut hex = digest.hex();
    hex.truncate(SHORT_DIGITS);
    hex
}
