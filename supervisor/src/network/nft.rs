//! `nft`: transactions written, tables read.

use std::collections::BTreeSet;
use std::fmt;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;

use super::{NetworkError, Result};

/// Whose packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Those of IPv4.
    Ip,
    /// Those of IPv4 and IPv6.
    Inet,
}

impl Family {
    /// A node without IPv6 has tables that ask nothing of it: its kernel may not have any.
    pub(super) fn of(has_ipv6: bool) -> Self {
        if has_ipv6 { Self::Inet } else { Self::Ip }
    }

    fn other(self) -> Self {
        if self == Self::Ip { Self::Inet } else { Self::Ip }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Inet => "inet",
        }
    }
}

/// A table of the node's own, as `nft` is told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.name)
    }
}

impl Table {
    pub(super) fn is_dual(&self) -> bool {
        self.family == Family::Inet
    }

    /// The one that a daemon has, or had, that is told otherwise of IPv6.
    pub(super) fn other(&self) -> Self {
        Self { family: self.family.other(), name: self.name.clone() }
    }

    /// Deleting a table that is not there is an error; declaring it first makes it none.
    pub(super) fn deletion(&self) -> String {
        format!("table {self} {{ }}\ndelete table {self}\n")
    }
}

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

/// Which of these tables are there.
pub(super) async fn present<'a>(tables: &[&'a Table]) -> Result<Vec<&'a Table>> {
    let output = nft(&["--terse", "list", "tables"], "").await?;
    if !output.status.success() {
        return Err(refusal(&output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let is_there = |table: &Table| text.lines().any(|line| line.trim() == format!("table {table}"));
    Ok(tables.iter().copied().filter(|table| is_there(table)).collect())
}

/// What a table has that is there.
pub(super) async fn contents(table: &Table) -> Result<Contents> {
    match nft(&["--terse", "list", "table", table.family.name(), &table.name], "").await? {
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
