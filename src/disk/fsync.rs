//! fsync, close and drain: making acknowledged writes durable, and reporting whether they are.
//!
//! A round drains the write-behind and then flushes every connection, one round at a time. It covers the
//! threads that arrived before it *began*. Threads that arrive while it runs wait for the next round, which
//! one of them leads for all of them. So n threads in fsync cost two rounds, not n, and no thread relies on a
//! round that began before its write.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::debug;

use super::{Disk, DiskError};
use crate::pool::PoolError;
use crate::sync::atomic::Ordering;
use crate::sync::{Condvar, Instant, Mutex};

/// Rounds of an fsync without any progress that are allowed even if they take longer than the retry time: a
/// slow line takes that long to send all of the journal again.
const MIN_STUCK_ROUNDS: u32 = 3;

impl Disk {
    /// Waits until the server has answered every acknowledged write (`close(2)`).
    pub(crate) fn drain(&self) -> Result<(), DiskError> {
        if self.options.read_only {
            return Ok(());
        }
        self.writes.drain()?;
        self.verdict()
    }

    /// Makes every acknowledged write durable (`fsync(2)`).
    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        if self.options.read_only {
            return Ok(());
        }
        // The kernel holds the inode's lock during an fsync, so those of one file come one after the other.
        // Sharing therefore mostly means this: writes that an earlier round covered need no other round.
        let mark = self.writes.last_seq();
        if self.flushed.load(Ordering::Acquire) >= mark {
            return self.verdict();
        }
        let round = || {
            let mark = self.writes.last_seq();
            catch_unwind(AssertUnwindSafe(|| self.make_durable(mark))).unwrap_or_else(|_| {
                self.writes.fail("internal error in a flush".into());
                self.verdict()
            })?;
            self.flushed.fetch_max(mark, Ordering::Release);
            Ok(())
        };
        let shared = || {
            self.verdict()?;
            // Without an error of the disk, a round that ends short of the mark was cut short by the close.
            match self.flushed.load(Ordering::Acquire) >= mark {
                true => Ok(()),
                false => Err(DiskError::Closing),
            }
        };
        self.rounds.join(round, shared)
    }

    /// Waits until every write numbered up to `mark` is durable; without any progress, for about the retry
    /// time.
    fn make_durable(&self, mark: u64) -> Result<(), DiskError> {
        let (mut stuck, mut rounds) = ((None, Instant::now()), 0);
        loop {
            self.writes.drain()?;
            match self.pool.flush_all() {
                Ok(()) => {}
                // This is no loss: the close has flushed before, and reports the outcome.
                Err(PoolError::Closed) => return Err(DiskError::Closing),
                Err(e) => self.writes.fail(e.to_string()),
            }
            self.verdict()?;
            // When a connection was lost meanwhile, its writes must be sent and flushed again.
            let oldest = self.writes.oldest();
            if oldest.is_none_or(|oldest| oldest > mark) {
                return Ok(());
            }
            rounds += 1;
            if oldest != stuck.0 {
                (stuck, rounds) = ((oldest, Instant::now()), 0);
            } else if rounds >= MIN_STUCK_ROUNDS && stuck.1.elapsed() > self.pool.retry_time() {
                self.writes.fail(
                    "connections are lost again and again before their writes are flushed; data may be lost, \
                     write the image again"
                        .into(),
                );
            }
        }
    }

    /// Refuses further writes, makes the acknowledged ones durable, ends the threads and closes the
    /// connections. The result is final: `Ok` means that every acknowledged byte is durable.
    pub(crate) fn close(&self) -> Result<(), DiskError> {
        self.writes.refuse_writes();
        let flushed = self.flush();
        if flushed.is_ok() {
            self.look_at_stored_head();
        }
        self.writes.stop();
        self.pool.close_all();
        let flushed = flushed.and_then(|()| self.verdict());
        debug!(ok = flushed.is_ok(), "disk closed");
        flushed
    }

    /// Fails if acknowledged bytes may be lost, be it by the pool's account or the disk's own.
    pub(super) fn verdict(&self) -> Result<(), DiskError> {
        match self.pool.loss() {
            Some(loss) if self.writes.failure().is_none() => self.writes.fail(loss.to_owned()),
            _ => {}
        }
        self.writes.check()
    }
}

/// Numbers of rounds; at most one runs, so `ended` is `begun` or one less.
#[derive(Debug, Default)]
struct Rounds {
    begun: u64,
    ended: u64,
}

/// Lets threads share rounds of flushes.
#[derive(Debug, Default)]
pub(super) struct SharedRounds {
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

impl SharedRounds {
    /// Returns after a round that began after this call. The thread that leads it gets the result of `round`,
    /// the others that of `verdict`: a failed round leaves a sticky failure behind, so each waiter can ask
    /// for itself.
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
