//! One request on a leased connection: whether it may be repeated, and on which connection.
//!
//! | request     | over, lost or silent      | failed, busy, garbled     | denied           | nonsense |
//! |-------------|---------------------------|---------------------------|------------------|----------|
//! | read        | new connection, again     | new connection, again     | new right, again | error    |
//! | write, zero | new connection, again     | new connection, again     | new right, again | error    |
//! | flush       | new connection, replay    | new connection, replay    | new right        | error    |
//! | touch       | new connection next time  | the same                  | the same         | the same |
//!
//! *Failed* is a 5xx; *busy* an answer that asks for another attempt, as 408 does; *garbled* the answer to a
//! request that has arrived in part. All three may come from something between here and the server.
//!
//! Whenever a connection is given up, [`Replay`] is told and sends again the writes that the connection had
//! answered and not flushed; only without a replay is that a loss, for good. `retry` decides how often a
//! request is repeated, and [`Dial::renew`] gets a new right. The latter is called when the server refuses
//! the present right, and also when the server has been away for some time: it may come back at another
//! address.
//!
//! After these a connection is given up: its NBD backend may be gone for good, and its two ends may disagree
//! about where a request begins. A failed read says nothing about the writes on its connection: they are
//! flushed first, and sent again only if that fails.
//!
//! A connection that had ended before the request is replaced at once: nothing has failed.
//!
//! If connections end after a few requests (`lifespan`), a change carries a flush. Its failure may be a
//! storage's report of a loss, and its success proves as much as that of a flush.

use std::time::Duration;

use tracing::info;

#[cfg(doc)]
use super::Replay;
use super::overlap::tells_of_a_loss;
use super::retry::{Doubt, RequestKind, Retry};
use super::{Lease, Op, Pool, PoolError, Purpose, Seat, Slot};
#[cfg(doc)]
use crate::remote::Dial;
use crate::remote::{DirtyAnswer, DirtyExtent, Extent, HashAnswer, HashRequest, Remote, RemoteError};
use crate::sync::Instant;

/// Upper bound on new rights that one request may ask for after refusals.
const MAX_RENEWALS: u32 = 5;

/// An answered change.
#[must_use]
pub(crate) struct Answered<'a> {
    /// The connection that carried it. It may be flushed or lost as soon as this is dropped.
    pub(crate) lease: Lease<'a>,
    /// How long an earlier attempt may still be performed, if any may.
    pub(crate) doubt: Option<Doubt>,
    /// It is durable, and so is everything that the connection has answered before.
    pub(crate) durable: bool,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) error: RemoteError,
    /// How long the request was at work; `None` when it was not sent because dialling failed.
    pub(super) at_work: Option<Duration>,
    /// The number of the right that it was made with.
    pub(super) epoch: u64,
}

impl Pool {
    /// Fills `parts`, one after the other, with the bytes from `offset`.
    pub(crate) fn read(&self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let mut lease = self.lease(Purpose::Read)?;
        lease.repeat(RequestKind::Read, Op::Read, len, |remote| {
            remote.read(offset, parts)
        })?;
        Ok(())
    }

    /// Does the same by a single attempt: a failure is no reason to wait, or to get another right.
    pub(crate) fn read_once(&self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let mut lease = self.lease(Purpose::Read)?;
        let tried = lease.try_once(Op::Read, len, &mut |remote| remote.read(offset, parts));
        tried.map_err(|attempt| {
            lease.give_up_connection(&attempt.error.to_string());
            attempt.error.into()
        })
    }

    /// Reports the extents of the whole disk, which may take minutes. The request uses a connection of the
    /// pool, or with `own_connection` one of its own, which the server must allow. After a failed attempt the
    /// extents are reported again from offset 0.
    pub(crate) fn extents(
        &self,
        own_connection: bool,
        found: &mut dyn FnMut(Extent),
    ) -> Result<(), PoolError> {
        if own_connection {
            let mut retry = Retry::new(RequestKind::Walk, Duration::ZERO);
            loop {
                match self
                    .dial
                    .dial_to_walk()
                    .and_then(|mut remote| remote.extents(found))
                {
                    Ok(()) => return Ok(()),
                    Err(error) => retry.again(error, None)?,
                }
            }
        }
        let mut lease = self.lease(Purpose::Read)?;
        lease.repeat(RequestKind::Walk, Op::Extents, 0, |remote| remote.extents(found))?;
        Ok(())
    }

    /// Reports what has changed since the checkpoint of the backup. Each attempt begins with `begin`, and
    /// reports all of it.
    pub(crate) fn dirty_extents(
        &self,
        begin: &mut dyn FnMut(),
        found: &mut dyn FnMut(DirtyExtent),
    ) -> Result<DirtyAnswer, PoolError> {
        let mut lease = self.lease(Purpose::Read)?;
        let mut told = None;
        lease.repeat(RequestKind::Walk, Op::Extents, 0, |remote| {
            begin();
            told = Some(remote.dirty_extents(found)?);
            Ok(())
        })?;
        Ok(told.unwrap_or_else(|| DirtyAnswer::NotOffered("no answer".to_owned())))
    }

