//! Which network configuration is used: the first valid one of the folder, in the order of the files' names.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_specs::cni::{MAX_CONFIG_BYTES, NetworkList, PluginConfig, PluginSource};

/// What the folder says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Configuration {
    /// There is no folder, or no configuration in it.
    Absent,
    /// There are some, and none can be used: one reason for each.
    Invalid { refused: Vec<String> },
    /// `refused` tells why those before it are passed over.
    Valid { file: PathBuf, list: Arc<NetworkList>, refused: Vec<String> },
}

/// Reads the folder.
pub(super) fn read(folder: &Path) -> Configuration {
    let files = match files(folder, &["conflist", "conf", "json"]) {
        Ok(files) => files,
        Err(reason) => return Configuration::Invalid { refused: vec![reason] },
    };
    let mut refused = Vec::new();
    for file in files {
        match read_network(&file) {
            Ok(list) => return Configuration::Valid { file, list: Arc::new(list), refused },
            Err(reason) => refused.push(reason),
        }
    }
    if refused.is_empty() { Configuration::Absent } else { Configuration::Invalid { refused } }
}

/// Files of these extensions in the order of their names; hidden ones are somebody's half-written copies.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", folder.display())),
    };
    let wanted = |path: &PathBuf| {
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden && path.extension().is_some_and(|own| extensions.iter().any(|wanted| own == *wanted))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
    // A folder of plugins may have any name that a network has.
    files.retain(|path| !path.is_dir());
    files.sort();
    Ok(files)
}

fn read_network(file: &Path) -> Result<NetworkList, String> {
    let refused = |reason: &dyn std::fmt::Display| format!("{}: {reason}", file.display());
    let text = read_file(file)?;
    if file.extension().is_none_or(|extension| extension != "conflist") {
        return NetworkList::parse_single(&text).map_err(|error| refused(&error));
    }
    let mut list = NetworkList::parse(&text).map_err(|error| refused(&error))?;
    if list.source == PluginSource::InlinedAndFolder {
        // The name has no / in it, and does not begin with a dot.
        let folder = file.with_file_name(&list.name);
        for plugin in files(&folder, &["conf"])? {
            let text = read_file(&plugin)?;
            let config = PluginConfig::parse(&text).map_err(|error| format!("{}: {error}", plugin.display()))?;
            list.plugins.push(config);
        }
        if list.plugins.is_empty() {
            let folder = folder.display();
            return Err(refused(&format!("plugins is missing, and there is no *.conf in {folder} instead")));
        }
    }
    Ok(list)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let refused = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    // Looked at before it is opened: to open a FIFO is to wait for somebody who writes to it.
    let metadata = path.metadata().map_err(|error| refused(&error))?;
    if !metadata.is_file() {
        return Err(refused(&"is no regular file"));
    }
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| refused(&error))?;
    file.take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut text).map_err(|error| refused(&error))?;
    if text.len() > MAX_CONFIG_BYTES {
        return Err(refused(&format!("is longer than {MAX_CONFIG_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, more: &str) -> String {
        format!(r#"{{"cniVersion": "1.0.0", "name": "{name}"{more}}}"#)
    }

    /// The folder's answer with `files` in it.
    fn answer(files: &[(&str, String)]) -> (tempfile::TempDir, Configuration) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let configuration = read(dir.path());
        (dir, configuration)
    }

    #[test]
    fn the_first_valid_file_in_the_order_of_names_is_used() {
        let plugin = r#", "type": "bridge""#;
        let (dir, configuration) = answer(&[
            ("30-c.conflist", network("c", r#", "plugins": [{"type": "bridge"}]"#)),
            ("20-b.json", network("b", plugin)),
            ("10-a.conf", network("a", "")),
            ("00-x.txt", network("x", plugin)),
            (".0.conf", network("hidden", plugin)),
        ]);
        let Configuration::Valid { file, list, refused } = configuration else { panic!("{configuration:?}") };
        assert_eq!((file, list.name.as_str()), (dir.path().join("20-b.json"), "b"));
        let reason = format!("{}: type is missing", dir.path().join("10-a.conf").display());
        assert!(refused.len() == 1 && refused[0].starts_with(&reason), "{refused:?}");
    }

    #[test]
    fn plugins_come_from_the_network_s_folder_too_unless_they_are_all_inlined() {
        let inlined = r#", "plugins": [{"type": "bridge"}]"#;
        let more = ("pods/20-b.conf", r#"{"type": "b"}"#.to_string());
        let first = ("pods/10-a.conf", r#"{"type": "a"}"#.to_string());
        let programs = |files: &[(&str, String)]| match answer(files).1 {
            Configuration::Valid { list, .. } => list.plugins.iter().map(|plugin| plugin.program.clone()).collect(),
            other => vec![format!("{other:?}")],
        };
        let list = |more: &str| ("1.conflist", network("pods", more));
        assert_eq!(programs(&[list(inlined), more.clone(), first.clone()]), ["bridge", "a", "b"]);
        assert_eq!(programs(&[list(""), first.clone()]), ["a"]);
        let only = format!(r#"{inlined}, "loadOnlyInlinedPlugins": true"#);
        assert_eq!(programs(&[list(&only), more]), ["bridge"]);
        let refusal = programs(&[list("")]);
        assert!(refusal[0].contains("plugins is missing, and there is no *.conf in "), "{refusal:?}");
        let broken = programs(&[list(""), ("pods/x.conf", "{}".into())]);
        assert!(broken[0].contains("pods/x.conf: type is missing"), "{broken:?}");
    }

    #[test]
    fn what_is_no_configuration_is_told_by_file() {
        assert_eq!(answer(&[]).1, Configuration::Absent);
        assert_eq!(read(Path::new("/nonexistent/net.d")), Configuration::Absent);
        assert_eq!(answer(&[("pods.conf/x", String::new())]).1, Configuration::Absent, "a folder is no file");
        let (dir, configuration) = answer(&[("a.conf", " ".repeat(MAX_CONFIG_BYTES + 1)), ("b.conflist", "{".into())]);
        let Configuration::Invalid { refused } = configuration else { panic!("{configuration:?}") };
        let path = |name: &str| dir.path().join(name).display().to_string();
        assert_eq!(refused[0], format!("{}: is longer than 1048576 bytes", path("a.conf")));
        assert!(refused[1].starts_with(&format!("{}: line 1, column 1: ", path("b.conflist"))), "{refused:?}");
        let Configuration::Invalid { refused } = read(Path::new("/proc/self/status")) else { panic!() };
        assert!(refused[0].starts_with("/proc/self/status: Not a directory"), "{refused:?}");
    }
}
