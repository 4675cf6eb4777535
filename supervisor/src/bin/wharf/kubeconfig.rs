//! `wharf kubeconfig`: what kubectl and other clients need to reach this node's API over TLS.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use wharf_supervisor::api::tls::{
    Authority, Credential, CredentialId, FOLDER, Issued, MASTERS, TlsError, TokenKey, check_names, write_private,
};

use crate::NodeArguments;
use crate::image_store::data_root;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Who the certificate or token is for
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: String,
    /// Group whose rights the user has, as roles are bound to it; may be given more than once [default: system:masters,
    /// which may do everything]
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// With a token instead of a certificate
    #[arg(long)]
    token: bool,
    /// How long it is good for
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
    /// Where clients reach the node; where it listens without this
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Write to a file, which only its owner can read, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show which certificates and tokens are good still, and which were taken back
    #[arg(long, conflicts_with_all = OF_A_NEW_ONE)]
    list: bool,
    /// Take a certificate or token back: that of a kubeconfig, or the one whose ID begins so
    #[arg(long, value_name = "FILE|ID", conflicts_with = "list", conflicts_with_all = OF_A_NEW_ONE)]
    revoke: Option<String>,
}

const OF_A_NEW_ONE: [&str; 6] = ["user", "groups", "token", "days", "server", "output"];

const SECONDS_PER_DAY: u64 = 86_400;
const NAME: &str = "wharf";

