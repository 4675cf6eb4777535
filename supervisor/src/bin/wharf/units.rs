//! Durations and sizes as people read them, worded as docker words them.

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A length of time in its largest fitting unit: `5 seconds`, `About an hour`, `3 weeks`.
pub(crate) fn duration_text(seconds: i64) -> String {
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => format!("{seconds} seconds"),
        _ if seconds < 2 * MINUTE => "About a minute".into(),
        _ if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
        _ if hours < 2 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if seconds < 14 * DAY => format!("{} days", seconds / DAY),
        _ if seconds < 60 * DAY => format!("{} weeks", seconds / (7 * DAY)),
        _ if seconds < 2 * 365 * DAY => format!("{} months", seconds / (30 * DAY)),
        _ => format!("{} years", seconds / (365 * DAY)),
    }
}

/// How long ago an RFC 3339 time was; empty where the text is no time.
pub(crate) fn ago(time: &str) -> String {
    match seconds_since(time) {
        Some(seconds) => format!("{} ago", duration_text(seconds)),
        None => String::new(),
    }
}

/// Whole seconds since an RFC 3339 time.
pub(crate) fn seconds_since(time: &str) -> Option<i64> {
    let then: jiff::Timestamp = time.parse().ok()?;
    Some(jiff::Timestamp::now().as_second() - then.as_second())
}

/// Bytes with a decimal unit and three digits: `1.2MB`.
pub(crate) fn size_text(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return format!("{}{unit}", three_digits(value));
        }
        value /= 1000.0;
    }
    format!("{}TB", three_digits(value))
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_their_largest_unit() {
        for (seconds, expected) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (HOUR, "About an hour"),
            (2 * HOUR, "2 hours"),
            (2 * DAY, "2 days"),
            (14 * DAY, "2 weeks"),
            (60 * DAY, "2 months"),
            (3 * 365 * DAY, "3 years"),
        ] {
            assert_eq!(duration_text(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (12_345_678, "12.3MB"),
            (999_999, "1MB"),
            (5_000_000_000_000, "5TB"),
        ] {
            assert_eq!(size_text(bytes), expected, "{bytes}");
        }
    }
}
