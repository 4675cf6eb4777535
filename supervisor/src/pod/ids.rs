//! Ids of pods and containers: made at random, and given as short as they are unique.

use super::error::{PodError, Result};

/// The one of `ids` that `id` is (`exact`) or uniquely begins.
pub(super) fn resolve<'a>(
    what: &'static str,
    id: &str,
    exact: bool,
    ids: impl Iterator<Item = &'a String>,
) -> Result<String> {
    if exact {
        return Ok(id.into());
    }
    let not_found = || PodError::NotFound { what, id: id.into() };
    if id.is_empty() {
        return Err(not_found());
    }
    let matches: Vec<&String> = ids.filter(|candidate| candidate.starts_with(id)).collect();
    match matches.as_slice() {
        [] => Err(not_found()),
        [only] => Ok((*only).clone()),
        many => Err(PodError::Ambiguous { what, prefix: id.into(), count: many.len() }),
    }
}

/// 128 random bits: half of what other runtimes write, so that `RUN/pods/<id>/shim.sock` stays below the 108
/// bytes of a unix socket's path also under a long RUN.
pub(crate) fn new_id() -> String {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        // getrandom fails only by interruption, and blocks only before the kernel's pool is first filled.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_resolve_by_unique_prefix() {
        let ids = ["abc1".to_string(), "abc2".to_string(), "d".to_string()];
        let find = |id: &str| resolve("container", id, ids.iter().any(|known| known == id), ids.iter());
        assert_eq!(find("abc1"), Ok("abc1".into()));
        assert_eq!(find("d"), Ok("d".into()));
        assert!(matches!(find("abc"), Err(PodError::Ambiguous { count: 2, .. })));
        assert!(find("x").is_err_and(|error| error.is_not_found()));
        assert!(find("").is_err_and(|error| error.is_not_found()));
    }

    #[test]
    fn new_ids_are_hexadecimal_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
