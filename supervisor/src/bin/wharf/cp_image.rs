//! `wharf cp-image`.

use std::process::ExitCode;

use anyhow::bail;
use wharf_images::{CopyOptions, Place};

use crate::pull::{RegistryArguments, credentials, uninterrupted};
use crate::{NodeArguments, image_store, progress};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// docker://REFERENCE, store:NAME, oci:DIRECTORY[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]
    source: String,
    /// Where to, written likewise
    destination: String,
    /// Only the image for this platform of a multi-platform one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// Login at the source; --creds is for the destination, or for the source where that is the only registry
    #[arg(long, value_name = "USER:PASSWORD", env = "WHARF_SRC_CREDS", hide_env_values = true)]
    src_creds: Option<String>,
    #[command(flatten)]
    registry: RegistryArguments,
}

pub(crate) async fn run(node: &NodeArguments, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (from, to): (&Place, &Place) = (&arguments.source.parse()?, &arguments.destination.parse()?);
    let push = arguments.registry.push_options()?;
    let mut options = CopyOptions {
        platform: arguments.platform.as_deref().map(str::parse).transpose()?,
        source_credentials: arguments.src_creds.as_deref().map(|text| credentials("--src-creds", text)).transpose()?,
        plain_http: push.plain_http,
        progress: progress::shown(arguments.quiet),
        ..CopyOptions::default()
    };
    match to {
        Place::Registry(_) => options.credentials = push.credentials,
        _ => options.source_credentials = options.source_credentials.or(push.credentials),
    }
    let store = image_store::open_with(node, arguments.registry.store_options()?)?;
    let Some(copied) = uninterrupted(store.copy(from, to, &options)).await? else {
        store.idle().await;
        bail!("copy {from} to {to}: interrupted");
    };
    let copied = copied?;
    if copied.is_part && options.platform.is_none() {
        eprintln!("wharf: {from}: the image for one platform was copied, without its index");
    }
    println!("{}", copied.digest);
    Ok(ExitCode::SUCCESS)
}
