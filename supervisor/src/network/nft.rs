//! `nft`: transactions written, tables read.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;

use super::{NetworkError, Result};

/// Carries out all of `script`, or nothing.
pub(super) async fn run(script: &str) -> Result<()> {
    match nft(&["-f", "-"], script).await? {
        output if output.status.success() => Ok(()),
        output => Err(refusal(&output)),
    }
}

/// Names of a table's chains and sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) chains: BTreeSet<String>,
    pub(super) sets: BTreeSet<String>,
}

/// What a table of IPv4 has; nothing where there is no such table.
pub(super) async fn contents(table: &str) -> Result<Contents> {
    let output = nft(&["--terse", "list", "tables", "ip"], "").await?;
    if !output.status.success() {
        return Err(refusal(&output));
    }
    let line = format!("table ip {table}");
    if !String::from_utf8_lossy(&output.stdout).lines().any(|found| found.trim() == line) {
        return Ok(Contents::default());
    }
    match nft(&["--terse", "list", "table", "ip", table], "").await? {
        output if output.status.success() => Ok(Contents::of_listing(&String::from_utf8_lossy(&output.stdout))),
        output => Err(refusal(&output)),
    }
}

impl Contents {
    fn of_listing(text: &str) -> Self {
        let names = |kind: &str| {
            let name =
                |line: &str| line.trim().strip_prefix(kind)?.strip_suffix('{').map(|name| name.trim().to_owned());
            text.lines().filter_map(name).collect()
        };
        Self { chains: names("chain "), sets: names("set ") }
    }
}

async fn nft(arguments: &[&str], script: &str) -> Result<Output> {
    let spawned = tokio::process::Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|error| NetworkError::NoNft(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where nft ended before it read everything, its own message says why.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    child.wait_with_output().await.map_err(|error| NetworkError::Nft(error.to_string()))
}

fn refusal(output: &Output) -> NetworkError {
    let said = String::from_utf8_lossy(&output.stderr);
    NetworkError::Nft(said.lines().next().unwrap_or("no word").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_names_chains_and_sets() {
        let text = "table ip t {\n\tmap services {\n\t\ttype ipv4_addr : verdict\n\t}\n\n\tset aff/a {\n\t\ttype ipv4_addr\n\t}\n\n\
                    \tchain in-a/b/tcp/80 {\n\t\tip saddr @aff/a goto ep-a\n\t}\n}\n";
        let contents = Contents::of_listing(text);
        assert_eq!(contents.chains, BTreeSet::from(["in-a/b/tcp/80".to_owned()]));
        assert_eq!(contents.sets, BTreeSet::from(["aff/a".to_owned()]));
    }
}
