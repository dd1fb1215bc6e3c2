//! A bounded set of connections, shared by all threads behind one mutex and one condition variable.
//!
//! Threads queue in strict order of arrival; only a keep-alive takes an idle connection out of turn. The
//! thread at the head waits until the connections that it asks for are free (one connection to read, one of
//! the writing connections to write, or all of them at once to flush); then the next one is at the head. So
//! two flushes can't hold half of the connections each, a stream of writes can't starve a flush, and a stream
//! of flushes can't starve a write.
//!
//! A [`Lease`] returns its connection when it is dropped, also while its holder panics; in that case the
//! connection is closed, since nobody knows how far the exchange got.
//!
//! Each slot remembers whether its connection carried writes that no flush on *it* has covered. A connection
//! that dies with such writes takes the promise of durability with it. The slot then gets a new connection
//! with a new generation, and [`Replay`], which still holds those writes, sends them again without anybody
//! noticing. Without a replay this is a loss, recorded for good ([`Pool::loss`]): every later flush of the
//! pool fails.
//!
//! The journal behind [`Replay`] learns of answers, flushes and losses while the lease of the connection is
//! held, so for each connection in the order in which they happened.
//!
//! At most `writers` slots are ever leased for writing: a file backend advertises one writer, since it
//! rewrites whole blocks without a lock.
//!
//! ```text
//! opening     the first connections
//! lease       borrowing one connection, giving it up, dialling anew
//! request     one request and its repetitions
//! flush       flushing one or all connections, and what a failed flush means
//! retry       how long a request is repeated, and what a failed attempt leaves behind
//! overlap     flushes at the same time, none of which is believed before all are answered
//! lifespan    connections that end after a few requests
//! sizes       how large a request should be
//! keeper      keep-alive threads
//! statistics  counters of each connection
//! ```

mod flush;
mod keeper;
mod lease;
mod lifespan;
mod opening;
mod overlap;
mod request;
mod retry;
mod sizes;
mod statistics;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tracing::{info, warn};

pub(crate) use self::keeper::{Keeper, USUAL_TIMEOUT};
pub(crate) use self::lease::{Lease, Purpose};
use self::lifespan::Lifespan;
use self::overlap::Overlaps;
pub(crate) use self::request::Answered;
pub(crate) use self::retry::Doubt;
use self::sizes::Sizes;
pub(crate) use self::statistics::{ConnectionStatistics, Figures, Op, OpFigures};
use crate::failure::{Exit, Failure};
use crate::remote::{Dial, Remote, RemoteError};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

/// The failures of a request to the pool.
#[derive(Debug, Clone, Error)]
pub(crate) enum PoolError {
    /// The request failed, and may not be repeated any more.
    #[error("{0}")]
    Request(#[from] RemoteError),
    /// A connection was lost with acknowledged writes that were not flushed.
    #[error("{0}")]
    Loss(String),
    /// [`Pool::close_all`] has been called.
    #[error("the connections are closed: the mount is ending")]
    Closed,
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Request(error) => error.into(),
            PoolError::Loss(_) => Failure::new(Exit::DataLoss, error),
            PoolError::Closed => Failure::new(Exit::Other, error),
        }
    }
}

/// Holds the writes that were answered and are not known to be durable, and can send them again.
///
/// The pool calls it from many threads, always with the lease of a connection held.
pub(crate) trait Replay: Send + Sync {
    /// Every write that connection `slot` has answered is durable.
    fn durable(&self, slot: usize);
    /// Connection `slot` is gone: the writes answered on it since its last flush have to be sent again.
    fn replay(&self, slot: usize);
    /// The storage may have lost writes: those answered on any connection since its last flush have to be
    /// sent again.
    fn replay_all(&self);
}

/// The connections of one disk.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    dial: Arc<dyn Dial>,
    statistics: Vec<ConnectionStatistics>,
    writers: usize,
    retry_time: Duration,
    replay: OnceLock<Arc<dyn Replay>>,
    /// Held while a single connection is flushed.
    flushing: Mutex<()>,
    /// Since when flushes have failed without a success between: those that the storage failed, and those
    /// without an answer.
    flush_failing: Mutex<[Option<Instant>; 2]>,
    /// Since when no connection has received an answer.
    outage: Mutex<Option<Outage>>,
    loss: OnceLock<String>,
    replaced: AtomicU64,
    lifespan: Lifespan,
    overlaps: Overlaps,
    sizes: Sizes,
}

