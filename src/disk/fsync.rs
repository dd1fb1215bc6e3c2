//! fsync: one round at a time, shared by everybody who waits.
//!
//! A round drains the write-behind and then flushes every connection. It covers whoever arrived before
//! it *began*; who arrives while a round runs waits for the next one, which one of the waiters leads
//! for all of them. So n threads in fsync cost two rounds, not n, and none is told
//! of durability by a round that began before its write.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::DiskError;
use crate::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
struct Rounds {
    begun: u64,
    ended: u64,
}

/// Lets threads share rounds of some expensive work.
#[derive(Debug, Default)]
pub(super) struct SharedRounds {
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

impl SharedRounds {
    /// Returns after a round that began after this call; `verdict` says how the disk stands then. A
    /// round that failed leaves a sticky failure behind, so each waiter may ask for itself.
    pub(super) fn join(
        &self,
        round: impl FnOnce() -> Result<(), DiskError>,
        verdict: impl FnOnce() -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let mut rounds = self.rounds.lock();
        let mine = rounds.begun + 1;
        loop {
            if rounds.ended >= mine {
                drop(rounds);
                return verdict();
            }
            if rounds.begun == rounds.ended {
                break;
            }
            self.ended.wait(&mut rounds);
        }
        rounds.begun += 1;
        drop(rounds);
        let result = catch_unwind(AssertUnwindSafe(round));
        let mut rounds = self.rounds.lock();
        rounds.ended = rounds.begun;
        drop(rounds);
        self.ended.notify_all();
        result.unwrap_or_else(|_| Err(DiskError::Failed("internal error in a flush".into())))
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn waiters_share_a_round_that_began_after_they_came() {
        let shared = Arc::new(SharedRounds::default());
        let rounds = Arc::new(AtomicU64::new(0));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let covered = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let mine = acknowledged.fetch_add(1, Ordering::SeqCst) + 1;
                        let round = || {
                            let seen = acknowledged.load(Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(2));
                            covered.fetch_max(seen, Ordering::SeqCst);
                            rounds.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        };
                        shared.join(round, || Ok(())).unwrap();
                        assert!(covered.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(
            rounds.load(Ordering::SeqCst) < 8 * 20 / 2,
            "{rounds:?} rounds for 160 calls"
        );
    }
}
