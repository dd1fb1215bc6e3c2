//! How long the server may be silent about a request, given all that it does for us at the same time.
//!
//! The requests of all connections share one storage. Where that is slow, four PUTs of 8 MiB, or the flush of
//! a full journal, keep it busy for minutes, and each of them is silent meanwhile. A limit on the silence of
//! one request alone would give up work that goes on, and send it again on top of itself. So a request may be
//! silent for the usual time, and longer for what is at work with it ([`Load`]); and while others are
//! answered, the storage is alive, so the time counts from the last answer. Only a multiple of that limit is
//! final: a single connection may be stuck beside others that work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The work that prolongs the permitted silence by the usual time, in bytes: with the default of 60 s,
/// storage is accepted that writes 1 MiB/s in all.
const BYTES_PER_USUAL_TIME: u64 = 60 << 20;

/// Upper bound on the weight of a zero request, in bytes. Its length says nothing about the work; the disk
/// makes it long only where the last ones were answered at once.
pub(super) const MAX_ZERO_WEIGHT: u64 = 32 << 20;

/// Upper bound on the weight of a flush, in bytes: a connection's share of the journal and more.
pub(super) const MAX_FLUSH_WEIGHT: u64 = 256 << 20;

/// Upper bound on the silence about one request while others are answered, as a multiple of the limit.
const MAX_BESIDE_ANSWERS: u32 = 3;

/// The server's work for all connections of one image.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Weight in bytes of the requests at work.
    weight: AtomicU64,
    /// When the last of them was answered.
    answered: Mutex<Option<Instant>>,
}

/// A request that the storage is at work for, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Work {
    load: Arc<Load>,
    weight: u64,
}

impl Load {
    /// Notes that a request begins which moves about `weight` bytes on the storage.
    pub(super) fn begin(self: &Arc<Self>, weight: u64) -> Work {
        self.weight.fetch_add(weight, Ordering::Relaxed);
        Work {
            load: self.clone(),
            weight,
        }
    }

    /// Returns how much longer a request that has been silent `since` then may stay so. Alone it may be
    /// silent for `limit`; `usual` is the limit of an ordinary request.
    pub(super) fn left(&self, since: Instant, limit: Duration, usual: Duration) -> Duration {
        let now = Instant::now();
        let silent = now - since;
        let limit = self.limit(limit, usual);
        let answered = self.answered.lock().map_or(silent, |at| silent.min(now - at));
        let alone = limit.saturating_sub(answered);
        alone.min((limit * MAX_BESIDE_ANSWERS).saturating_sub(silent))
    }

    /// Returns the permitted silence, for a request that may be silent for `limit` alone.
    pub(super) fn limit(&self, limit: Duration, usual: Duration) -> Duration {
        let weight = self.weight.load(Ordering::Relaxed);
        limit + time_for(weight, usual)
    }
}

/// The time that the slowest storage which is accepted takes for so many bytes; `usual` is the limit of an
/// ordinary request.
pub(super) fn time_for(bytes: u64, usual: Duration) -> Duration {
    usual.mul_f64(bytes as f64 / BYTES_PER_USUAL_TIME as f64)
}

impl Work {
    /// Notes that the request was answered.
    pub(super) fn done(self) {
        *self.load.answered.lock() = Some(Instant::now());
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.load.weight.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_secs(60);

    #[test]
    fn a_request_waits_for_what_is_at_work_with_it() {
        let load = Arc::new(Load::default());
        let began = Instant::now();
        assert!(load.left(began, USUAL, USUAL) <= USUAL);
        let others: Vec<Work> = (0..4).map(|_| load.begin(30 << 20)).collect();
        assert_eq!(load.limit(USUAL, USUAL), 3 * USUAL);
        assert!(load.left(began, USUAL, USUAL) > 2 * USUAL);
        drop(others);
        assert_eq!(load.limit(USUAL, USUAL), USUAL);
    }

    #[test]
    fn answers_to_others_are_life_up_to_a_bound() {
        let load = Arc::new(Load::default());
        let limit = Duration::from_millis(1);
        let began = Instant::now();
        std::thread::sleep(2 * limit);
        assert_eq!(load.left(began, limit, limit), Duration::ZERO);
        let limit = Duration::from_secs(100);
        let Some(long_ago) = began.checked_sub(2 * limit) else {
            return;
        };
        assert_eq!(load.left(long_ago, limit, limit), Duration::ZERO);
        load.begin(1).done();
        assert!(
            load.left(long_ago, limit, limit) > limit / 2,
            "another was answered"
        );
        let Some(longer_ago) = began.checked_sub(3 * limit) else {
            return;
        };
        assert_eq!(load.left(longer_ago, limit, limit), Duration::ZERO, "it is stuck");
    }
}
