//! Gives `runw --version` the commit it is built from, has the programs linked small, and names their entry.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=WHARF_COMMIT");
    let given = std::env::var("WHARF_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=WHARF_COMMIT={commit}");
    // The log of HEAD grows with each commit; without it the program would be built anew each time.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "gnu") {
        // A tenth of the program would be a table of addresses otherwise, read in full at each start.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Without optimisation the entry would call `memcpy`, which is not there yet: see `wharf_sys::entry`.
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") && !is("OPT_LEVEL", "0") {
        println!("cargo::rustc-link-arg-bin=runw=-Wl,--entry=wharf_entry_of_containers");
        println!("cargo::rustc-link-arg-bin=wharf-shim=-Wl,--entry=wharf_entry");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (output.status.success() && !text.is_empty()).then_some(text)
}