    /// Has the server compute a block hash of the whole disk, which takes as long as reading it. What is
    /// written meanwhile is in it or not, so the caller flushes before, and lets nobody write. The request
    /// has a connection of its own, for which [`Pool::make_room`] has to be called where the server allows no
    /// more than those of the pool: one that is given up does not hold up the end of the pool then.
    pub(crate) fn block_hash(&self, wanted: HashRequest<'_>) -> Result<HashAnswer, PoolError> {
        let mut retry = Retry::new(RequestKind::Walk, Duration::ZERO);
        let mut renewals = 0;
        loop {
            let epoch = self.dial.epoch();
            let answer = self.dial.dial().and_then(|mut remote| remote.block_hash(wanted));
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // An engine ends a download by itself once every byte was read, and the hash needs another one.
            let is_denied = matches!(error, RemoteError::Denied(..)) && renewals < MAX_RENEWALS;
            if is_denied && self.dial.renew(epoch, &error, self.renewal_wait()) {
                renewals += 1;
                continue;
            }
            retry.again(error, None)?;
        }
    }

    /// Gives up a connection, whose place at the server is free while the lease is held.
    pub(crate) fn make_room(&self) -> Result<Lease<'_>, PoolError> {
        let mut lease = self.lease(Purpose::Read)?;
        lease.give_up_connection("making room");
        Ok(lease)
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

    /// Causes activity on the ticket if there was none for `quiet`. Like a keep-alive it takes no connection
    /// that is in use, and never gives up a connection with unflushed writes only because OPTIONS got no
    /// answer.
    pub(crate) fn touch(&self, quiet: Duration) {
        if !self.is_quiet(quiet) {
            return;
        }
        let made = |slot: &Slot| slot.as_ref().is_some_and(Seat::is_made);
        let last = self.lock().slots.iter().rposition(made);
        if let Some(mut lease) = last.and_then(|index| self.lease_idle(index, quiet)) {
            lease.keep_alive();
        }
    }

    fn change(
        &self,
        op: Op,
        bytes: u64,
        request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<Answered<'_>, PoolError> {
        let mut lease = self.lease(Purpose::Write)?;
        let doubt = lease.repeat(RequestKind::Change, op, bytes, request)?;
        let durable = lease.seat().durable;
        lease.seat_mut().unflushed = !durable;
        Ok(Answered {
            lease,
            doubt,
            durable,
        })
    }
}

