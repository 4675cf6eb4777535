//! The configuration of one plugin: what the protocol knows of it, and all the rest as it was written.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Result, flag, list, missing, object, parse_object, text, unexpected};

/// A plugin configuration object, section 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginConfig {
    /// Name of the plugin's program in one of the plugin folders; never a path.
    #[serde(rename = "type")]
    pub program: String,
    /// Those that are declared as true: what `runtimeConfig` may have.
    pub capabilities: BTreeSet<String>,
    /// The object as it was written.
    pub object: Map<String, Value>,
}

/// Keys that the runtime alone writes, so that none may stand in a configuration.
const RUNTIME_KEYS: [&str; 2] = ["runtimeConfig", "prevResult"];

/// Keys with this prefix are the runtime's as well.
pub const RESERVED_PREFIX: &str = "cni.dev/";

impl PluginConfig {
    /// Reads the text of a file that holds one plugin's configuration.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Self::of(parse_object(text)?, "")
    }

    /// `place` leads the keys in errors: `plugins[0].`, or nothing where the object is the whole text.
    pub(super) fn of(object: Map<String, Value>, place: &str) -> Result<Self> {
        let program = text(&object, place, "type")?
            .ok_or_else(|| missing(format!("{place}type"), "the name of a plugin's program is needed"))?
            .to_string();
        check_program(&program, format!("{place}type"))?;
        let own = |key: &&String| RUNTIME_KEYS.contains(&key.as_str()) || key.starts_with(RESERVED_PREFIX);
        if let Some(key) = object.keys().find(own) {
            let wanted = "stands in a configuration, but only the runtime may write this key";
            return Err(unexpected(format!("{place}{key}"), &object[key], wanted));
        }
        let capabilities = capabilities(&object, place)?;
        check_ipam(&object, place)?;
        check_dns(&object, place)?;
        flag(&object, place, "ipMasq")?;
        Ok(Self { program, capabilities, object })
    }
}

fn capabilities(config: &Map<String, Value>, place: &str) -> Result<BTreeSet<String>> {
    let Some(declared) = object(config, place, "capabilities")? else { return Ok(BTreeSet::new()) };
    let place = format!("{place}capabilities.");
    let mut capabilities = BTreeSet::new();
    for name in declared.keys() {
        if flag(declared, &place, name)? {
            capabilities.insert(name.clone());
        }
    }
    Ok(capabilities)
}

/// An `ipam` without a type means none: some plugins are told so that they give no address.
fn check_ipam(config: &Map<String, Value>, place: &str) -> Result<()> {
    let Some(ipam) = object(config, place, "ipam")? else { return Ok(()) };
    let place = format!("{place}ipam.");
    match text(ipam, &place, "type")? {
        None => Ok(()),
        Some(program) => check_program(program, format!("{place}type")),
    }
}

fn check_dns(config: &Map<String, Value>, place: &str) -> Result<()> {
    let Some(dns) = object(config, place, "dns")? else { return Ok(()) };
    let place = format!("{place}dns.");
    text(dns, &place, "domain")?;
    for key in ["nameservers", "search", "options"] {
        for (index, entry) in list(dns, &place, key)?.unwrap_or_default().iter().enumerate() {
            if !entry.is_string() {
                return Err(unexpected(format!("{place}{key}[{index}]"), entry, "is no text"));
            }
        }
    }
    Ok(())
}

/// A program is looked up in the plugin folders by this name: it must not lead out of them.
fn check_program(name: &str, key: String) -> Result<()> {
    const LONGEST: usize = 255;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    let reference = name == "." || name == "..";
    if name.is_empty() || name.len() > LONGEST || reference || !name.chars().all(allowed) {
        let wanted = "is no name of a program; letters, digits and _ . + - are allowed, / is not";
        return Err(unexpected(key, &Value::from(name), wanted));
    }
    Ok(())
}