pub(crate) fn run(node: &NodeArguments, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.list {
        return list(&data_root(node)?.join(FOLDER));
    }
    if let Some(named) = &arguments.revoke {
        return revoke(&data_root(node)?.join(FOLDER), named);
    }
    let server = match &arguments.server {
        Some(url) => checked_url(url)?.to_owned(),
        None => url_of_node(&node.state)?,
    };
    let keys = data_root(node)?.join(FOLDER);
    let authority = match Authority::open(&keys) {
        Err(TlsError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => bail!(NOT_LISTENING),
        other => other?,
    };
    let valid_for = Duration::from_secs(arguments.days * SECONDS_PER_DAY);
    let groups = match arguments.groups.as_slice() {
        [] => vec![MASTERS.to_owned()],
        groups => groups.to_vec(),
    };
    let (id, user) = match arguments.token {
        true => {
            check_names(&arguments.user, &groups)?;
            let token = TokenKey::open(&keys)?.issue(&arguments.user, &groups, valid_for);
            (CredentialId::of_token(&token), json!({"token": token}))
        }
        false => {
            let identity = authority.client_identity(&arguments.user, &groups, valid_for)?;
            let user = json!({
                "client-certificate-data": STANDARD.encode(identity.certificate_pem()),
                "client-key-data": STANDARD.encode(identity.key_pem()),
            });
            (identity.id(), user)
        }
    };
    // Before anybody has it: what is not known could not be taken back.
    let until = SystemTime::now() + valid_for;
    let credential = Credential { is_token: arguments.token, user: arguments.user.clone(), groups, until };
    Issued::of(&keys).record(&id.context("name the certificate")?, &credential)?;
    let text = serde_yaml_ng::to_string(&kubeconfig(&server, authority.certificate_pem(), &arguments.user, &user))?;
    match &arguments.output {
        Some(path) => write_private(path, text.as_bytes())?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(keys: &Path) -> anyhow::Result<ExitCode> {
    let issued = Issued::of(keys);
    let mut rows = vec![["ID", "USER", "GROUPS", "KIND", "UNTIL", "STATE"].map(str::to_owned)];
    for (id, credential) in issued.all()? {
        let until = jiff::Timestamp::try_from(credential.until).context("read a time")?;
        rows.push([
            id.short().to_owned(),
            credential.user,
            credential.groups.join(","),
            if credential.is_token { "token" } else { "certificate" }.into(),
            until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            if issued.is_revoked(&id) { "revoked" } else { "good" }.into(),
        ]);
    }
    let widths: [usize; 6] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut out = std::io::stdout().lock();
    for row in rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", line.join("   ").trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn revoke(keys: &Path, named: &str) -> anyhow::Result<ExitCode> {
    let issued = Issued::of(keys);
    let ids = match std::fs::read_to_string(named) {
        Ok(text) => ids_in(keys, &text).with_context(|| format!("--revoke {named}"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match issued.find(named)? {
            Some(id) => vec![id],
            None => bail!("--revoke {named:?}: neither a file nor the beginning of one ID that --list shows"),
        },
        Err(error) => return Err(error).with_context(|| format!("read {named}")),
    };
    for id in ids {
        match issued.revoke(&id)? {
            true => println!("{} revoked", id.short()),
            false => println!("{} was revoked before", id.short()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Of the certificates and tokens in a kubeconfig, which have to be this node's.
fn ids_in(keys: &Path, kubeconfig: &str) -> anyhow::Result<Vec<CredentialId>> {
    let issued = Issued::of(keys);
    let config: Value = serde_yaml_ng::from_str(kubeconfig).context("not a kubeconfig")?;
    let mut ids = Vec::new();
    for user in config["users"].as_array().into_iter().flatten() {
        let (id, is_ours) = match (&user["user"]["client-certificate-data"], &user["user"]["token"]) {
            (Value::String(data), _) => {
                let pem = STANDARD.decode(data).context("client-certificate-data: not in base64")?;
                let certificate = CertificateDer::from_pem_slice(&pem).context("client-certificate-data: no PEM")?;
                (CredentialId::of_certificate(&certificate), Authority::open(keys)?.has_signed(&certificate)?)
            }
            (_, Value::String(token)) => {
                let known = TokenKey::open(keys)?.user(token, SystemTime::now()).is_some();
                (CredentialId::of_token(token), known)
            }
            _ => continue,
        };
        let id = id.filter(|id| is_ours || issued.is_revoked(id));
        ids.push(id.context("not of this node, or not good any more")?);
    }
    match ids.is_empty() {
        true => bail!("neither a client-certificate-data nor a token is in it"),
        false => Ok(ids),
    }
}

fn kubeconfig(server: &str, authority: &str, user_name: &str, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(authority)}}],
        "users": [{"name": user_name, "user": user}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": user_name}}],
    })
}

const NOT_LISTENING: &str = "this node serves its API on its socket alone; `api.listen` of wharfd.toml makes it listen";

/// As the running daemon says.
fn url_of_node(state: &Path) -> anyhow::Result<String> {
    let file = state.join("node.json");
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("no node runs at {}: start `wharfd`, or say with --server where clients reach it", state.display())
        }
        other => other.with_context(|| format!("read {}", file.display()))?,
    };
    let node: Value = serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    node["url"].as_str().map(str::to_owned).context(NOT_LISTENING)
}

fn checked_url(url: &str) -> anyhow::Result<&str> {
    let parsed = url.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
    match parsed {
        Some(_) => Ok(url),
        None => bail!("--server {url:?}: not a URL such as https://node.example:6443"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_reached_by_https() {
        assert!(checked_url("https://node.example:6443").is_ok());
        for url in ["node.example", "http://node.example", "https://", "unix:///run/x", ""] {
            assert!(checked_url(url).is_err_and(|error| error.to_string().contains("--server")), "{url}");
        }
    }

    #[test]
    fn a_node_that_does_not_listen_says_how_it_would() {
        let folder = tempfile::tempdir().unwrap();
        let said = || url_of_node(folder.path()).map_err(|error| error.to_string());
        assert!(said().unwrap_err().contains("no node runs"));
        std::fs::write(folder.path().join("node.json"), r#"{"root":"/x","url":null}"#).unwrap();
        assert!(said().unwrap_err().contains("api.listen"));
        std::fs::write(folder.path().join("node.json"), r#"{"url":"https://192.0.2.1:6443"}"#).unwrap();
        assert_eq!(said().unwrap(), "https://192.0.2.1:6443");
    }
}
