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
//! connection with a new generation, and the [`Journal`], which holds those writes still, sends them again; nobody
//! notices. Without a journal it is a loss, recorded once and for all ([`Pool::loss`]), and every later flush of the pool
//! fails.
//!
//! The journal hears of an answer, of a flush and of a loss while the connection's lease is held, so for each
//! connection in the order in which they happened.
//!
//! At most `writers` slots are ever leased for writing: a file backend advises one, since it
//! rewrites whole blocks without a lock.

mod keeper;
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
pub(crate) use self::request::Answered;
pub(crate) use self::retry::Doubt;
pub(crate) use self::statistics::{Clock, Op};
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
pub(crate) trait Journal: Send + Sync {
    /// All that connection `slot` has answered is durable.
    fn flushed(&self, slot: usize);
    /// Connection `slot` is gone: what it had answered since its last flush is to be sent again.
    fn lost(&self, slot: usize);
    /// The storage may have lost what any connection had answered since its last flush: all of it is to be sent again.
    fn lost_all(&self);
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Any connection.
    Read,
    /// One of the writing connections.
    Write,
}

/// The connections of one disk.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    dial: Arc<dyn Dial>,
    clocks: Vec<Clock>,
    writers: usize,
    retry_time: Duration,
    journal: OnceLock<Arc<dyn Journal>>,
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
            clocks: (0..count).map(|_| Clock::start()).collect(),
            writers: writers.clamp(1, count),
            retry_time,
            journal: OnceLock::new(),
            flushing: Mutex::new(()),
            flush_failing: Mutex::new([None; 2]),
            outage: Mutex::new(None),
            loss: OnceLock::new(),
            replaced: AtomicU64::new(0),
        }))
    }

    /// From now on `journal` sends again what a lost connection took with it. Once, before the first change.
    pub(crate) fn keep_journal(&self, journal: Arc<dyn Journal>) {
        let _ = self.journal.set(journal);
    }

    /// Number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.clocks.len()
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
    pub(crate) fn clocks(&self) -> &[Clock] {
        &self.clocks
    }

    /// Why acknowledged writes may be lost, once they may be.
    pub(crate) fn loss(&self) -> Option<&str> {
        self.loss.get().map(String::as_str)
    }

    /// Waits for a connection that is free for `access`.
    pub(crate) fn lease(&self, access: Access) -> Result<Lease<'_>, PoolError> {
        // Readers take the slots from the end, away from the writers' ones.
        let free = move |state: &State, writers: usize| match access {
            Access::Read => state.slots.iter().rposition(Slot::is_some),
            Access::Write => state.slots[..writers].iter().position(Slot::is_some),
        };
        let mut state = self.take_turn(|state| free(state, self.writers).is_some())?;
        let index = free(&state, self.writers).expect("take_turn waited for it");
        let seat = state.slots[index].take().expect("it is free");
        Ok(Lease {
            pool: self,
            index,
            seat: Some(seat),
        })
    }

    /// Waits until no connection is in use and takes them all.
    pub(crate) fn lock_all(&self) -> Result<Vec<Lease<'_>>, PoolError> {
        let mut state = self.take_turn(|state| state.slots.iter().all(Slot::is_some))?;
        let taken = state.slots.iter_mut().map(Option::take).enumerate();
        Ok(taken
            .map(|(index, seat)| Lease {
                pool: self,
                index,
                seat,
            })
            .collect())
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

    /// Takes the connection of slot `index` if nobody used it for `idle` and it is free now, also ahead of a
    /// flush that waits for all of them: a request that hangs elsewhere must not let this one idle out.
    fn lease_idle(&self, index: usize, idle: Duration) -> Option<Lease<'_>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let seat = state.slots[index].take_if(|seat| seat.used.elapsed() >= idle)?;
        Some(Lease {
            pool: self,
            index,
            seat: Some(seat),
        })
    }

    /// True when no connection is at work or was for `time`.
    fn is_quiet(&self, time: Duration) -> bool {
        let state = self.lock();
        let quiet = |slot: &Slot| slot.as_ref().is_some_and(|seat| seat.used.elapsed() >= time);
        state.slots.iter().all(quiet)
    }

    fn has_journal(&self) -> bool {
        self.journal.get().is_some()
    }

    /// How long a request is repeated that gets no answer.
    pub(crate) fn retry_time(&self) -> Duration {
        self.retry_time
    }

    /// A flush has failed; returns since when they do for such a reason.
    fn flush_failed(&self, error: &RemoteError) -> Instant {
        let reason = usize::from(!matches!(error, RemoteError::Failed(_)));
        *lock(&self.flush_failing)[reason].get_or_insert_with(Instant::now)
    }

    /// Whatever has failed before has nothing to do with what comes.
    fn flushes_start_anew(&self) {
        *lock(&self.flush_failing) = [None; 2];
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

    fn flushed(&self, slot: usize) {
        self.flushes_start_anew();
        if let Some(journal) = self.journal.get() {
            journal.flushed(slot);
        }
    }

    /// The storage may have lost whatever it had not flushed.
    fn lost_all(&self, why: &str) {
        if let Some(journal) = self.journal.get() {
            info!("all that is not flushed is written again: {why}");
            journal.lost_all();
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

/// One connection, borrowed.
pub(crate) struct Lease<'a> {
    pool: &'a Pool,
    index: usize,
    seat: Option<Seat>,
}

impl Lease<'_> {
    /// Which slot this is, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Counts the connections that the slot has had.
    #[cfg(all(test, not(feature = "shuttle")))]
    fn generation(&self) -> u64 {
        self.seat().generation
    }

    fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("the seat is taken in drop only")
    }

    fn seat_mut(&mut self) -> &mut Seat {
        self.seat.as_mut().expect("the seat is taken in drop only")
    }

    /// Ends the slot's connection. What it carried and did not flush is written again; without a journal that is a loss,
    /// for `why`.
    fn give_up_connection(&mut self, why: &str) {
        let connection = self.index + 1;
        let seat = self.seat_mut();
        let unflushed = std::mem::take(&mut seat.unflushed);
        let had_one = seat.remote.take().is_some();
        match (unflushed, self.pool.journal.get()) {
            (true, Some(journal)) => {
                info!(
                    connection,
                    "connection ended, its unflushed writes are written again: {why}"
                );
                journal.lost(self.index);
            }
            (true, None) => {
                let loss = format!(
                    "connection {connection} ended before the writes that it carried were flushed: {why}; \
                     data may be lost, write the image again"
                );
                self.pool.set_loss(loss);
            }
            (false, _) if had_one => info!(connection, "connection ended with nothing unflushed: {why}"),
            (false, _) => {}
        }
    }

    /// The connection, dialled anew when the last one was given up.
    fn remote(&mut self) -> Result<&mut Box<dyn Remote>, RemoteError> {
        if self.seat().remote.is_none() {
            let remote = self.pool.dial.dial()?;
            self.pool.replaced.fetch_add(1, Ordering::Relaxed);
            let index = self.index;
            let seat = self.seat_mut();
            seat.remote = Some(remote);
            seat.generation += 1;
            info!(
                connection = index + 1,
                generation = seat.generation,
                "connection replaced"
            );
        }
        Ok(self.seat_mut().remote.as_mut().expect("just made sure"))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_up_connection("internal error in the middle of a request");
        }
        let Some(mut seat) = self.seat.take() else { return };
        seat.used = Instant::now();
        self.pool.lock().slots[self.index] = Some(seat);
        self.pool.changed.notify_all();
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod schedules;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
