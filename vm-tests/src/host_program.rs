//! A program of this machine with the shared libraries it needs.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const SEARCH_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The file of a program, by its name or absolute path.
pub fn find(name: &str) -> Result<PathBuf> {
    let mut candidates = SEARCH_PATH.iter().map(|directory| Path::new(directory).join(name));
    candidates.find(|path| path.is_file()).with_context(|| format!("program {name} is not on this machine"))
}

/// The dynamic loader and all libraries that `program` is linked to; none for a static one.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        if format!("{text}{errors}").contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", program.display(), errors.trim());
    }
    parse_libraries(&text)
}

fn parse_libraries(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((name, "not found")) = line.split_once(" => ") {
            bail!("library {name} is not on this machine");
        }
        // The line of the vDSO has no path, those of a static program have none either.
        paths.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_the_loader_would_map() {
        let text =
            "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibmnl.so.0 => /lib/x/libmnl.so.0 (0x00007f)\n\t/lib64/ld.so.2 (0x1)\n";
        assert_eq!(
            parse_libraries(text).expect("libraries"),
            ["/lib/x/libmnl.so.0", "/lib64/ld.so.2"].map(PathBuf::from)
        );
        assert_eq!(parse_libraries("\tstatically linked\n").expect("none"), Vec::<PathBuf>::new());
        let error = parse_libraries("\tliba.so => not found\n").expect_err("must fail");
        assert_eq!(error.to_string(), "library liba.so is not on this machine");
    }
}
