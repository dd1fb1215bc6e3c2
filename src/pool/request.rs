//! One request on a leased connection: what may be repeated, and on which connection.
//!
//! | request      | connection lost or silent       | server failed (5xx)             | denied               | nonsense |
//! |--------------|---------------------------------|---------------------------------|----------------------|----------|
//! | read         | new connection, again           | new connection, again           | new right, again     | error    |
//! | write, zero  | new connection, again           | new connection, again           | new right, again     | error    |
//! | flush        | new connection; all is to be    | new connection; all is to be    | new right            | error    |
//! |              | written again                   | written again                   |                      |          |
//! | touch        | new connection at the next one  | the same                        | the same             | the same |
//!
//! Whenever a connection goes, the [`Journal`] hears of it and writes again what the connection had answered and not
//! flushed; only without a journal is that a loss, for good. How often a request is tried is `retry`'s business, and how a
//! new right comes about is [`Dial::renew`]'s. It is asked when the server refuses ours, and also when the server has been away
//! for some time: it may come back in another place.
//!
//! A failed flush is about more than its connection: the storage reports that it lost something once, to whoever asks
//! first. So after a 5xx everything that is not known to be durable is written again, whoever carried it; and so after a flush
//! without an answer, which may have been that report.
//!
//! After a 5xx a connection is left behind, as its NBD backend may be gone for good. A read that failed says nothing
//! about the writes on its connection: they are flushed before it goes, and only if that fails they are written again.

use std::time::Duration;

use tracing::warn;

#[cfg(doc)]
use super::Journal;
use super::retry::{Doubt, Kind, Retry, is_hopeless};
use super::{Access, Lease, Op, Pool, PoolError};
#[cfg(doc)]
use crate::remote::Dial;
use crate::remote::{Extent, Remote, RemoteError};
use crate::sync::{Instant, Mutex, thread};

/// New rights that one request may ask for after a refusal.
const RENEWALS: u32 = 5;

/// A change that was answered.
#[must_use]
pub(crate) struct Answered<'a> {
    /// The connection that carried it. It may be flushed, or lost, as soon as this is dropped.
    pub(crate) lease: Lease<'a>,
    /// An earlier attempt may still be performed, until then.
    pub(crate) doubt: Option<Doubt>,
}

