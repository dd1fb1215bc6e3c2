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
//! Whenever a connection goes, the [`Replay`] hears of it and writes again what the connection had answered and not
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
use super::Replay;
use super::retry::{Doubt, RequestKind, Retry};
use super::{Lease, Op, Pool, PoolError, Purpose};
#[cfg(doc)]
use crate::remote::Dial;
use crate::remote::{Extent, Remote, RemoteError};
use crate::sync::Instant;

/// New rights that one request may ask for after a refusal.
const MAX_RENEWALS: u32 = 5;

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
pub(super) struct Attempt {
    pub(super) error: RemoteError,
    /// How long the request was at work; `None` when it was not sent: there was no connection to be had.
    pub(super) at_work: Option<Duration>,
    /// The right that it was made with.
    pub(super) epoch: u64,
}

impl Pool {
    /// Fills `parts`, one after the other, from `offset`.
    pub(crate) fn read(&self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let mut lease = self.lease(Purpose::Read)?;
        lease.repeat(RequestKind::Read, Op::Read, len, |remote| {
            remote.read(offset, parts)
        })?;
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
            let mut retry = Retry::new(RequestKind::Walk, Duration::ZERO);
            loop {
                match self.dial.dial().and_then(|mut remote| remote.extents(found)) {
                    Ok(()) => return Ok(()),
                    Err(error) => retry.again(error, None)?,
                }
            }
        }
        let mut lease = self.lease(Purpose::Read)?;
        lease.repeat(RequestKind::Walk, Op::Extents, 0, |remote| remote.extents(found))?;
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
        if !self.is_quiet(quiet) {
            return;
        }
        if let Some(mut lease) = self.lease_idle(self.connections() - 1, quiet) {
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
        lease.seat_mut().unflushed = true;
        Ok(Answered { lease, doubt })
    }
}

impl Lease<'_> {
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
        kind: RequestKind,
        op: Op,
        bytes: u64,
        mut request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<Option<Doubt>, PoolError> {
        let (mut retry, mut renewals) = (Retry::new(kind, self.pool.retry_time), 0);
        let mut doubt = None;
        loop {
            if kind == RequestKind::Change {
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
            let renewable = self.pool.can_replay() || kind != RequestKind::Change && !self.seat().unflushed;
            match error {
                RemoteError::Failed(_) if kind != RequestKind::Change => self.leave_behind(&error),
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
                    if renewals < MAX_RENEWALS && renewable && self.pool.dial.renew(epoch, &error) =>
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

    pub(super) fn try_once(
        &mut self,
        op: Op,
        bytes: u64,
        request: &mut impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<(), Attempt> {
        let statistics = &self.pool.statistics[self.index()];
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
        statistics.record(op, begun.elapsed(), result.is_ok(), bytes);
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
