//! The kernel's texts, parsed.

use super::{BlockIoEntry, Pressure, PressureLine};

pub(super) fn index_list(text: &str) -> Vec<u16> {
    let list = crate::plan::index_list(text.trim(), "").unwrap_or_default();
    list.into_iter().filter_map(|index| u16::try_from(index).ok()).collect()
}

/// Lines `8:0 Read 512` of v1.
pub(super) fn entries(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_string(), words.next()?.parse().ok()?);
        Some(BlockIoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
    };
    text.lines().filter_map(entry).collect()
}

/// Lines `8:0 rbytes=512 wbytes=0` of v2.
pub(super) fn unified_entries(text: &str, keys: [(&str, &str); 2]) -> Vec<BlockIoEntry> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((Ok(major), Ok(minor))) =
            words.next().and_then(|device| device.split_once(':')).map(|(a, b)| (a.parse(), b.parse()))
        else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            if let (Some((_, op)), Ok(value)) = (keys.iter().find(|(name, _)| *name == key), value.parse()) {
                list.push(BlockIoEntry { major, minor, op: (*op).to_string(), value });
            }
        }
    }
    list
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; none without pressure in the kernel.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let kind = words.next()?;
        let mut parsed = PressureLine::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => parsed.avg10 = value.parse().ok()?,
                "avg60" => parsed.avg60 = value.parse().ok()?,
                "avg300" => parsed.avg300 = value.parse().ok()?,
                "total" => parsed.total = value.parse().ok()?,
                _ => {}
            }
        }
        match kind {
            "some" => pressure.some = Some(parsed),
            "full" => pressure.full = Some(parsed),
            _ => {}
        }
    }
    (pressure != Pressure::default()).then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_is_the_same_in_both_forms() {
        let legacy = entries("8:0 Read 512\n8:0 Write 3\n8:0 Total 515\nTotal 515\n");
        assert_eq!(legacy[0], BlockIoEntry { major: 8, minor: 0, op: "Read".into(), value: 512 });
        assert_eq!(legacy.len(), 3);
        let unified = unified_entries("8:0 rbytes=512 wbytes=3 rios=1\n", [("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(unified, legacy[..2]);
    }

    #[test]
    fn pressure_is_read_where_there_is_some() {
        let found = pressure("some avg10=1.50 avg60=0.10 avg300=0.00 total=77\n").expect("pressure");
        assert_eq!(found.some.map(|line| (line.avg10, line.total)), Some((1.5, 77)));
        assert_eq!(found.full, None);
        assert_eq!(pressure(""), None);
    }
}
