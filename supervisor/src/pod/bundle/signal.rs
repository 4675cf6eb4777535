//! Signals by name and number.

pub(super) const SIGTERM: i32 = 15;

/// Of x86-64 and arm64; the index is the number.
const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
    "IO", "PWR", "SYS",
];

/// Real-time signals as glibc numbers them: the kernel's first two are its own.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// `TERM`, `SIGTERM`, `15`, `RTMIN+3`, `SIGRTMAX-1`; case does not matter.
pub(crate) fn parse_signal(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(SIGRTMIN),
        (_, Some("")) => Some(SIGRTMAX),
        (Some(offset), _) => Some(SIGRTMIN + i32::from(offset.strip_prefix('+')?.parse::<u8>().ok()?)),
        (_, Some(offset)) => Some(SIGRTMAX - i32::from(offset.strip_prefix('-')?.parse::<u8>().ok()?)),
        _ => None,
    };
    if let Some(number) = real_time {
        return (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number);
    }
    match name {
        "" => None,
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        _ => NAMES.iter().position(|known| *known == name).and_then(|number| i32::try_from(number).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in
            [("TERM", 15), ("sigkill", 9), ("SIGSYS", 31), ("10", 10), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("64", 64)]
        {
            assert_eq!(parse_signal(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "SIGNOPE", "0", "65", "-1", "RTMIN+40", "RTMAX-40"] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }
}
