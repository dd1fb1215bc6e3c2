//! How many requests a connection lives for, where a server or a proxy ends each after some number of them.
//!
//! A write is durable once a flush on its own connection is answered. A connection that ends before that has
//! its writes sent again, which helps nobody when the next one ends as early: with two requests for each
//! connection, OPTIONS and a PUT, there is never a flush. So the writes near the expected end of a connection
//! carry a flush of their own ([`Remote::set_durable`](crate::remote::Remote::set_durable)).
//!
//! The expectation is the life of the last connection that ended, while it was idle or with an announcement,
//! under writes that were not flushed. Longer lives need none of this: they cost some repetition, which the
//! shrinking share of the journal bounds.
//!
//! A connection that has reached its expected life is tried out before it carries a further write, by a
//! request that loses nothing when it fails. If it is answered, the next ones are expected to live as long.
//! Once one has lived much longer than the one that ended early, the expectation is dropped.

use tracing::{info, warn};

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Longest life, in requests, that is expected to repeat.
const MAX_SHORT_LIFE: u64 = 64;

/// A connection that lives for so many requests more than twice its expected life ends the expectation.
const LONG_LIFE_EXCESS: u64 = 8;

/// The requests before the expected end that carry a flush if they are writes: the last one, and one more in
/// case a read is the last.
const LAST_REQUESTS: u64 = 2;

/// The expected life of the connections of one pool.
#[derive(Debug, Default)]
pub(super) struct Lifespan {
    /// In answered requests after the dial; 0 without an expectation.
    expected: AtomicU64,
    /// The life of the last connection that ended under unflushed writes.
    shortest: AtomicU64,
    told: AtomicBool,
    /// Number of writes that carried a flush and were answered.
    durable_writes: AtomicU64,
}

impl Lifespan {
    /// Notes that a connection has ended after `answers` requests; `unflushed` when its end has cost writes
    /// that no flush had covered.
    pub(super) fn ended(&self, answers: u64, unflushed: bool) {
        if !(1..=MAX_SHORT_LIFE).contains(&answers) {
            return;
        }
        if unflushed {
            self.shortest.store(answers, Ordering::Relaxed);
            self.expected.store(answers, Ordering::Relaxed);
            return;
        }
        // This end was expected, so it is the rule here, and not an accident of the network.
        let confirmed = self.is_short(answers) && self.durable_writes() > 0;
        if confirmed && !self.told.swap(true, Ordering::Relaxed) {
            warn!(
                "the server, or a proxy before it, ends connections after a few requests ({answers}); writes \
                 are flushed one by one where a connection may end before its flush, which is slower"
            );
        }
    }

    /// Returns true when a write on a connection that has answered `answers` requests has to carry a flush.
    pub(super) fn is_short(&self, answers: u64) -> bool {
        match self.expected.load(Ordering::Relaxed) {
            0 => false,
            expected => answers + LAST_REQUESTS >= expected,
        }
    }

    /// Returns true when a connection that has answered `answers` requests is expected to have ended.
    pub(super) fn is_spent(&self, answers: u64) -> bool {
        let expected = self.expected.load(Ordering::Relaxed);
        expected > 0 && answers >= expected
    }

    /// Notes that a connection has answered `answers` requests and lives.
    pub(super) fn lives(&self, answers: u64) {
        let expected = self.expected.load(Ordering::Relaxed);
        if expected == 0 || answers <= expected {
            return;
        }
        let long = answers > 2 * self.shortest.load(Ordering::Relaxed) + LONG_LIFE_EXCESS;
        self.expected
            .store(if long { 0 } else { answers }, Ordering::Relaxed);
        if long {
            info!("connections live for more than {answers} requests again");
        }
    }

    /// Counts a write that was durable with its answer.
    pub(super) fn count(&self) {
        self.durable_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of these writes.
    pub(super) fn durable_writes(&self) -> u64 {
        self.durable_writes.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn the_last_requests_of_a_short_life_carry_a_flush_until_one_lives_long() {
        let lifespan = Lifespan::default();
        assert!(!lifespan.is_short(0) && !lifespan.is_short(1000));
        lifespan.ended(5, true);
        let short: Vec<u64> = (0..8).filter(|answers| lifespan.is_short(*answers)).collect();
        assert_eq!(short, [3, 4, 5, 6, 7], "also beyond the expected end");
        assert!(lifespan.is_spent(5) && !lifespan.is_spent(4));
        lifespan.lives(18);
        assert!(lifespan.is_short(16) && !lifespan.is_spent(17));
        lifespan.lives(19);
        assert!(!lifespan.is_short(19));
        lifespan.ended(1, true);
        assert!(lifespan.is_short(0), "the first one is the last");
        lifespan.lives(11);
        lifespan.ended(1000, true);
        assert!(!lifespan.is_short(999), "such a life is long enough");
    }
}
