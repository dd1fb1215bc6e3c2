//! One request on a leased connection: what may be repeated, on which connection, how often.
//!
//! | request      | connection lost                          | server failed (5xx)        | denied, nonsense |
//! |--------------|------------------------------------------|----------------------------|------------------|
//! | read         | new connection, again                    | new connection, again      | error, see below |
//! | write, zero  | again, if nothing unflushed went with it | error                      | error            |
//! | flush        | fine, if nothing unflushed went with it  | error                      | error            |
//! | touch        | new connection at the next one           | the same                   | the same         |
//!
//! A request without an answer in time counts as a lost connection, but for writes: the server may be at
//! it still, and would put the old bytes over newer ones later. Such a write is never repeated.
//!
//! A read that is denied may be repeated once, when whoever dials has got a new right ([`Dial::renew`]).
//!
//! A failed write is not repeated: after a 500 the server promises nothing about any write since the
//! last flush (imageio, docs/images.md), so one more PUT would not repair what the disk lost. After
//! a 5xx the connection is left behind, as its NBD backend may be gone for good; if it carried
//! unflushed writes it is flushed first, and only if that fails they count as lost.

use std::thread::sleep;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Access, Lease, Op, Pool, PoolError};
#[cfg(doc)]
use crate::remote::Dial;
use crate::remote::{Extent, Remote, RemoteError};

/// Attempts of a request that may be repeated, the first one included.
const ATTEMPTS: u32 = 4;

/// Wait before the first repetition; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl Pool {
    /// Fills `parts`, one after the other, from `offset`.
    pub fn read(&self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        self.lease(Access::Read)?
            .repeat(Op::Read, len, |remote| remote.read(offset, parts))
    }

    /// Reports the extents of the whole disk. After a failed attempt they come again from offset 0.
    pub fn extents(&self, found: &mut dyn FnMut(Extent)) -> Result<(), PoolError> {
        self.lease(Access::Read)?
            .repeat(Op::Extents, 0, |remote| remote.extents(found))
    }

    /// Writes `parts`, one after the other, at `offset`.
    pub fn write(&self, offset: u64, parts: &[&[u8]]) -> Result<(), PoolError> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        self.change(Op::Write, len, |remote| remote.write(offset, parts))
    }

    /// Makes some activity on the ticket where there was none for `quiet`; like a keep-alive, it takes no connection
    /// that is at work, and gives up none with unflushed writes for want of an answer to OPTIONS.
    pub fn touch(&self, quiet: Duration) {
        if self.is_quiet(quiet)
            && let Some(mut lease) = self.lease_idle(self.connections() - 1, quiet)
        {
            lease.keep_alive();
        }
    }

    /// Zeroes `len` bytes at `offset`.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), PoolError> {
        self.change(Op::Zero, len, |remote| remote.zero(offset, len))
    }

    fn change(
        &self,
        op: Op,
        bytes: u64,
        mut request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<(), PoolError> {
        let mut lease = self.lease(Access::Write)?;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            self.check_loss()?;
            let error = match lease.try_once(op, bytes, &mut request) {
                Ok(()) => {
                    lease.seat_mut().unflushed = true;
                    return Ok(());
                }
                Err(error) => error,
            };
            match error {
                RemoteError::Lost(_) | RemoteError::Late(_) => {
                    lease.give_up_connection(&error.to_string());
                    self.check_loss()?;
                }
                RemoteError::Failed(_) => lease.leave_behind(&error),
                RemoteError::Denied(_) | RemoteError::Protocol(_) => {}
            }
            if attempt == ATTEMPTS || !matches!(error, RemoteError::Lost(_)) {
                return Err(error.into());
            }
            info!(attempt, "again after: {error}");
            sleep(pause);
            pause *= 2;
        }
        unreachable!("the loop returns at the last attempt")
    }
}

impl Lease<'_> {
    /// Makes every write that this connection carried durable.
    pub(super) fn flush(&mut self) -> Result<(), PoolError> {
        if self.seat().remote.is_none() {
            return self.pool.check_loss();
        }
        match self.try_once(Op::Flush, 0, &mut |remote| remote.flush()) {
            Ok(()) => {
                self.seat_mut().unflushed = false;
                Ok(())
            }
            Err(error @ (RemoteError::Lost(_) | RemoteError::Late(_))) => {
                self.give_up_connection(&error.to_string());
                self.pool.check_loss()
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Counts as activity on a connection that has been idle. One attempt: a connection that is gone is
    /// dialled again at the next look. A failed flush is a loss: a second one might succeed without the
    /// writes that the first one was about (fsync reports an error once).
    pub(super) fn keep_alive(&mut self) {
        let done = match self.seat().unflushed {
            true => self.flush(),
            false => self
                .try_once(Op::Touch, 0, &mut |remote| remote.touch())
                .map_err(PoolError::from),
        };
        if let Err(error) = done {
            warn!(connection = self.index() + 1, "keep-alive failed: {error}");
            self.give_up_connection(&error.to_string());
        }
    }

    fn repeat(
        &mut self,
        op: Op,
        bytes: u64,
        mut request: impl FnMut(&mut dyn Remote) -> Result<(), RemoteError>,
    ) -> Result<(), PoolError> {
        let (mut pause, mut renewed) = (FIRST_PAUSE, false);
        for attempt in 1.. {
            let remote = self.seat().remote.as_ref();
            let epoch = remote.map_or_else(|| self.pool.dial.epoch(), |remote| remote.epoch());
            let error = match self.try_once(op, bytes, &mut request) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error {
                RemoteError::Lost(_) | RemoteError::Late(_) => self.give_up_connection(&error.to_string()),
                RemoteError::Failed(_) => self.leave_behind(&error),
                RemoteError::Denied(_)
                    if !renewed && !self.seat().unflushed && self.pool.dial.renew(epoch) =>
                {
                    renewed = true;
                    self.give_up_connection(&error.to_string());
                    continue;
                }
                RemoteError::Denied(_) | RemoteError::Protocol(_) => return Err(error.into()),
            }
            if attempt == ATTEMPTS {
                return Err(error.into());
            }
            info!(attempt, "again after: {error}");
            sleep(pause);
            pause *= 2;
        }
        unreachable!("the loop returns at the last attempt")
    }

    /// Leaves a connection whose server failed; its writes are flushed before it goes.
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
    ) -> Result<(), RemoteError> {
        let clock = &self.pool.clocks[self.index];
        let begun = Instant::now();
        let result = self.remote().and_then(|remote| request(remote.as_mut()));
        clock.record(op, begun.elapsed(), result.is_ok(), bytes);
        result
    }
}
