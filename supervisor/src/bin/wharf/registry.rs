//! `wharf registry`: how registries are reached.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context;
use wharf_images::Reference;
use wharf_images::registries::{Explained, Proxies, Role};

use crate::pull::RegistryArguments;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show where an image is looked for, and which file says so
    Explain(ExplainArguments),
}

#[derive(clap::Args)]
struct ExplainArguments {
    /// Image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    reference: String,
    #[command(flatten)]
    registry: RegistryArguments,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Command::Explain(arguments) = &arguments.command;
    let reference: Reference = arguments.reference.parse()?;
    let pull = arguments.registry.options()?;
    let store = arguments.registry.store_options()?;
    let endpoints = store
        .registries
        .explain(&reference, pull.plain_http, &store.keychain)
        .with_context(|| format!("explain {reference}"))?;
    let text = text(&reference, &endpoints, store.registries.proxies(), pull.credentials.is_some());
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// One paragraph for each endpoint, in the order in which they are asked.
fn text(reference: &Reference, endpoints: &[Explained], proxies: &Proxies, is_given: bool) -> String {
    let mut text = format!("{reference}\n");
    for (number, explained) in endpoints.iter().enumerate() {
        let endpoint = &explained.endpoint;
        let role = match endpoint.role {
            Role::Mirror => "mirror",
            Role::Registry => "registry",
        };
        let limits = match (endpoint.resolves, endpoint.pulls) {
            (true, true) => "",
            (true, false) => ", for tags only",
            (false, true) => ", for content by digest only",
            (false, false) => ", for neither tags nor content",
        };
        let tls = &endpoint.tls;
        let authorities: Vec<String> =
            tls.authorities.iter().map(|ca| format!("{} ({})", ca.value.display(), ca.origin)).collect();
        let verification = match (endpoint.is_plain(), tls.is_unverified, authorities.is_empty()) {
            (true, ..) => "no TLS".to_owned(),
            (false, true, _) => "not verified".to_owned(),
            (false, false, true) => "this machine's".to_owned(),
            (false, false, false) => format!("this machine's and {}", authorities.join(", ")),
        };
        let client = tls.client.as_ref().filter(|_| !endpoint.is_plain()).map_or_else(
            || "none".to_owned(),
            |client| {
                let (cert, key) = &client.value;
                format!("{} with {} ({})", cert.display(), key.display(), client.origin)
            },
        );
        let credentials = match &explained.credentials {
            _ if is_given && endpoint.role == Role::Registry => "--creds".to_owned(),
            Some(source) => source.to_string(),
            None => "none".to_owned(),
        };
        let headers: Vec<&str> = endpoint.header_names().collect();
        let proxy = proxies.shown(endpoint.is_plain()).filter(|_| !endpoint.is_loopback());
        let proxy = proxy.map(|proxy| match &proxies.none {
            Some(none) => format!("{proxy}, but not for {none}"),
            None => proxy,
        });
        let mut lines = vec![
            ("said by", endpoint.origin.to_string()),
            ("credentials", credentials),
            ("authorities", verification),
            ("certificate", client),
        ];
        lines.extend(proxy.map(|proxy| ("proxy", proxy)));
        lines.extend(Some(headers.join(", ")).filter(|names| !names.is_empty()).map(|names| ("headers", names)));
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{}. {} ({role}{limits})", number + 1, endpoint.url());
        for (name, value) in lines {
            let _ = writeln!(text, "   {name:<12} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use wharf_images::{Keychain, Registries};

    use super::*;

    #[test]
    fn every_setting_is_shown_with_the_file_that_says_so_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (file, auth) = (folder.path().join("registries.toml"), folder.path().join("auth.json"));
        let toml = "[registry.'docker.io']\nmirrors = ['m.io:5000/hub']\n[registry.'m.io:5000']\nca = '/ca.pem'\n\
            client_cert = '/c.pem'\nclient_key = '/c.key'\n";
        std::fs::write(&file, toml).unwrap();
        std::fs::write(&auth, r#"{"auths":{"m.io:5000":{"auth":"bWU6c2VjcmV0"}},"credsStore":"pass"}"#).unwrap();
        let proxies = Proxies { https: Some("http://me:secret@p:1".into()), ..Proxies::default() };
        let registries = Registries::default().with_file(&file).with_proxies(proxies.clone());
        let reference: Reference = "busybox".parse().unwrap();
        let endpoints = registries.explain(&reference, false, &Keychain::default().and_file(&auth)).unwrap();
        let (file, auth) = (file.display(), auth.display());
        let expected = format!(
            "docker.io/library/busybox:latest
1. https://m.io:5000/v2/hub/library/busybox (mirror)
   said by      registry.\"docker.io\".mirrors in {file}, line 2
   credentials  auths.\"m.io:5000\" in {auth}
   authorities  this machine's and /ca.pem (registry.\"m.io:5000\".ca in {file}, line 4)
   certificate  /c.pem with /c.key (registry.\"m.io:5000\".client_cert in {file}, line 5)
   proxy        http://p:1
2. https://registry-1.docker.io/v2/library/busybox (registry)
   said by      registry.\"docker.io\" in {file}, line 1
   credentials  docker-credential-pass, named by credsStore in {auth}
   authorities  this machine's
   certificate  none
   proxy        http://p:1
"
        );
        assert_eq!(text(&reference, &endpoints, &proxies, false), expected);
    }
}
