//! Flushing one connection or all of them, and what a failed flush means.
//!
//! A failed flush is about more than its connection: the storage reports a loss once, to whichever flush
//! comes first. So after a 5xx all writes that are not known to be durable are sent again, whichever
//! connection carried them; and also after a flush without an answer, since the missing answer may have been
//! that report. While one flush may have reported a loss, the success of another one beside it proves
//! nothing.

use std::time::Duration;

use tracing::info;

use super::overlap::tells_of_a_loss;
use super::request::Attempt;
use super::retry::{MIN_RENEWAL_WAIT, is_hopeless};
use super::{Lease, Op, Pool, PoolError};
use crate::remote::RemoteError;
use crate::sync::{Instant, Mutex, thread};

/// The result of a flush; `Ok(false)` when the slot had no connection, and so nothing to flush.
type Flushed = Result<bool, Attempt>;

impl Pool {
    /// Flushes every connection. The caller has made sure that the writes to be covered were answered. With a
    /// [`Replay`](super::Replay), only that knows afterwards what is durable: a lost connection had nothing
    /// to flush.
    pub(crate) fn flush_all(&self) -> Result<(), PoolError> {
        let mut leases = self.lock_all()?;
        // A connection that was being made may carry changes, and be flushed, before this ends.
        let alone = self.flushing.lock();
        let overlap = self.overlaps.begin();
        let slots: Vec<Mutex<&mut Lease<'_>>> = leases.iter_mut().map(Mutex::new).collect();
        let flush = |n: usize| slots[n].lock().flush_once();
        let flushed: Result<Vec<Flushed>, ()> = thread::scope(|scope| {
            let spawn = |n| thread::spawn_scoped(scope, move || flush(n)).ok();
            let spawned: Vec<_> = (1..slots.len()).map(spawn).collect();
            let first = flush(0);
            let joined = (1..).zip(spawned).map(|(n, spawned)| match spawned {
                Some(thread) => thread.join().map_err(|_| ()),
                // Without a thread, this slot is flushed after the first one.
                None => Ok(flush(n)),
            });
            [Ok(first)].into_iter().chain(joined).collect()
        });
        drop(slots);
        let Ok(flushed) = flushed else {
            // Nobody knows how far each exchange got.
            for lease in &mut leases {
                lease.give_up_connection("internal error in a flush");
            }
            return Err(PoolError::Loss(
                "a flush ended in an internal error; data may be lost".into(),
            ));
        };
        let failed = flushed.iter().find_map(Lease::report_of_a_loss);
        if let Some(why) = &failed {
            self.call_back(why, leases.iter().any(|lease| lease.seat().unflushed));
        }
        overlap.settle();
        drop(alone);
        let mut done = Ok(());
        let until = Instant::now() + self.renewal_wait();
        for (lease, result) in leases.iter_mut().zip(flushed) {
            // While one flush fails, the success of another one proves nothing.
            if failed.is_none() || result.is_err() {
                done = done.and(lease.settle(result, until));
            }
        }
        done.and_then(|()| self.check_loss())
    }

    /// How long a flush waits for a new right.
    pub(super) fn renewal_wait(&self) -> Duration {
        self.retry_time.max(MIN_RENEWAL_WAIT)
    }

    /// Notes a failed flush; returns since when flushes have failed for the same kind of reason.
    fn flush_failed(&self, error: &RemoteError) -> Instant {
        let reason = usize::from(!matches!(error, RemoteError::Failed(_)));
        *self.flush_failing.lock()[reason].get_or_insert_with(Instant::now)
    }

    /// Forgets earlier failures of flushes: they say nothing about later ones.
    fn flushes_start_anew(&self) {
        *self.flush_failing.lock() = [None; 2];
    }

    fn note_flushed(&self, slot: usize) {
        self.flushes_start_anew();
        if let Some(replay) = self.replay.get() {
            replay.durable(slot);
        }
    }

