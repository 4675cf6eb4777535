//! What reads foreign bytes here, as functions of bytes: what the fuzz targets and the smoke test call. None of it may
//! panic or take long, whatever the bytes are. Not part of the interface.

use super::{AddResult, CniError, NetworkList, PluginConfig, PluginFailure, Version, VersionAnswer};

/// A network configuration in each of its forms. True if one of them was taken.
pub fn network(bytes: &[u8]) -> bool {
    let lists = [NetworkList::parse(bytes), NetworkList::parse_single(bytes)];
    let mut taken = false;
    for list in lists {
        match list {
            Ok(list) => {
                taken = true;
                assert!(list.versions.contains(&list.newest()), "{list:?}");
                list.plugins.iter().for_each(stays_in_its_folder);
                // Joined to a folder, the name is one part of the path.
                assert!(!list.name.contains('/') && !list.name.starts_with('.'), "{list:?}");
            }
            Err(error) => is_one_line(&error),
        }
    }
    match PluginConfig::parse(bytes) {
        Ok(plugin) => stays_in_its_folder(&plugin),
        Err(error) => is_one_line(&error),
    }
    taken
}

/// What a plugin writes. A result reads the same in the form of each version.
pub fn result(bytes: &[u8]) -> bool {
    if let Err(error) = VersionAnswer::parse(bytes) {
        is_one_line(&error);
    }
    if let Some(failure) = PluginFailure::parse(bytes) {
        assert!(!failure.to_string().contains(['\n', '\u{1b}']), "{failure:?}");
    }
    let result = match AddResult::parse(bytes) {
        Ok(result) => result,
        Err(error) => {
            is_one_line(&error);
            return false;
        }
    };
    for version in Version::ALL {
        let again = AddResult::parse(result.as_previous(version).to_string().as_bytes());
        let again = again.map(|again| again.addresses("eth0"));
        assert_eq!(again, Ok(result.addresses("eth0")), "{version}");
    }
    true
}

fn stays_in_its_folder(plugin: &PluginConfig) {
    let name = plugin.program.as_str();
    assert!(!name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..", "{name:?}");
}

fn is_one_line(error: &CniError) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.chars().count() < 4096, "{text:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &[u8] = include_bytes!("../../../fuzz/seeds/cni_network/list.json");
    const RESULTS: [&[u8]; 2] = [
        include_bytes!("../../../fuzz/seeds/cni_result/old.json"),
        include_bytes!("../../../fuzz/seeds/cni_result/new.json"),
    ];

    /// Each prefix of the text, and the text with each byte replaced by some that matter to JSON.
    fn mutations(seed: &[u8], mut work: impl FnMut(&[u8])) {
        for at in 0..seed.len() {
            work(&seed[..at]);
            for byte in *b"\"{[0-\\,\xff\n" {
                let mut text = seed.to_vec();
                text[at] = byte;
                work(&text);
            }
        }
    }

    #[test]
    fn nothing_that_is_almost_right_breaks_a_parser() {
        assert!(network(NETWORK));
        mutations(NETWORK, |text| {
            network(text);
        });
        for seed in RESULTS {
            assert!(result(seed));
            mutations(seed, |text| {
                result(text);
            });
        }
    }
}