impl Lease<'_> {
    /// Causes activity on an idle connection, in one attempt: a lost connection is dialled again by the next
    /// keep-alive. After a failed flush the connection is given up: a second flush might succeed without the
    /// writes that the first one was about (fsync reports an error once).
    pub(super) fn keep_alive(&mut self) {
        let done = match self.seat().unflushed {
            true => self.flush(),
            false => self
                .try_once(Op::Touch, 0, &mut |remote| remote.touch())
                .map_err(|attempt| attempt.error.into()),
        };
        if let Err(error) = done {
            info!(connection = self.index() + 1, "keep-alive failed: {error}");
            self.give_up_connection(&error.to_string());
        }
    }

    /// Repeats a request until it succeeds or may not be repeated any more. Returns the doubt that earlier
    /// attempts leave.
    fn repeat(
        &mut self,
        kind: RequestKind,
        op: Op,
        bytes: u64,
        mut request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<Option<Doubt>, PoolError> {
        let (mut retry, mut renewals) = (Retry::new(kind, self.pool.retry_time), 0);
        let (mut doubt, mut replaced) = (None, false);
        loop {
            if kind == RequestKind::Change {
                self.pool.check_loss()?;
            }
            if kind == RequestKind::Change {
                self.try_out();
            }
            let begun = Instant::now();
            let tried = self.try_once(op, bytes, &mut request);
            // An attempt whose transfer has ended must not stand for a later one, whose doubt is shorter.
            doubt = doubt.filter(|doubt: &Doubt| doubt.is_open(self.pool.retired()));
            let Attempt {
                error,
                at_work,
                epoch,
            } = match tried {
                // If the storage took long over this attempt, it may take as long over an earlier one.
                Ok(()) => return Ok(doubt.max(doubt.map(|_| Doubt::until_a_request_of(begun.elapsed())))),
                Err(attempt) => attempt,
            };
            doubt = doubt.max(at_work.and_then(|time| Doubt::of(&error, time, epoch)));
            let renewable = self.pool.can_replay() || kind != RequestKind::Change && !self.seat().unflushed;
            let wait = retry.left(self.pool.outage());
            match error {
                RemoteError::Over(_) if !replaced => {
                    self.note_life();
                    self.give_up_connection(&error.to_string());
                    replaced = true;
                    continue;
                }
                RemoteError::Failed(_) | RemoteError::Busy(..) | RemoteError::Garbled(_)
                    if kind != RequestKind::Change =>
                {
                    self.leave_behind(&error)
                }
                RemoteError::Failed(_) | RemoteError::Busy(..) | RemoteError::Garbled(_) => {
                    self.give_up_connection(&error.to_string());
                }
                RemoteError::Over(_)
                | RemoteError::Lost(_)
                | RemoteError::Unreachable(_)
                | RemoteError::Late(_) => {
                    match error {
                        // It was dialled for this request, which takes several for the server.
                        RemoteError::Over(_) if kind == RequestKind::Change => {
                            self.pool.lifespan.ended(1, true)
                        }
                        RemoteError::Over(_) | RemoteError::Lost(_) if self.seat().unflushed => {
                            self.note_life()
                        }
                        _ => {}
                    }
                    self.give_up_connection(&error.to_string());
                    // The server may be gone from its address, and its image be served elsewhere.
                    let away = retry.is_long();
                    if away && renewable && self.pool.dial.renew(epoch, &error, wait) {
                        retry = Retry::new(kind, self.pool.retry_time);
                        continue;
                    }
                }
                RemoteError::Denied(..)
                    if renewals < MAX_RENEWALS && renewable && self.pool.dial.renew(epoch, &error, wait) =>
                {
                    renewals += 1;
                    retry = Retry::new(kind, self.pool.retry_time);
                    self.give_up_connection(&error.to_string());
                    continue;
                }
                RemoteError::Denied(..) | RemoteError::Protocol(_) => {}
            }
            if kind == RequestKind::Change {
                self.pool.check_loss()?;
            }
            self.pool.tell_outage(&error);
            retry.again(error, self.pool.outage())?;
        }
    }

    /// Gives up a connection that has reached the life of its predecessors, unless it answers once more. A
    /// change that carries a flush must not fail without need: all that is unflushed would be sent again.
    fn try_out(&mut self) {
        let spent = self.seat().remote.is_some() && self.pool.lifespan.is_spent(self.seat().answers);
        if !spent {
            return;
        }
        let tried = self.try_once(Op::Touch, 0, &mut |remote| remote.touch());
        if let Err(Attempt { error, .. }) = tried {
            self.note_life();
            self.give_up_connection(&error.to_string());
        }
    }

    /// Gives up a connection after a failed read, and flushes its writes before, where the failure leaves no
    /// doubt about which answer belongs to which request.
    fn leave_behind(&mut self, why: &RemoteError) {
        if self.seat().unflushed && matches!(why, RemoteError::Failed(_)) {
            let _ = self.flush();
        }
        self.give_up_connection(&why.to_string());
    }

    /// Makes one attempt, on a new connection if there is none, and counts it.
    pub(super) fn try_once(
        &mut self,
        op: Op,
        bytes: u64,
        request: &mut impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<(), Attempt> {
        let statistics = &self.pool.statistics[self.index()];
        let begun = Instant::now();
        let mut epoch = match &self.seat().remote {
            Some(remote) => remote.epoch(),
            None => self.pool.dial.epoch(),
        };
        let (mut sent, mut result) = (None, Ok(()));
        match self.remote() {
            Ok(remote) => {
                // A renewal may have ended between the look above and the dial.
                epoch = remote.epoch();
                let at = Instant::now();
                result = self.send(op, request);
                if result.is_ok() {
                    self.pool.sizes.note(op, bytes, at.elapsed());
                }
                sent = Some(at);
            }
            Err(error) => result = result.and(Err(error)),
        }
        if !matches!(result, Err(RemoteError::Over(_))) {
            statistics.record(op, begun.elapsed(), result.is_ok(), bytes);
        }
        // A failed keep-alive has kept nobody waiting.
        if op != Op::Touch || result.is_ok() {
            self.pool.note_outage(&result);
        }
        result.map_err(|error| Attempt {
            error,
            at_work: sent.map(|at| at.elapsed()),
            epoch,
        })
    }

    /// Sends the request on the connection, with a flush where a change needs one.
    fn send(
        &mut self,
        op: Op,
        request: &mut impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        let pool = self.pool;
        let change = matches!(op, Op::Write | Op::Zero);
        let durable = change && pool.can_replay() && pool.lifespan.is_short(self.seat().answers);
        let seat = self.seat_mut();
        let remote = seat.remote.as_mut().expect("the caller made sure");
        if change {
            seat.durable = durable;
            remote.set_durable(durable);
        }
        let overlap = durable.then(|| pool.overlaps.begin());
        let result = request(remote.as_mut());
        if result.is_ok() {
            seat.answers += 1;
            pool.lifespan.lives(seat.answers);
        }
        if let Some(overlap) = overlap {
            match &result {
                Ok(()) => pool.lifespan.count(),
                Err(error) if tells_of_a_loss(error, true) => pool.replay_all(&error.to_string()),
                Err(_) => {}
            }
            overlap.settle();
        }
        result
    }
}
