//! Names of units, and where their groups are.

use super::Error;
use std::path::{Path, PathBuf};

/// What unnamed scopes begin with.
const PREFIX: &str = "runw";
const SCOPE: &str = ".scope";
const SLICE: &str = ".slice";
/// systemd.unit(5).
const LONGEST: usize = 255;

/// The slice, if one is named, and the unit.
pub(super) fn parse(path: Option<&Path>, id: &str) -> Result<(Option<String>, String), Error> {
    let wrong = |problem: String| Error::UnitName { problem };
    let text = path.map(Path::to_string_lossy);
    let (slice, prefix, name) = match text.as_deref() {
        None => ("", PREFIX, id),
        Some(text) => {
            let mut parts = text.split(':');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
                _ => {
                    return Err(wrong(format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
                    )));
                }
            }
        }
    };
    if name.is_empty() {
        return Err(wrong(format!("{:?} has no name after its second colon", text.unwrap_or_default())));
    }
    if name.ends_with(SLICE) {
        return Err(wrong(format!("{name:?} is a slice, which has no processes of its own; a container is a scope")));
    }
    let unit = scope(prefix, name);
    if unit.len() > LONGEST {
        return Err(wrong(format!("unit {unit:?} has more than {LONGEST} characters")));
    }
    Ok(((!slice.is_empty()).then(|| slice.to_string()), unit))
}

/// The unit of a container.
pub(super) fn scope(prefix: &str, name: &str) -> String {
    escape(&if prefix.is_empty() { format!("{name}{SCOPE}") } else { format!("{prefix}-{name}{SCOPE}") })
}

/// What a unit's name cannot hold, as `\xNN` (systemd-escape(1)).
fn escape(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("\\x{byte:02x}") }).collect()
}

/// The directories of a slice: each dash is one level, `a-b.slice` lies in `a.slice`; `-.slice` is the root.
pub(super) fn expand_slice(slice: &str) -> Result<PathBuf, Error> {
    let wrong = || Error::UnitName { problem: format!("{slice:?} is not the name of a slice, such as `a-b.slice`") };
    let name = slice.strip_suffix(SLICE).filter(|name| !name.is_empty() && !name.contains('/')).ok_or_else(wrong)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    for (index, part) in name.split('-').enumerate() {
        if part.is_empty() {
            return Err(wrong());
        }
        let above = path.file_name().map(|name| name.to_string_lossy().trim_end_matches(SLICE).to_string());
        path.push(match above.filter(|_| index > 0) {
            Some(above) => format!("{above}-{part}{SLICE}"),
            None => format!("{part}{SLICE}"),
        });
    }
    Ok(path)
}

/// The directory of a unit: systemd puts an underscore before names that could be the kernel's files.
pub(super) fn directory(unit: &str) -> String {
    const CONTROLLERS: [&str; 12] = [
        "cgroup",
        "cpu",
        "cpuacct",
        "cpuset",
        "io",
        "blkio",
        "memory",
        "devices",
        "pids",
        "bpf-firewall",
        "bpf-devices",
        "bpf-foreign",
    ];
    let kernels = unit.split_once('.').is_some_and(|(first, _)| CONTROLLERS.contains(&first));
    if unit.starts_with(['_', '.']) || kernels { format!("_{unit}") } else { unit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Option<String>, String), Error> {
        parse(Some(Path::new(text)), "id")
    }

    #[test]
    fn a_path_names_slice_prefix_and_unit() {
        let named = |slice: Option<&str>, unit: &str| (slice.map(str::to_string), unit.to_string());
        assert_eq!(
            parsed("kubepods-pod1.slice:cri:c1").expect("path"),
            named(Some("kubepods-pod1.slice"), "cri-c1.scope")
        );
        assert_eq!(parsed(":docker:c1").expect("path"), named(None, "docker-c1.scope"));
        assert_eq!(parsed("a.slice::c1").expect("path"), named(Some("a.slice"), "c1.scope"));
        assert_eq!(parse(None, "web+1").expect("default"), named(None, "runw-web\\x2b1.scope"));
    }

    #[test]
    fn a_wrong_path_is_refused_with_what_is_expected() {
        for (text, problem) in [
            ("/a/b", "slice:prefix:name"),
            ("a:b", "got \"a:b\""),
            ("a:b:c:d", "slice:prefix:name"),
            ("a.slice:b:", "no name"),
        ] {
            let error = parsed(text).expect_err(text).to_string();
            assert!(error.starts_with("linux.cgroupsPath: ") && error.contains(problem), "{error}");
        }
        assert!(parsed("a.slice:b:c.slice").is_err());
        assert!(parsed(&format!("a.slice:b:{}", "c".repeat(250))).is_err());
    }

    #[test]
    fn slices_nest_by_their_dashes() {
        let path = |slice| expand_slice(slice).expect(slice);
        assert_eq!(path("system.slice"), PathBuf::from("system.slice"));
        assert_eq!(path("a-b-c.slice"), PathBuf::from("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(path("-.slice"), PathBuf::new());
        for wrong in ["", ".slice", "a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "../x.slice"] {
            assert!(expand_slice(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_of_the_kernels_files_are_escaped() {
        assert_eq!(
            ["c1.scope", "_c.scope", "memory.max.scope"].map(directory),
            ["c1.scope", "__c.scope", "_memory.max.scope"]
        );
    }
}
