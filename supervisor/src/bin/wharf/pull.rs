//! `wharf pull`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};
use wharf_images::{
    Credentials, Image, Keychain, Platform, PullOptions, PushOptions, Reference, Registries, Store, StoreOptions,
};

use crate::{NodeArguments, image_store, progress};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    reference: String,
    /// Which image of a multi-platform one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Bring the images of all platforms, so that the whole can be pushed and saved
    #[arg(long)]
    all_platforms: bool,
    /// Print nothing but the image's name
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArguments,
}

/// How the registry is talked to.
#[derive(clap::Args)]
pub(crate) struct RegistryArguments {
    /// Login at the registry
    #[arg(long, value_name = "USER:PASSWORD", env = "WHARF_CREDS", hide_env_values = true)]
    creds: Option<String>,
    /// File with logins, instead of podman's, docker's and the node's
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Mirrors and TLS by registry, instead of /etc/wharf/registries.toml
    #[arg(long, value_name = "FILE", env = "WHARF_REGISTRIES")]
    registries: Option<PathBuf>,
    /// Speak HTTP without TLS to the registry
    #[arg(long)]
    plain_http: bool,
}

impl RegistryArguments {
    pub(crate) fn options(&self) -> anyhow::Result<PullOptions> {
        Ok(PullOptions { credentials: self.credentials()?, plain_http: self.plain_http, ..PullOptions::default() })
    }

    pub(crate) fn push_options(&self) -> anyhow::Result<PushOptions> {
        Ok(PushOptions { credentials: self.credentials()?, plain_http: self.plain_http, ..PushOptions::default() })
    }

    fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        self.creds.as_deref().map(|text| credentials("--creds", text)).transpose()
    }

    /// What the store is opened with: the logins of whoever runs this, the registries of the node. Broken files are
    /// refused here, before there is a store.
    pub(crate) fn store_options(&self) -> anyhow::Result<StoreOptions> {
        let keychain = match &self.authfile {
            Some(file) => Keychain::default().and_required_file(file),
            None => Keychain::of_user(|name| std::env::var_os(name)),
        };
        let node = Registries::of_node(|name| std::env::var(name).ok());
        let registries = match &self.registries {
            Some(file) => node.with_file(file),
            None => node,
        };
        keychain.check()?;
        registries.check()?;
        Ok(StoreOptions { keychain, registries, ..StoreOptions::default() })
    }
}

pub(crate) async fn run(node: &NodeArguments, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let reference: Reference = arguments.reference.parse()?;
    let mut options = arguments.registry.options()?;
    let platform = arguments.platform.as_deref().map(str::parse::<Platform>).transpose()?;
    options.platform = platform.clone();
    options.all_platforms = arguments.all_platforms;
    let store = image_store::open_with(node, arguments.registry.store_options()?)?;
    let image = pull(&store, &reference, options, arguments.quiet).await?;
    // A reference without an index has nothing to choose from.
    let same = |wanted: &Platform| wanted.os == image.platform.os && wanted.architecture == image.platform.architecture;
    if let Some(wanted) = platform.filter(|wanted| !same(wanted)) {
        eprintln!("wharf: {reference}: has no image for {wanted}, only this one for {}", image.platform);
    }
    println!("{reference}");
    if !arguments.quiet {
        println!("{}", pulled_digest(&image, &reference));
    }
    Ok(ExitCode::SUCCESS)
}

/// Pulls with progress on standard error.
pub(crate) async fn pull(
    store: &Store,
    reference: &Reference,
    mut options: PullOptions,
    quiet: bool,
) -> anyhow::Result<Image> {
    options.progress = progress::shown(quiet);
    match uninterrupted(store.pull(reference, options)).await? {
        Some(pulled) => pulled.map_err(|error| anyhow!(error)),
        None => {
            store.idle().await;
            bail!("pull {reference}: interrupted; layers that were complete are kept for the next time")
        }
    }
}

/// What `transfer` comes to; `None` if a person or the system wants it to end before.
pub(crate) async fn uninterrupted<T>(transfer: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    tokio::select! {
        outcome = transfer => Ok(Some(outcome)),
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None).context("handle SIGINT"),
        _ = terminate.recv() => Ok(None),
    }
}

/// The digest that the reference led to, the index's where there is one.
fn pulled_digest(image: &Image, reference: &Reference) -> String {
    let repository = reference.name() + "@";
    let digests: Vec<&str> = image.repo_digests.iter().filter_map(|name| name.strip_prefix(&repository)).collect();
    match (reference.digest(), digests.as_slice()) {
        (Some(digest), _) => digest.to_string(),
        (None, [one]) => (*one).to_owned(),
        _ => image.manifest_digest.to_string(),
    }
}

/// The value of a login option.
pub(crate) fn credentials(option: &str, text: &str) -> anyhow::Result<Credentials> {
    match text.split_once(':') {
        Some((username, password)) if !username.is_empty() => {
            Ok(Credentials::Basic { username: username.into(), password: password.into() })
        }
        // The text itself is a secret: it is not shown.
        _ => bail!("{option}: expected USER:PASSWORD"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_contain_colons_and_is_never_shown() {
        let expected = Credentials::Basic { username: "me".into(), password: "a:b".into() };
        assert!(credentials("--creds", "me:a:b").unwrap() == expected);
        for wrong in ["secret", ":secret"] {
            assert!(!credentials("--creds", wrong).unwrap_err().to_string().contains("secret"));
        }
    }
}
