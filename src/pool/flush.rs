//! Flushing one connection or all of them, and what a flush that fails means.

use tracing::info;

use super::request::Attempt;
use super::retry::is_hopeless;
use super::{Lease, Op, Pool, PoolError, lock};
use crate::remote::RemoteError;
use crate::sync::{Instant, Mutex, thread};

/// The answer to a flush; false when there was no connection, so nothing to flush on it.
type Flushed = Result<bool, Attempt>;

impl Pool {
    /// Flushes every connection; the caller has made sure that what must be covered was answered. With a journal, ask it
    /// what is durable then: a connection that was lost had nothing to flush.
    pub(crate) fn flush_all(&self) -> Result<(), PoolError> {
        let mut leases = self.lock_all()?;
        let slots: Vec<Mutex<&mut Lease<'_>>> = leases.iter_mut().map(Mutex::new).collect();
        let flush = |n: usize| slots[n].lock().flush_once();
        let flushed: Result<Vec<Flushed>, ()> = thread::scope(|scope| {
            let spawn = |n| thread::spawn_scoped(scope, move || flush(n)).ok();
            let spawned: Vec<_> = (1..slots.len()).map(spawn).collect();
            let first = flush(0);
            let joined = (1..).zip(spawned).map(|(n, spawned)| match spawned {
                Some(thread) => thread.join().map_err(|_| ()),
                // No thread is to be had: one after the other, then.
                None => Ok(flush(n)),
            });
            [Ok(first)].into_iter().chain(joined).collect()
        });
        drop(slots);
        let Ok(flushed) = flushed else {
            // Nobody knows how far which conversation got.
            for lease in &mut leases {
                lease.give_up_connection("internal error in a flush");
            }
            return Err(PoolError::Loss(
                "a flush ended in an internal error; data may be lost".into(),
            ));
        };
        let failed = flushed.iter().find_map(Lease::report_of_a_loss);
        match &failed {
            Some(why) if self.can_replay() => self.replay_all(why),
            Some(why) if leases.iter().any(|lease| lease.seat().unflushed) => self.set_loss(format!(
                "a flush failed, which may have been about the writes of any connection: {why}; data may be lost, write \
                 the image again"
            )),
            _ => {}
        }
        let mut done = Ok(());
        for (lease, result) in leases.iter_mut().zip(flushed) {
            // Where one flush failed, the success of another proves nothing.
            if failed.is_none() || result.is_err() {
                done = done.and(lease.settle(result));
            }
        }
        done.and_then(|()| self.check_loss())
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

    fn note_flushed(&self, slot: usize) {
        self.flushes_start_anew();
        if let Some(replay) = self.replay.get() {
            replay.durable(slot);
        }
    }

    /// The storage may have lost whatever it had not flushed.
    fn replay_all(&self, why: &str) {
        if let Some(replay) = self.replay.get() {
            info!("all that is not flushed is written again: {why}");
            replay.replay_all();
        }
    }
}

impl Lease<'_> {
    /// Makes every write that this connection carried durable, or has the journal write it again: whoever needs to know
    /// asks the journal.
    pub(crate) fn flush(&mut self) -> Result<(), PoolError> {
        let pool = self.pool;
        let result = {
            // Two at once could share one report of a loss; the one without it would tell of success.
            let _alone = pool.flushing.lock();
            let result = self.flush_once();
            if let Some(why) = Self::report_of_a_loss(&result) {
                pool.replay_all(&why);
            }
            result
        };
        self.settle(result)
    }

    /// Sends a flush; nobody has drawn a conclusion from it yet.
    fn flush_once(&mut self) -> Flushed {
        match self.seat().remote {
            None => Ok(false),
            Some(_) => self
                .try_once(Op::Flush, 0, &mut |remote| remote.flush())
                .map(|()| true),
        }
    }

    /// What may be, or may have been, the storage's only word of a loss of anybody's writes, also of others'.
    fn report_of_a_loss(result: &Flushed) -> Option<String> {
        let attempt = result.as_ref().err()?;
        let tells = match attempt.error {
            RemoteError::Failed(_) => true,
            RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_) => {
                attempt.at_work.is_some()
            }
            RemoteError::Denied(..) | RemoteError::Protocol(_) => false,
        };
        tells.then(|| attempt.error.to_string())
    }

    /// Draws the conclusions from a flush of this connection alone.
    fn settle(&mut self, result: Flushed) -> Result<(), PoolError> {
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
            && self.pool.dial.renew(epoch, &error);
        let may_be_repaired = match &error {
            RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_) => true,
            RemoteError::Failed(_) => self.pool.can_replay(),
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
        self.give_up_connection(&error.to_string());
        self.pool.check_loss()
    }
}
