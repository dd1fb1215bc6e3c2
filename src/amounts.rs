//! Sizes, numbers and times for people, in one form everywhere. That of sizes is imageio's own (`humansize`),
//! so that both sides of a transfer can be compared line by line.

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

/// Returns a number of things, each a `one`: `1 file`, `3 files`.
pub(crate) fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// Returns a time in its two largest units: `38 s`, `12 min 5 s`, `3 h 20 min`.
pub(crate) fn time(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{hours} h {} min", minutes % 60),
    }
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

    #[test]
    fn one_thing_is_not_several() {
        let shown = [0, 1, 2].map(|number| count(number, "file"));
        assert_eq!(shown, ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn times_have_two_units_at_most() {
        let shown = [0, 59, 60, 725, 3600, 12_059].map(time);
        assert_eq!(
            shown,
            [
                "0 s",
                "59 s",
                "1 min 0 s",
                "12 min 5 s",
                "1 h 0 min",
                "3 h 20 min"
            ]
        );
    }
}
