//! `wharf push`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use wharf_images::{Image, Platforms, PushOptions, Reference};

use crate::pull::{RegistryArguments, uninterrupted};
use crate::{NodeArguments, image_store, progress};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or id of an image here
    image: String,
    /// Where to, if not as the image is named: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    destination: Option<String>,
    /// Only the image for this platform of a multi-platform one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all_platforms")]
    platform: Option<String>,
    /// The whole index of a multi-platform image, or nothing; without it, as much as is here
    #[arg(long)]
    all_platforms: bool,
    /// Print nothing but the name that was pushed to
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArguments,
}

pub(crate) async fn run(node: &NodeArguments, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut options: PushOptions = arguments.registry.push_options()?;
    options.platforms = match (arguments.platform, arguments.all_platforms) {
        (Some(platform), _) => Platforms::One(platform.parse()?),
        (None, true) => Platforms::All,
        (None, false) => Platforms::Present,
    };
    let given = arguments.destination.as_deref().unwrap_or(&arguments.image);
    let destination: Reference = given.parse().with_context(|| format!("push {}", arguments.image))?;
    let store = image_store::open_with(node, arguments.registry.store_options()?)?;
    let by_id =
        |image: &Image| !image.repo_tags.iter().chain(&image.repo_digests).any(|name| *name == destination.to_string());
    if arguments.destination.is_none() && store.resolve(&arguments.image)?.as_ref().is_some_and(by_id) {
        bail!("push {}: is an id, name a destination behind it", arguments.image);
    }
    options.progress = progress::shown(arguments.quiet);
    let Some(pushed) = uninterrupted(store.push(&arguments.image, &destination, options)).await? else {
        store.idle().await;
        bail!("push {destination}: interrupted; blobs that were complete stay at the registry");
    };
    let pushed = pushed?;
    if pushed.is_part {
        eprintln!(
            "wharf: {}: only the image for one platform is here, so it was pushed without its index",
            arguments.image
        );
    }
    println!("{destination}");
    if !arguments.quiet {
        println!("{}", pushed.digest);
    }
    Ok(ExitCode::SUCCESS)
}
