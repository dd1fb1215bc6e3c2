//! A borrowed connection: getting one, giving it up, dialling a new one and putting it back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::info;

use super::{Pool, PoolError, Seat, Slot, State};
use crate::remote::{Remote, RemoteError};
use crate::sync::Instant;

/// The purpose of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A request that any connection may carry.
    Read,
    /// A change, which only the writing connections carry.
    Write,
}

/// One connection, borrowed from the pool until this is dropped.
pub(crate) struct Lease<'a> {
    pub(super) pool: &'a Pool,
    index: usize,
    seat: Option<Seat>,
}

impl Pool {
    /// Waits for a free connection for `purpose`. Fails only when the pool is closed.
    pub(crate) fn lease(&self, purpose: Purpose) -> Result<Lease<'_>, PoolError> {
        // Readers search from the end, away from the writers' slots.
        let usable = |slot: &Slot| slot.as_ref().is_some_and(Seat::is_made);
        let free = move |state: &State, writers: usize| match purpose {
            Purpose::Read => state.slots.iter().rposition(usable),
            Purpose::Write => state.slots[..writers].iter().position(usable),
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

    /// Waits until no connection is in use and takes them all, in the order of their slots; those that are
    /// being made have carried nothing.
    pub(crate) fn lock_all(&self) -> Result<Vec<Lease<'_>>, PoolError> {
        let mut state = self.take_turn(State::all_are_back)?;
        let taken = state.slots.iter_mut().map(Option::take).enumerate();
        Ok(taken
            .filter_map(|(index, seat)| {
                seat.map(|seat| Lease {
                    pool: self,
                    index,
                    seat: Some(seat),
                })
            })
            .collect())
    }

    /// Takes the connection of slot `index` if it is free and has not been used for `idle`. This goes ahead
    /// of a flush that waits for all connections: while a request hangs elsewhere, this connection must not
    /// idle out.
    pub(super) fn lease_idle(&self, index: usize, idle: Duration) -> Option<Lease<'_>> {
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
}

impl Lease<'_> {
    /// Returns the slot of the connection, counted from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Returns the number of the connection within its slot, counted from 1.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(super) fn generation(&self) -> u64 {
        self.seat().generation
    }

    pub(super) fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("the seat is taken in drop only")
    }

    pub(super) fn seat_mut(&mut self) -> &mut Seat {
        self.seat.as_mut().expect("the seat is taken in drop only")
    }

    /// Closes the slot's connection, because of `why`. Its unflushed writes are sent again; without a
    /// [`Replay`](super::Replay) they are a loss.
    pub(super) fn give_up_connection(&mut self, why: &str) {
        let connection = self.index + 1;
        let seat = self.seat_mut();
        let unflushed = std::mem::take(&mut seat.unflushed);
        let had_one = seat.remote.take().is_some();
        match (unflushed, self.pool.replay.get()) {
            (true, Some(replay)) => {
                info!(
                    connection,
                    "connection ended, its unflushed writes are written again: {why}"
                );
                replay.replay(self.index);
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

    /// Closes the slot's connection if the server has ended it.
    pub(super) fn leave_if_over(&mut self) {
        if self.seat().remote.as_ref().is_some_and(|remote| remote.is_over()) {
            self.note_life();
            self.give_up_connection("the server has ended it");
        }
    }

    /// Learns from the end of the connection how long the next one may live.
    pub(super) fn note_life(&self) {
        let seat = self.seat();
        self.pool.lifespan.ended(seat.answers, seat.unflushed);
    }

    /// Returns the connection, after dialling a new one if the last one was given up or is over.
    pub(super) fn remote(&mut self) -> Result<&mut Box<dyn Remote>, RemoteError> {
        self.leave_if_over();
        if self.seat().remote.is_none() {
            let remote = self.pool.dial.dial()?;
            let index = self.index;
            let seat = self.seat_mut();
            seat.remote = Some(remote);
            seat.generation += 1;
            seat.answers = 0;
            if seat.generation > 1 {
                let generation = seat.generation;
                self.pool.replaced.fetch_add(1, Ordering::Relaxed);
                info!(connection = index + 1, generation, "connection replaced");
            }
        }
        Ok(self.seat_mut().remote.as_mut().expect("just made sure"))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_up_connection("internal error in the middle of a request");
        }
        if self.seat.is_some() {
            self.leave_if_over();
        }
        let Some(mut seat) = self.seat.take() else { return };
        seat.used = Instant::now();
        self.pool.lock().slots[self.index] = Some(seat);
        self.pool.changed.notify_all();
    }
}