struct State {
    slots: Vec<Slot>,
    /// The slots whose first connection is being made.
    opening: Vec<bool>,
    queue: VecDeque<u64>,
    next_ticket: u64,
    closed: bool,
}

impl State {
    /// True when no connection is leased; one that is being made has carried nothing.
    fn all_are_back(&self) -> bool {
        let mut slots = self.slots.iter().zip(&self.opening);
        slots.all(|(slot, opening)| slot.is_some() || *opening)
    }
}

/// A time without any answer.
struct Outage {
    since: Instant,
    /// The user was told of it.
    told: bool,
}

/// An outage of this length is told: a connection that breaks for a moment is nobody's business.
const OUTAGE_TOLD_AFTER: Duration = Duration::from_secs(1);

/// A place for one connection; `None` while it is leased.
type Slot = Option<Seat>;

/// A connection in its slot, or in the lease that borrowed it.
struct Seat {
    /// `None` after the connection was given up; the next request dials.
    remote: Option<Box<dyn Remote>>,
    /// Number of the connection within this slot; the first one is 1, and 0 means that none was made yet.
    generation: u64,
    /// Writes were sent on this connection and not flushed on it since.
    unflushed: bool,
    /// Number of answers on this connection since the dial.
    answers: u64,
    /// The last change was durable when it was answered.
    durable: bool,
    used: Instant,
}

impl Seat {
    /// False while no connection could be made in this slot.
    fn is_made(&self) -> bool {
        self.generation > 0
    }

    fn new(remote: Option<Box<dyn Remote>>) -> Self {
        Seat {
            generation: u64::from(remote.is_some()),
            remote,
            unflushed: false,
            answers: 0,
            durable: false,
            used: Instant::now(),
        }
    }
}