    /// Acts on a flush's report of a loss, before any other flush beside it is believed. Without a replay it
    /// is final, if there are `unflushed` writes.
    fn call_back(&self, why: &str, unflushed: bool) {
        match self.can_replay() {
            true => self.replay_all(why),
            false if unflushed => self.set_loss(format!(
                "a flush failed, which may have been about the writes of any connection: {why}; data may be \
                 lost, write the image again"
            )),
            false => {}
        }
    }

    /// Has every unflushed write sent again: the storage may have lost it.
    pub(super) fn replay_all(&self, why: &str) {
        if let Some(replay) = self.replay.get() {
            info!("everything unflushed is written again: {why}");
            replay.replay_all();
        }
    }
}

impl Lease<'_> {
    /// Makes every write that this connection carried durable, or has it sent again. A caller that needs to
    /// know which asks the journal.
    pub(crate) fn flush(&mut self) -> Result<(), PoolError> {
        let pool = self.pool;
        let result = {
            // Only one of two flushes at once would receive the report of a loss; the other one would
            // succeed.
            let _alone = pool.flushing.lock();
            let overlap = pool.overlaps.begin();
            let result = self.flush_once();
            if let Some(why) = Self::report_of_a_loss(&result) {
                pool.call_back(&why, self.seat().unflushed);
            }
            overlap.settle();
            result
        };
        let until = Instant::now() + self.pool.renewal_wait();
        self.settle(result, until)
    }

    /// Sends a flush; the caller [settles](Self::settle) its result.
    fn flush_once(&mut self) -> Flushed {
        self.leave_if_over();
        match self.seat().remote {
            None => Ok(false),
            Some(_) => self
                .try_once(Op::Flush, 0, &mut |remote| remote.flush())
                .map(|()| true),
        }
    }

    /// Returns the error when it is, or may have been, the storage's only report of a loss of writes,
    /// whichever connection carried them.
    fn report_of_a_loss(result: &Flushed) -> Option<String> {
        let attempt = result.as_ref().err()?;
        let tells = tells_of_a_loss(&attempt.error, attempt.at_work.is_some());
        tells.then(|| attempt.error.to_string())
    }

    /// Draws the conclusions from a flush as far as they concern this connection alone. Waits for a new right
    /// until `until` at most.
    fn settle(&mut self, result: Flushed, until: Instant) -> Result<(), PoolError> {
        let Attempt { error, epoch, .. } = match result {
            Ok(answered) => {
                if answered {
                    self.pool.note_flushed(self.index());
                    self.seat_mut().unflushed = false;
                }
                return self.pool.check_loss();
            }
            Err(attempt) => attempt,
        };
        let matters = self.seat().unflushed || matches!(error, RemoteError::Failed(_));
        let since = matters.then(|| self.pool.flush_failed(&error));
        let renewed = matches!(error, RemoteError::Denied(..))
            && self.pool.can_replay()
            && self
                .pool
                .dial
                .renew(epoch, &error, until.saturating_duration_since(Instant::now()));
        let may_be_repaired = match &error {
            RemoteError::Over(_)
            | RemoteError::Lost(_)
            | RemoteError::Unreachable(_)
            | RemoteError::Late(_) => true,
            RemoteError::Failed(_) | RemoteError::Busy(..) | RemoteError::Garbled(_) => {
                self.pool.can_replay()
            }
            RemoteError::Denied(..) => renewed,
            RemoteError::Protocol(_) => false,
        };
        let hopeless = since.is_some_and(|since| is_hopeless(&error, since, self.pool.retry_time));
        if !may_be_repaired || hopeless && !renewed {
            return Err(error.into());
        }
        if renewed {
            self.pool.flushes_start_anew();
        }
        if matches!(error, RemoteError::Over(_) | RemoteError::Lost(_)) && self.seat().unflushed {
            self.note_life();
        }
        self.give_up_connection(&error.to_string());
        self.pool.check_loss()
    }
}
