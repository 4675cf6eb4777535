//! Shims: `wharf-shim --dir RUN/pods/ID`.

use std::fs;
use std::path::Path;

use super::{Kind, Known, Leak, LeakError, Result, is_id};

pub(super) fn look(known: &Known) -> Result<Vec<Leak>> {
    let pods = known.state.join("pods");
    let entries = fs::read_dir("/proc").map_err(|error| LeakError::new("/proc", error))?;
    let mut leaks = Vec::new();
    for entry in entries.flatten() {
        let Ok(pid) = entry.file_name().into_string() else { continue };
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let arguments = arguments(&pid);
        let Some(owner) = shim_of(&arguments, &pods) else { continue };
        if !known.has(owner) {
            leaks.push(Leak {
                kind: Kind::Process,
                what: format!("{pid} {}", arguments.join(" ")),
                owner: owner.into(),
            });
        }
    }
    Ok(leaks)
}

/// The sandbox whose shim has these arguments.
fn shim_of<'a>(arguments: &'a [String], pods: &Path) -> Option<&'a str> {
    let [program, option, directory] = arguments else { return None };
    if Path::new(program).file_name()? != "wharf-shim" || option != "--dir" {
        return None;
    }
    let id = Path::new(directory).strip_prefix(pods).ok()?.to_str()?;
    is_id(id).then_some(id)
}

fn arguments(pid: &str) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// For people; without characters that a terminal would act on.
pub(super) fn command(pid: &str) -> String {
    let line = arguments(pid).join(" ");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_of_this_node_are_told_from_others() {
        let id = "0123456789abcdef0123456789abcdef";
        let words = |line: &str| line.split(' ').map(str::to_string).collect::<Vec<_>>();
        let pods = Path::new("/run/wharf/pods");
        assert_eq!(shim_of(&words(&format!("/usr/bin/wharf-shim --dir /run/wharf/pods/{id}")), pods), Some(id));
        for other in [format!("wharf-shim --dir /run/other/pods/{id}"), format!("sleep --dir /run/wharf/pods/{id}")] {
            assert_eq!(shim_of(&words(&other), pods), None);
        }
    }
}