impl Pool {
    /// Opens a pool over `first` and `count - 1` further connections. Those are dialled at once, each in a
    /// thread, so that the server authorises all of them early; nobody waits for them. One that can't be made
    /// carries no request before the keeper has made it. `count` and `writers` are raised to at least 1. A
    /// request that gets no answer is repeated for `retry_time`.
    pub(crate) fn open(
        dial: Arc<dyn Dial>,
        first: Box<dyn Remote>,
        count: usize,
        writers: usize,
        retry_time: Duration,
    ) -> Arc<Pool> {
        let count = count.max(1);
        let mut slots: Vec<Slot> = (0..count).map(|_| None).collect();
        slots[0] = Some(Seat::new(Some(first)));
        let pool = Arc::new(Pool {
            state: Mutex::new(State {
                slots,
                opening: (0..count).map(|index| index > 0).collect(),
                queue: VecDeque::new(),
                next_ticket: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            dial,
            statistics: (0..count).map(|_| ConnectionStatistics::start()).collect(),
            writers: writers.clamp(1, count),
            retry_time,
            replay: OnceLock::new(),
            flushing: Mutex::new(()),
            flush_failing: Mutex::new([None; 2]),
            outage: Mutex::new(None),
            loss: OnceLock::new(),
            replaced: AtomicU64::new(0),
            lifespan: Lifespan::default(),
            overlaps: Overlaps::default(),
            sizes: Sizes::default(),
        });
        (1..count).for_each(|index| opening::dial(&pool, index));
        pool
    }

    /// Has `replay` send again the writes of lost connections. Called once, before the first change.
    pub(crate) fn replay_with(&self, replay: Arc<dyn Replay>) {
        let _ = self.replay.set(replay);
    }

    /// Returns the number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.statistics.len()
    }

    /// Returns the size in bytes that a large request for data should have now, at most `most`.
    pub(crate) fn request_size(&self, op: Op, most: u64) -> u64 {
        self.sizes.size(op, most)
    }

    /// Returns how many connections may write at the same time.
    pub(crate) fn writers(&self) -> usize {
        self.writers
    }

    /// Returns how many connections have been replaced so far.
    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Returns how many changes were flushed one by one, since connections end early.
    pub(crate) fn durable_writes(&self) -> u64 {
        self.lifespan.durable_writes()
    }

    /// Returns the counters of each slot, in order.
    pub(crate) fn statistics(&self) -> &[ConnectionStatistics] {
        &self.statistics
    }

    /// Returns the number below which no request can be performed any more; see [`Dial::retired`].
    pub(crate) fn retired(&self) -> u64 {
        self.dial.retired()
    }

    /// Returns the number of the present right to the image.
    pub(crate) fn epoch(&self) -> u64 {
        self.dial.epoch()
    }

    /// Ends every request that was made with the right of `epoch` or an older one, by getting another; false
    /// where that can't be had. Blocks for as long as a request may be repeated. What is not flushed yet is
    /// sent again then.
    pub(crate) fn retire_requests(&self, epoch: u64) -> bool {
        self.can_replay() && self.dial.retire(epoch, self.renewal_wait())
    }

    /// Returns why acknowledged writes may be lost, if they may be.
    pub(crate) fn loss(&self) -> Option<&str> {
        self.loss.get().map(String::as_str)
    }

    /// Waits until every lease is back, closes all connections and refuses new leases.
    pub(crate) fn close_all(&self) {
        if let Ok(mut state) = self.take_turn(State::all_are_back) {
            state.closed = true;
            for seat in state.slots.iter_mut().flatten() {
                seat.remote = None;
            }
            self.changed.notify_all();
        }
    }

    /// Waits until this thread is at the head of the queue and `ready` holds; the caller then takes its slots
    /// from the state.
    fn take_turn(&self, ready: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, PoolError> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        while !(state.closed || state.queue.front() == Some(&ticket) && ready(&state)) {
            self.changed.wait(&mut state);
        }
        state.queue.retain(|&waiting| waiting != ticket);
        // The next thread in the queue may find its connections free as well.
        self.changed.notify_all();
        match state.closed {
            true => Err(PoolError::Closed),
            false => Ok(state),
        }
    }

    /// True when no connection is in use or was used within `time`.
    fn is_quiet(&self, time: Duration) -> bool {
        let state = self.lock();
        let quiet = |slot: &Slot| slot.as_ref().is_none_or(|seat| seat.used.elapsed() >= time);
        state.all_are_back() && state.slots.iter().all(quiet)
    }

    fn can_replay(&self) -> bool {
        self.replay.get().is_some()
    }

    /// Returns how long a request without an answer is repeated.
    pub(crate) fn retry_time(&self) -> Duration {
        self.retry_time
    }

    fn set_loss(&self, loss: String) {
        if self.loss.set(loss.clone()).is_ok() {
            info!("{loss}");
        }
    }

    /// Returns since when no connection has received an answer; `None` while there are answers.
    fn outage(&self) -> Option<Instant> {
        self.outage.lock().as_ref().map(|outage| outage.since)
    }

    /// Returns how long no connection has received an answer, where that is worth telling.
    pub(crate) fn unanswered(&self) -> Option<Duration> {
        let passed = self.outage().map(|since| since.elapsed());
        passed.filter(|passed| *passed >= OUTAGE_TOLD_AFTER)
    }

    /// Tells the user once of an outage that lasts, after a request has failed with `error`.
    fn tell_outage(&self, error: &RemoteError) {
        let mut outage = self.outage.lock();
        let Some(outage) = outage.as_mut().filter(|outage| !outage.told) else {
            return;
        };
        let passed = outage.since.elapsed();
        if passed >= OUTAGE_TOLD_AFTER {
            outage.told = true;
            warn!(
                "no answer for {} s; requests are repeated, and fail in {} s (--retry-time {}): {error}",
                passed.as_secs(),
                self.retry_time.saturating_sub(passed).as_secs(),
                self.retry_time.as_secs()
            );
        }
    }

    fn note_outage<T>(&self, result: &Result<T, RemoteError>) {
        match result {
            Err(RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_)) => {
                self.outage.lock().get_or_insert_with(|| Outage {
                    since: Instant::now(),
                    told: false,
                });
            }
            Err(RemoteError::Over(_)) => {}
            // Any answer, even a refusal, shows that the server is there.
            Ok(_) | Err(_) => {
                let over = self.outage.lock().take();
                if let Some(Outage { since, told: true }) = over {
                    warn!("the server is back after {} s", since.elapsed().as_secs());
                }
            }
        }
    }

    fn check_loss(&self) -> Result<(), PoolError> {
        self.loss()
            .map_or(Ok(()), |why| Err(PoolError::Loss(why.to_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod schedules;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
