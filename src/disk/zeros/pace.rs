//! The length of the next zero request, from the time that the last ones took.
//!
//! Zeroing a terabyte is one change of a table on some storage, and an hour of writing on other. The server
//! is silent until a request is done. So requests begin short, and grow as long as they are answered at once:
//! then few are needed where they are cheap, and each is done in a second or so where they are not. That
//! keeps time limits meaningful, lets reads and other writes pass between them, and makes little work to
//! repeat.

use std::time::Duration;

/// First length in bytes. Four of these take two minutes at 1 MiB/s, for which `imageio` has the patience.
const FIRST_BYTES: u64 = 32 << 20;

/// Lower bound in bytes.
const MIN_BYTES: u64 = 1 << 20;

/// Upper bound in bytes. Another server than imageio passes the length on in 32 bits.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

/// A request of full length that is answered within this time makes the next ones twice as long.
const SHORT: Duration = Duration::from_millis(500);

/// A request that takes longer than this makes the next ones half as long.
const LONG: Duration = Duration::from_secs(2);

/// The present length of zero requests.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes: u64,
}

impl Pace {
    /// Starts with requests of [`FIRST_BYTES`].
    pub(crate) fn new() -> Self {
        Pace { bytes: FIRST_BYTES }
    }

    /// Returns the upper bound on the next request, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that a request for `bytes` bytes took `time` in all.
    pub(crate) fn note(&mut self, bytes: u64, time: Duration) {
        // A shorter request, or one from before the last change, says nothing about the present length.
        if time <= SHORT && bytes == self.bytes {
            self.bytes = (2 * self.bytes).min(MAX_BYTES);
        } else if time > LONG && bytes <= self.bytes {
            self.bytes = (bytes.next_power_of_two() / 2).clamp(MIN_BYTES, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_grow_where_they_are_cheap_and_shrink_where_they_are_not() {
        let mut pace = Pace::new();
        for _ in 0..10 {
            pace.note(pace.bytes(), Duration::from_millis(20));
        }
        assert_eq!(pace.bytes(), MAX_BYTES);
        pace.note(64 << 10, Duration::ZERO);
        pace.note(MAX_BYTES, Duration::from_secs(1));
        assert_eq!(pace.bytes(), MAX_BYTES);
        // The four that were on their way together count once.
        for _ in 0..4 {
            pace.note(MAX_BYTES, Duration::from_secs(9));
        }
        assert_eq!(pace.bytes(), MAX_BYTES / 2);
        for _ in 0..20 {
            pace.note(pace.bytes(), Duration::from_secs(9));
        }
        assert_eq!(pace.bytes(), MIN_BYTES);
        pace.note(pace.bytes(), Duration::ZERO);
        assert_eq!(pace.bytes(), 2 * MIN_BYTES);
    }
}
