//! Sizes for people, in one form everywhere: that of imageio's own log (`humansize`), so that both sides of a
//! transfer can be compared line by line.

/// Returns a size in bytes in powers of 1024: `512 bytes`, `12.00 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            let decimals = if unit == "bytes" { 0 } else { 2 };
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.2} PiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_form_of_imageios_log() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.00 KiB"),
            (12 << 20, "12.00 MiB"),
            (3 << 29, "1.50 GiB"),
            (16 << 40, "16.00 TiB"),
            (u64::MAX, "16384.00 PiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }
}
