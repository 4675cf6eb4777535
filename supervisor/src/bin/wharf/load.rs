//! `wharf load`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::{NodeArguments, image_store, progress};

/// The store reads an archive once, front to back: a pipe will do.
const STDIN: &str = "/dev/stdin";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Archive of images (`docker save`, OCI layout in a tar); standard input without it
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing but the names
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(node: &NodeArguments, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.input.is_none() && io::stdin().is_terminal() {
        bail!("name an archive with --input, or give one on standard input");
    }
    let path = arguments.input.unwrap_or_else(|| STDIN.into());
    let store = image_store::open(node)?;
    let images = store.load(&path, progress::shown(arguments.quiet)).await?;
    for image in &images {
        let names: Vec<String> = match image.repo_tags.as_slice() {
            [] => vec![image.id.to_string()],
            names => names.to_vec(),
        };
        for name in names {
            println!("{}{name}", if arguments.quiet { "" } else { "Loaded image: " });
        }
    }
    Ok(ExitCode::SUCCESS)
}
