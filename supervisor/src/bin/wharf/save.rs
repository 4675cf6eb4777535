//! `wharf save`.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use wharf_images::ArchiveForm;

use crate::{NodeArguments, image_store};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Names or ids of images here
    #[arg(required = true)]
    images: Vec<String>,
    /// Archive to make; standard output without it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As `docker save` makes it
    DockerArchive,
    /// An OCI image layout in a tar
    OciArchive,
}

pub(crate) async fn run(node: &NodeArguments, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let form = match arguments.format {
        Format::DockerArchive => ArchiveForm::Docker,
        Format::OciArchive => ArchiveForm::Oci,
    };
    let store = image_store::open(node)?;
    let Some(path) = arguments.output else {
        if io::stdout().is_terminal() {
            bail!("name an archive with --output, or send standard output somewhere");
        }
        store.save(arguments.images, form, io::stdout()).await?;
        return Ok(ExitCode::SUCCESS);
    };
    // Nobody shall take half an archive for a whole one, nor lose an older one to it.
    let mut name = path.file_name().with_context(|| format!("{}: is no name of a file", path.display()))?.to_owned();
    name.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(name);
    let file = File::create_new(&part).with_context(|| format!("create {}", part.display()))?;
    let saved = store.save(arguments.images, form, file).await.map_err(anyhow::Error::from);
    let placed =
        saved.and_then(|()| std::fs::rename(&part, &path).with_context(|| format!("write {}", path.display())));
    if placed.is_err() {
        // The error that is returned says more.
        let _ = std::fs::remove_file(&part);
    }
    placed.map(|()| ExitCode::SUCCESS)
}
