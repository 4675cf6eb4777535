//! What limits of both versions have in common.

use super::{Cgroup, Error, write};
use std::fs;
use std::path::{Path, PathBuf};
use wharf_specs::oci::{LinuxHugepageLimit, LinuxResources};

/// Writes a limit, naming the field it comes from.
pub(super) fn limit(directory: &Path, file: &str, value: impl ToString, field: &str) -> Result<(), Error> {
    let (path, value) = (directory.join(file), value.to_string());
    write(&path, &value).map_err(|source| Error::Limit { field: field.into(), value, path, source })
}

/// The size of huge pages as the kernel's files are named.
pub(super) fn page_size(limit: &LinuxHugepageLimit) -> Result<&str, Error> {
    let size = limit.page_size();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let problem =
            format!("{size:?} is not the size of a page; allowed: a number with KB, MB or GB, such as \"2MB\"");
        return Err(Error::Value { field: "hugepageLimits.pageSize".into(), problem });
    }
    Ok(size)
}

/// Refuses a limit of memory, or of memory and swap, below what is used at present, if the configuration wants that
/// checked.
pub(super) fn check_usage(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = resources.memory().as_ref().filter(|it| it.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let (usage, with_swap) = match (cgroup.v1("memory"), cgroup.unified_path()) {
        (Some(path), _) => (read(path.join("memory.usage_in_bytes")), read(path.join("memory.memsw.usage_in_bytes"))),
        (None, Some(path)) => {
            let usage = read(path.join("memory.current"));
            let swap = read(path.join("memory.swap.current")).unwrap_or(0);
            (usage, usage.map(|usage| usage + swap))
        }
        (None, None) => return Ok(()),
    };
    for (limit, usage, what, field) in
        [(memory.swap(), with_swap, "memory+swap", "memory.swap"), (memory.limit(), usage, "memory", "memory.limit")]
    {
        if let (Some(limit @ 1..), Some(usage)) = (limit, usage)
            && usage > limit
        {
            let problem = format!("rejecting {what} limit {limit}, which is below the usage of {usage} bytes");
            return Err(Error::Value { field: field.into(), problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_names_a_file_and_no_path() {
        let check = |size: &str| {
            let json = format!(r#"{{"pageSize":{size:?},"limit":1}}"#);
            let limit: LinuxHugepageLimit = serde_json::from_str(&json).expect("parse");
            page_size(&limit).map(str::to_string)
        };
        assert_eq!(check("64KB").expect("a size"), "64KB");
        for wrong in ["", "MB", "2", "2mb", "2MB/../../x", "../2MB", "-2MB"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
