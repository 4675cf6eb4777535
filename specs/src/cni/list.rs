//! A network configuration: a list of plugins that are executed one after the other, or a single plugin.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::version::is_version;
use super::{PluginConfig, Result, Version, flag, list, missing, parse_object, text, unexpected};

/// Longest name of a network: it becomes one part of a path, beside a suffix.
const MAX_NAME_BYTES: usize = 200;

/// Plugins of one network; each is a process for every pod that comes or goes.
const MAX_PLUGINS: usize = 64;

/// A network configuration, section 1.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    pub name: String,
    /// Those of `cniVersion` and `cniVersions` that are known here; never empty.
    pub versions: BTreeSet<Version>,
    pub disable_check: bool,
    pub disable_gc: bool,
    /// Where the network's plugins stand.
    pub source: PluginSource,
    /// In the order of ADD. May be empty where [`PluginSource::InlinedAndFolder`] adds to it.
    pub plugins: Vec<PluginConfig>,
}

/// `loadOnlyInlinedPlugins`, turned around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginSource {
    /// In the list alone.
    Inlined,
    /// Also in `*.conf` of the folder beside the list that is named after the network.
    InlinedAndFolder,
}

impl NetworkList {
    /// Reads the text of a `*.conflist`.
    ///
    /// # Errors
    /// The first thing that is wrong, by its place in the text.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let object = parse_object(bytes)?;
        let (name, versions) = (name(&object)?, versions(&object)?);
        let only_inlined = flag(&object, "", "loadOnlyInlinedPlugins")?;
        let inlined = list(&object, "", "plugins")?;
        match inlined {
            None if only_inlined => {
                return Err(missing("plugins", "with loadOnlyInlinedPlugins it has to hold every plugin"));
            }
            Some([]) => return Err(unexpected("plugins", &object["plugins"], "has no plugin in it")),
            Some(many) if many.len() > MAX_PLUGINS => {
                let found = Value::from(format!("{} plugins", many.len()));
                return Err(unexpected("plugins", &found, format!("are more than {MAX_PLUGINS}")));
            }
            _ => {}
        }
        let plugins = inlined.unwrap_or_default().iter().enumerate().map(|(index, plugin)| {
            let key = format!("plugins[{index}]");
            match plugin {
                Value::Object(plugin) => PluginConfig::of(plugin.clone(), &format!("{key}.")),
                other => Err(unexpected(key, other, "is no object")),
            }
        });
        Ok(Self {
            name,
            versions,
            disable_check: flag(&object, "", "disableCheck")?,
            disable_gc: flag(&object, "", "disableGC")?,
            source: if only_inlined { PluginSource::Inlined } else { PluginSource::InlinedAndFolder },
            plugins: plugins.collect::<Result<_>>()?,
        })
    }

    /// Reads the text of a `*.conf` or `*.json`: one plugin that is a network by itself, as before 0.3.0.
    pub fn parse_single(bytes: &[u8]) -> Result<Self> {
        let object = parse_object(bytes)?;
        if let (Some(plugins), None) = (object.get("plugins"), object.get("type")) {
            return Err(unexpected("plugins", plugins, "makes this a list; its file has to be named *.conflist"));
        }
        let (name, versions) = (name(&object)?, versions(&object)?);
        let (disable_check, disable_gc) = (flag(&object, "", "disableCheck")?, flag(&object, "", "disableGC")?);
        let plugins = vec![PluginConfig::of(object, "")?];
        Ok(Self { name, versions, disable_check, disable_gc, source: PluginSource::Inlined, plugins })
    }

    /// The newest version that it is written for.
    pub fn newest(&self) -> Version {
        self.versions.last().copied().unwrap_or(Version::V0_3_1)
    }
}

fn name(object: &Map<String, Value>) -> Result<String> {
    let name = text(object, "", "name")?.ok_or_else(|| missing("name", "the network's name is needed"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !name.chars().all(allowed) || name.len() > MAX_NAME_BYTES {
        let wanted = format!(
            "is no name of a network; it begins with a letter or digit and goes on with letters, digits and _ . -, \
             up to {MAX_NAME_BYTES} bytes"
        );
        return Err(unexpected("name", &Value::from(name), wanted));
    }
    Ok(name.into())
}

/// Versions newer than ours are passed over as long as one that we know is among them.
fn versions(object: &Map<String, Value>) -> Result<BTreeSet<Version>> {
    let mut given = Vec::new();
    if let Some(version) = text(object, "", "cniVersion")? {
        given.push(("cniVersion".to_string(), Value::from(version)));
    }
    for (index, version) in list(object, "", "cniVersions")?.unwrap_or_default().iter().enumerate() {
        given.push((format!("cniVersions[{index}]"), version.clone()));
    }
    let Some((last_key, last)) = given.last().cloned() else {
        return Err(missing("cniVersion", format!("one of {} is needed", Version::known())));
    };
    let mut known = BTreeSet::new();
    for (key, version) in &given {
        let text = version.as_str().unwrap_or_default();
        if !is_version(text) {
            return Err(unexpected(key, version, "is no version such as \"1.1.0\""));
        }
        known.extend(Version::parse(text));
    }
    if known.is_empty() {
        return Err(unexpected(last_key, &last, format!("is none of {}", Version::known())));
    }
    Ok(known)
}

#[cfg(test)]
mod tests;
