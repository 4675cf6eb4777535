//! `wharf history`: the steps an image was made by, the last first.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_images::details::Layer;
use wharf_images::{Image, Platform};

use crate::get::write_columns;
use crate::template::ListFormat;
use crate::units::{ago, size_text};
use crate::{NodeArguments, image_store, progress};

/// Characters of a step that are shown.
const SHORT_STEP: usize = 45;
/// What stands for a step that has no image of its own.
const MISSING: &str = "<missing>";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or id of an image here
    image: String,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and steps
    #[arg(long)]
    no_trunc: bool,
    /// `json` (one object a line), or a template: "{{.CreatedBy}}", "table {{.Size}}\\t{{.CreatedBy}}"
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Which image of a multi-platform one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

/// An entry of `history` (image-spec, "Properties").
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: bool,
}

/// A step with the bytes its layer takes on disk; of one that is not unpacked, those it takes on its way.
#[derive(Debug)]
struct Line {
    step: Step,
    size: u64,
}

pub(crate) fn run(node: &NodeArguments, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let format = arguments.format.as_deref().filter(|format| *format != "json").map(ListFormat::parse).transpose()?;
    let platform: Option<Platform> = arguments.platform.as_deref().map(str::parse).transpose()?;
    let store = image_store::open(node)?;
    let image = store.image_for(&arguments.image, platform.as_ref())?;
    let lines = lines(&store.config_document(&image)?, &store.layers_of(&image)?)
        .with_context(|| format!("history of {}", arguments.image))?;
    let mut output = io::stdout().lock();
    let id = |number: usize| match number {
        0 => own_id(&image, arguments.no_trunc),
        _ => MISSING.to_owned(),
    };
    if arguments.quiet {
        for number in 0..lines.len() {
            writeln!(output, "{}", id(number))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let step = |line: &Line| match arguments.no_trunc {
        true => line.step.created_by.clone().unwrap_or_default(),
        false => shortened(line.step.created_by.as_deref().unwrap_or_default()),
    };
    let since = |line: &Line| line.step.created.as_deref().map(ago).unwrap_or_default();
    let fields = |(number, line): (usize, &Line), size: Value| {
        json!({
            "ID": id(number), "CreatedAt": line.step.created, "CreatedSince": since(line), "CreatedBy": step(line),
            "Size": size, "Comment": line.step.comment.clone().unwrap_or_default(),
        })
    };
    if arguments.format.as_deref() == Some("json") {
        for (number, line) in lines.iter().enumerate() {
            writeln!(output, "{}", fields((number, line), line.size.into()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(format) = format {
        let header = json!({
            "ID": "IMAGE", "CreatedAt": "CREATED AT", "CreatedSince": "CREATED", "CreatedBy": "CREATED BY",
            "Size": "SIZE", "Comment": "COMMENT",
        });
        let rows: Vec<Value> =
            lines.iter().enumerate().map(|line| fields(line, size_text(line.1.size).into())).collect();
        format.write(&mut output, &header, &rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = vec![["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    table.extend(lines.iter().enumerate().map(|(number, line)| {
        let comment = one_line(line.step.comment.as_deref().unwrap_or_default());
        vec![id(number), since(line), one_line(&step(line)), size_text(line.size), comment]
    }));
    write_columns(&mut output, &table)?;
    Ok(ExitCode::SUCCESS)
}

fn own_id(image: &Image, whole: bool) -> String {
    if whole { image.id.to_string() } else { progress::short(&image.id) }
}

/// The steps of a configuration document with their layers, the last first. Layers that no step tells of are steps
/// without words.
fn lines(config: &[u8], layers: &[Layer]) -> anyhow::Result<Vec<Line>> {
    #[derive(Deserialize)]
    struct Config {
        history: Option<Vec<Step>>,
    }
    let config: Config = serde_json::from_slice(config).context("read its configuration")?;
    let size = |layer: &Layer| layer.unpacked.map_or(layer.size, |usage| usage.bytes);
    let mut left = layers.iter();
    let mut lines = Vec::new();
    for step in config.history.unwrap_or_default() {
        let size = if step.empty_layer { None } else { left.next().map(size) };
        lines.push(Line { step, size: size.unwrap_or(0) });
    }
    lines.extend(left.map(|layer| Line { step: Step::default(), size: size(layer) }));
    lines.reverse();
    Ok(lines)
}

/// Somebody else's words on a person's terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHORT_STEP) {
        Some(_) => text.chars().take(SHORT_STEP - 1).chain(['…']).collect(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use wharf_images::{Digest, Usage};

    use super::*;

    #[test]
    fn steps_take_their_layers_in_order() {
        let layer = |size, unpacked: Option<u64>| Layer {
            diff_id: Digest::of(b"d"),
            blob: Digest::of(b"b"),
            size,
            unpacked: unpacked.map(|bytes| Usage { bytes, inodes: 1 }),
        };
        let config =
            br#"{"history":[{"created_by":"ADD base"},{"created_by":"CMD","empty_layer":true},{"created_by":"RUN"}]}"#;
        let shown = |layers: &[Layer]| -> Vec<(String, u64)> {
            let lines = lines(config, layers).unwrap().into_iter();
            lines.map(|line| (line.step.created_by.unwrap_or_default(), line.size)).collect()
        };
        let named = |text: &str, size| (text.to_owned(), size);
        assert_eq!(
            shown(&[layer(1, Some(10)), layer(2, None)]),
            [named("RUN", 2), named("CMD", 0), named("ADD base", 10)]
        );
        // More steps than layers, and more layers than steps.
        assert_eq!(shown(&[layer(1, None)])[0], named("RUN", 0));
        assert_eq!(shown(&[layer(1, None), layer(2, None), layer(3, None)])[0], named("", 3));
        assert!(lines(b"{}", &[]).unwrap().is_empty());
        assert!(lines(b"[", &[]).is_err());
    }
}
