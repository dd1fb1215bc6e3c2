//! Who may talk on which connection: a bounded set of connections behind one mutex and one condvar.
//!
//! Threads queue in strict order of arrival. The one at the head waits until what it asks for is
//! free (one connection to read, one of the writing connections to write, or all of them at once to
//! flush) and then lets the next one try. So two flushes can't hold half of the connections each, a
//! stream of writes can't starve a flush, and a stream of flushes can't starve a write.
//!
//! A [`Lease`] goes back when it is dropped, also while its holder panics; then the connection
//! is thrown away, since nobody knows how far the conversation got.
//!
//! Each slot remembers whether its connection carried writes that no flush on *it* has covered. A
//! connection that dies with such writes takes the promise of durability with it. Then the slot gets a new
//! connection with a new generation, and the [`Replay`], which holds those writes still, sends them again; nobody
//! notices. Without a journal it is a loss, recorded once and for all ([`Pool::loss`]), and every later flush of the pool
//! fails.
//!
//! The journal hears of an answer, of a flush and of a loss while the connection's lease is held, so for each
//! connection in the order in which they happened.
//!
//! At most `writers` slots are ever leased for writing: a file backend advises one, since it
//! rewrites whole blocks without a lock.

mod flush;
mod keeper;
mod lease;
mod request;
mod retry;
mod statistics;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tracing::info;

pub(crate) use self::keeper::{Keeper, USUAL_TIMEOUT};
pub(crate) use self::lease::{Lease, Purpose};
pub(crate) use self::request::Answered;
pub(crate) use self::retry::Doubt;
pub(crate) use self::statistics::{ConnectionStatistics, Op};
use crate::remote::{Dial, Remote, RemoteError};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, thread};

