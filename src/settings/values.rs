//! How sizes, permissions and numbers of connections are written.

/// Upper bound on `--connections`: more help nobody, and servers advise 8.
const MAX_CONNECTIONS: i64 = 64;

/// A number of connections, from 1 to [`MAX_CONNECTIONS`].
pub(crate) fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(n) if (1..=MAX_CONNECTIONS).contains(&n) => Ok(n as usize),
        _ => Err(format!("it takes a number from 1 to {MAX_CONNECTIONS}")),
    }
}

/// Permission bits, octal.
pub(crate) fn parse_mode(text: &str) -> Result<u16, String> {
    let mode = u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "it takes an octal number up to 777".to_owned())
}

/// `4096`, `64k`, `32M`, `1.5G`, `2TiB`: powers of 1024, as qemu-img reads them.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || "it takes a size like 4096, 64k, 32M, 1.5G or 2T".to_owned();
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(refuse()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(refuse);
    }
    let value = number.parse::<f64>().map_err(|_| refuse())? * (1u64 << shift) as f64;
    if value.is_finite() && (0.0..9e18).contains(&value) {
        Ok(value as u64)
    } else {
        Err(refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("4096", 4096),
            ("64k", 65536),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
            ("1MB", 1 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(size));
        }
        for bad in ["", "k", "-1", "1x", "99999999T", "nan", "5ib", "1kbb", "1GiBiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