/// Why an attempt failed.
#[derive(Debug)]
struct Attempt {
    error: RemoteError,
    /// How long the request was at work; `None` when it was not sent: there was no connection to be had.
    at_work: Option<Duration>,
    /// The right that it was made with.
    epoch: u64,
}

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
            Some(why) if self.has_journal() => self.lost_all(why),
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

    /// Fills `parts`, one after the other, from `offset`.
    pub(crate) fn read(&self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let mut lease = self.lease(Access::Read)?;
        lease.repeat(Kind::Read, Op::Read, len, |remote| remote.read(offset, parts))?;
        Ok(())
    }

    /// Reports the extents of the whole disk, on a connection of the pool, or on one of its own where the server has
    /// one to spare: it may take minutes. After a failed attempt they come again from offset 0.
    pub(crate) fn extents(
        &self,
        own_connection: bool,
        found: &mut dyn FnMut(Extent),
    ) -> Result<(), PoolError> {
        if own_connection {
            let mut retry = Retry::new(Kind::Walk, Duration::ZERO);
            loop {
                match self.dial.dial().and_then(|mut remote| remote.extents(found)) {
                    Ok(()) => return Ok(()),
                    Err(error) => retry.again(error, None)?,
                }
            }
        }
        let mut lease = self.lease(Access::Read)?;
        lease.repeat(Kind::Walk, Op::Extents, 0, |remote| remote.extents(found))?;
        Ok(())
    }

    /// Writes `parts`, one after the other, at `offset`.
    pub(crate) fn write(&self, offset: u64, parts: &[&[u8]]) -> Result<Answered<'_>, PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        self.change(Op::Write, len, |remote| remote.write(offset, parts))
    }

    /// Zeroes `len` bytes at `offset`.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> Result<Answered<'_>, PoolError> {
        self.change(Op::Zero, len, |remote| remote.zero(offset, len))
    }

    /// Makes some activity on the ticket where there was none for `quiet`; like a keep-alive, it takes no connection
    /// that is at work, and gives up none with unflushed writes for want of an answer to OPTIONS.
    pub(crate) fn touch(&self, quiet: Duration) {
        if self.is_quiet(quiet)
            && let Some(mut lease) = self.lease_idle(self.connections() - 1, quiet)
        {
            lease.keep_alive();
        }
    }

    fn change(
        &self,
        op: Op,
        bytes: u64,
        request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<Answered<'_>, PoolError> {
        let mut lease = self.lease(Access::Write)?;
        let doubt = lease.repeat(Kind::Change, op, bytes, request)?;
        lease.seat_mut().unflushed = true;
        Ok(Answered { lease, doubt })
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
                pool.lost_all(&why);
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
                    self.pool.flushed(self.index());
                    self.seat_mut().unflushed = false;
                }
                return self.pool.check_loss();
            }
            Err(attempt) => attempt,
        };
        let matters = self.seat().unflushed || matches!(error, RemoteError::Failed(_));
        let since = matters.then(|| self.pool.flush_failed(&error));
        let renewed = matches!(error, RemoteError::Denied(..))
            && self.pool.has_journal()
            && self.pool.dial.renew(epoch, &error);
        let may_be_repaired = match &error {
            RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_) => true,
            RemoteError::Failed(_) => self.pool.has_journal(),
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

    /// Counts as activity on a connection that has been idle. One attempt: a connection that is gone is
    /// dialled again at the next look. A failed flush costs the connection: a second one might succeed without the
    /// writes that the first one was about (fsync reports an error once).
    pub(super) fn keep_alive(&mut self) {
        let done = match self.seat().unflushed {
            true => self.flush(),
            false => self
                .try_once(Op::Touch, 0, &mut |remote| remote.touch())
                .map_err(|attempt| attempt.error.into()),
        };
        if let Err(error) = done {
            warn!(connection = self.index() + 1, "keep-alive failed: {error}");
            self.give_up_connection(&error.to_string());
        }
    }

    /// Makes a request until it is answered, or there is no sense in it any more.
    fn repeat(
        &mut self,
        kind: Kind,
        op: Op,
        bytes: u64,
        mut request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<Option<Doubt>, PoolError> {
        let (mut retry, mut renewals) = (Retry::new(kind, self.pool.retry_time), 0);
        let mut doubt = None;
        loop {
            if kind == Kind::Change {
                self.pool.check_loss()?;
            }
            let begun = Instant::now();
            let Attempt {
                error,
                at_work,
                epoch,
            } = match self.try_once(op, bytes, &mut request) {
                // Storage that took long over this attempt may take as long over an earlier one.
                Ok(()) => return Ok(doubt.max(doubt.map(|_| Doubt::until_a_request_of(begun.elapsed())))),
                Err(attempt) => attempt,
            };
            doubt = doubt.max(at_work.and_then(|time| Doubt::of(&error, time)));
            let renewable = self.pool.has_journal() || kind != Kind::Change && !self.seat().unflushed;
            match error {
                RemoteError::Failed(_) if kind != Kind::Change => self.leave_behind(&error),
                RemoteError::Lost(_)
                | RemoteError::Unreachable(_)
                | RemoteError::Late(_)
                | RemoteError::Failed(_) => {
                    self.give_up_connection(&error.to_string());
                    // Where it was may be nothing any more, and its image be served elsewhere.
                    let away = !matches!(error, RemoteError::Failed(_)) && retry.is_long();
                    if away && renewable && self.pool.dial.renew(epoch, &error) {
                        retry = Retry::new(kind, self.pool.retry_time);
                        continue;
                    }
                }
                RemoteError::Denied(..)
                    if renewals < RENEWALS && renewable && self.pool.dial.renew(epoch, &error) =>
                {
                    renewals += 1;
                    retry = Retry::new(kind, self.pool.retry_time);
                    self.give_up_connection(&error.to_string());
                    continue;
                }
                RemoteError::Denied(..) | RemoteError::Protocol(_) => {}
            }
            if kind == Kind::Change {
                self.pool.check_loss()?;
            }
            retry.again(error, self.pool.outage())?;
        }
    }

    /// Leaves a connection whose server failed to read; its writes are flushed before it goes.
    fn leave_behind(&mut self, why: &RemoteError) {
        if self.seat().unflushed {
            let _ = self.flush();
        }
        self.give_up_connection(&why.to_string());
    }

    fn try_once(
        &mut self,
        op: Op,
        bytes: u64,
        request: &mut impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<(), Attempt> {
        let clock = &self.pool.clocks[self.index()];
        let begun = Instant::now();
        let epoch = match &self.seat().remote {
            Some(remote) => remote.epoch(),
            None => self.pool.dial.epoch(),
        };
        let (mut sent, mut result) = (None, Ok(()));
        match self.remote() {
            Ok(remote) => {
                let at = Instant::now();
                result = request(remote.as_mut());
                sent = Some(at);
            }
            Err(error) => result = result.and(Err(error)),
        }
        clock.record(op, begun.elapsed(), result.is_ok(), bytes);
        // A keep-alive that fails keeps nobody waiting yet.
        if op != Op::Touch || result.is_ok() {
            self.pool.note_outage(&result);
        }
        result.map_err(|error| Attempt {
            error,
            at_work: sent.map(|at| at.elapsed()),
            epoch,
        })
    }
}