/// Why the pool could not do what it was asked.
#[derive(Debug, Clone, Error)]
pub(crate) enum PoolError {
    /// The request failed, after whatever retries were allowed.
    #[error("{0}")]
    Request(#[from] RemoteError),
    /// Acknowledged writes were on a connection that is gone.
    #[error("{0}")]
    Loss(String),
    /// [`Pool::close_all`] was called.
    #[error("the connections are closed: the mount is ending")]
    Closed,
}

/// What was answered on a connection, is not known to be durable, and can be sent again. Called with the connection's
/// lease held, and from many threads.
pub(crate) trait Replay: Send + Sync {
    /// All that connection `slot` has answered is durable.
    fn durable(&self, slot: usize);
    /// Connection `slot` is gone: what it had answered since its last flush is to be sent again.
    fn replay(&self, slot: usize);
    /// The storage may have lost what any connection had answered since its last flush: all of it is to be sent again.
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
    /// Held by whoever flushes a single connection.
    flushing: Mutex<()>,
    /// Since when flushes have failed with none that did not: because the storage failed, and because there was no answer.
    flush_failing: Mutex<[Option<Instant>; 2]>,
    /// Since when no connection has got an answer.
    outage: Mutex<Option<Instant>>,
    loss: OnceLock<String>,
    replaced: AtomicU64,
}

struct State {
    slots: Vec<Slot>,
    queue: VecDeque<u64>,
    next_ticket: u64,
    closed: bool,
}

/// A place for one connection; `None` while it is leased.
type Slot = Option<Seat>;

struct Seat {
    remote: Option<Box<dyn Remote>>,
    /// Counts the connections that this slot has had; the first one is 1.
    generation: u64,
    /// Writes were sent on this connection and not flushed on it since.
    unflushed: bool,
    used: Instant,
}

impl Pool {
    /// A pool over `first` and `count - 1` further connections, dialled at once and in parallel, so
    /// that each is authorised before the server drops it. `count` and `writers` are at least 1. What fails for want of
    /// a connection is tried again for `retry_time`.
    pub(crate) fn open(
        dial: Arc<dyn Dial>,
        first: Box<dyn Remote>,
        count: usize,
        writers: usize,
        retry_time: Duration,
    ) -> Result<Arc<Pool>, RemoteError> {
        let count = count.max(1);
        let mut remotes = vec![first];
        thread::scope(|scope| {
            let dials: Vec<_> = (1..count).map(|_| scope.spawn(|| dial.dial())).collect();
            for dialled in dials {
                remotes.push(dialled.join().expect("dial does not panic")?);
            }
            Ok::<_, RemoteError>(())
        })?;
        let used = Instant::now();
        let seat = |remote| {
            Some(Seat {
                remote: Some(remote),
                generation: 1,
                unflushed: false,
                used,
            })
        };
        Ok(Arc::new(Pool {
            state: Mutex::new(State {
                slots: remotes.into_iter().map(seat).collect(),
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
        }))
    }

    /// From now on `journal` sends again what a lost connection took with it. Once, before the first change.
    pub(crate) fn replay_with(&self, replay: Arc<dyn Replay>) {
        let _ = self.replay.set(replay);
    }

    /// Number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.statistics.len()
    }

    /// Number of connections that may write at the same time.
    pub(crate) fn writers(&self) -> usize {
        self.writers
    }

    /// How many connections had to be replaced so far.
    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// What each connection did.
    pub(crate) fn statistics(&self) -> &[ConnectionStatistics] {
        &self.statistics
    }

    /// Why acknowledged writes may be lost, once they may be.
    pub(crate) fn loss(&self) -> Option<&str> {
        self.loss.get().map(String::as_str)
    }

    /// Waits until every lease is back, closes all connections and refuses new leases.
    pub(crate) fn close_all(&self) {
        if let Ok(mut state) = self.take_turn(|state| state.slots.iter().all(Slot::is_some)) {
            state.closed = true;
            for seat in state.slots.iter_mut().flatten() {
                seat.remote = None;
            }
            self.changed.notify_all();
        }
    }

    /// Waits for the head of the queue and for `ready`; the caller takes what it wants from the state.
    fn take_turn(&self, ready: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, PoolError> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(ticket);
        while !(state.closed || state.queue.front() == Some(&ticket) && ready(&state)) {
            self.changed.wait(&mut state);
        }
        state.queue.retain(|&waiting| waiting != ticket);
        // The next one in the queue may find what it wants free too.
        self.changed.notify_all();
        match state.closed {
            true => Err(PoolError::Closed),
            false => Ok(state),
        }
    }

    /// True when no connection is at work or was for `time`.
    fn is_quiet(&self, time: Duration) -> bool {
        let state = self.lock();
        let quiet = |slot: &Slot| slot.as_ref().is_some_and(|seat| seat.used.elapsed() >= time);
        state.slots.iter().all(quiet)
    }

    fn can_replay(&self) -> bool {
        self.replay.get().is_some()
    }

    /// How long a request is repeated that gets no answer.
    pub(crate) fn retry_time(&self) -> Duration {
        self.retry_time
    }

    fn set_loss(&self, loss: String) {
        if self.loss.set(loss.clone()).is_ok() {
            info!("{loss}");
        }
    }

    /// Since when no connection has got an answer, when none does.
    fn outage(&self) -> Option<Instant> {
        *lock(&self.outage)
    }

    fn note_outage<T>(&self, result: &Result<T, RemoteError>) {
        match result {
            Err(RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_)) => {
                lock(&self.outage).get_or_insert_with(Instant::now);
            }
            // Whatever was said, there is somebody who says it.
            Ok(_) | Err(_) => *lock(&self.outage) = None,
        }
    }

    fn check_loss(&self) -> Result<(), PoolError> {
        self.loss()
            .map_or(Ok(()), |why| Err(PoolError::Loss(why.to_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic can't leave the state half changed: nothing in a critical section panics.
        self.state.lock()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(all(test, feature = "shuttle"))]
mod schedules;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
