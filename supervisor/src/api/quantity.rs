//! Kubernetes quantities: `500m`, `2`, `64Mi`, `1e3`.

/// The number a quantity stands for; `None` if it is not one.
pub fn parse(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            10f64.powi(exponent)
        }
    };
    Some(number * factor).filter(|value| value.is_finite())
}

/// A quantity in whole units, rounded up: bytes of memory.
pub fn whole(text: &str) -> Option<i64> {
    parse(text).map(|value| value.ceil() as i64)
}

/// A quantity in thousandths, rounded up: millicores of CPU.
pub fn milli(text: &str) -> Option<i64> {
    // Rounding first hides that 0.1 has no exact binary form.
    parse(text).map(|value| ((value * 1e6).round() / 1e3).ceil() as i64)
}

/// A number of bytes as Kubernetes writes it: in the largest unit in which it is whole.
pub fn bytes_text(bytes: i64, binary: bool) -> String {
    let (step, units) =
        if binary { (1024, ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) } else { (1000, ["k", "M", "G", "T", "P", "E"]) };
    let (mut number, mut unit) = (bytes, "");
    for larger in units {
        if number == 0 || number % step != 0 {
            break;
        }
        (number, unit) = (number / step, larger);
    }
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_binary_and_decimal_suffixes() {
        for (text, expected) in [("64Mi", 67_108_864), ("1Gi", 1 << 30), ("2k", 2000), ("1e3", 1000), ("1.5", 2)] {
            assert_eq!(whole(text), Some(expected), "{text}");
        }
        for (text, expected) in [("500m", 500), ("2", 2000), ("0.1", 100), ("0.0001", 1)] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for (bytes, binary, expected) in [
            (1 << 30, true, "1Gi"),
            (1536 << 20, true, "1536Mi"),
            (2_000_000, false, "2M"),
            (1, true, "1"),
            (0, true, "0"),
        ] {
            assert_eq!(bytes_text(bytes, binary), expected);
        }
        for wrong in ["", "lots", "1Q", "--1", "1 Gi", "e5"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
