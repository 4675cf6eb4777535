//! What pax records and GNU long names add to a header.

use crate::one_line::one_line;
use tar::PaxExtensions;

use super::{TarError, decimal};

#[derive(Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

#[derive(Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// Formats 0.0 and 0.1: the map stands in the records.
    pub(super) numbers: Vec<u64>,
}

impl Extensions {
    pub(super) fn read_pax(&mut self, records: &[u8], at: u64) -> Result<(), TarError> {
        let bad = |problem: String| TarError::Header { offset: at, problem };
        for record in PaxExtensions::new(records) {
            let record = record.map_err(|error| bad(format!("pax record: {error}")))?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            let number = || {
                decimal(value)
                    .ok_or_else(|| bad(format!("pax record `{}`: `{}` is no number", one_line(key), one_line(value))))
            };
            if value.is_empty() {
                // As if there were no such record (POSIX, "pax Extended Header"); others' readers do so too.
                self.xattrs.retain(|(name, _)| Some(&**name) != key.strip_prefix(b"SCHILY.xattr."));
                continue;
            }
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                b"mtime" => {
                    let time =
                        seconds(value).ok_or_else(|| bad(format!("pax mtime `{}` is no time", one_line(value))))?;
                    self.mtime = Some(time);
                }
                b"GNU.sparse.major" => self.sparse.major = Some(number()?),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number()?),
                b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(number()?),
                b"GNU.sparse.map" => {
                    for text in value.split(|byte| *byte == b',').filter(|text| !text.is_empty()) {
                        let number = decimal(text).ok_or_else(|| bad("sparse map cannot be read".into()))?;
                        self.sparse.numbers.push(number);
                    }
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// `-12.5` as seconds and nanoseconds, the nanoseconds counting forward.
pub(super) fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    let whole_seconds: i64 = whole.parse().ok()?;
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Some((whole_seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((whole_seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_a_value_takes_one_back() {
        let mut extensions = Extensions::default();
        let records = b"25 SCHILY.xattr.user.a=x\n24 SCHILY.xattr.user.a=\n25 SCHILY.xattr.user.b=y\n8 size=\n";
        extensions.read_pax(records, 0).unwrap();
        assert_eq!(extensions.xattrs, [(b"user.b".to_vec(), b"y".to_vec())]);
        assert_eq!(extensions.size, None);
    }

    #[test]
    fn times_keep_their_fraction() {
        assert_eq!(seconds(b"12"), Some((12, 0)));
        assert_eq!(seconds(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(seconds(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(seconds(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(seconds(b"x"), None);
    }
}
