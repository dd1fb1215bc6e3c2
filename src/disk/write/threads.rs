//! The writer threads: each takes segments that may go from the table, sends them, and puts the answer into
//! the journal while it still holds the connection's lease.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::payload::Payload;
use super::table::{Flight, Pick};
use super::{Inner, WriteBehind};
use crate::pool::{Answered, Op, Pool};
use crate::sync::Instant;
use crate::sync::thread::{self, JoinHandle};

impl WriteBehind {
    /// Starts a writer thread for each connection that may write.
    pub(crate) fn start(self: &Arc<Self>, pool: &Arc<Pool>) -> std::io::Result<Vec<JoinHandle<()>>> {
        let spawn = |n| {
            let (shared, pool) = (self.clone(), pool.clone());
            let builder = thread::Builder::new().name(format!("writer-{n}"));
            builder.spawn(move || {
                let next = || catch_unwind(AssertUnwindSafe(|| shared.perform_next(&pool)));
                while next().unwrap_or_else(|_| shared.broken()) {}
            })
        };
        (1..=pool.writers()).map(spawn).collect()
    }

    /// Returns how many bytes of the backlog one request may take: an equal share among the connections
    /// without work, and no more than is good for `pool`. So none of those is left without work, and
    /// connections that have some do not make requests smaller.
    fn share(&self, inner: &Inner, pool: &Pool) -> u64 {
        let idle = self.writers.saturating_sub(inner.at_work).max(1);
        (inner.table.queued_cost() as u64 / idle).min(pool.request_size(Op::Write, self.request_size))
    }

    /// Fails the disk after a panic in a writer thread, so that no thread waits for its work for ever.
    fn broken(&self) -> bool {
        self.fail("internal error in a writer thread".into());
        true
    }

    /// Waits for a segment that may go and performs it; false when the thread has to end.
    fn perform_next(&self, pool: &Pool) -> bool {
        let retired = pool.retired();
        let mut inner = self.lock();
        inner.table.retire_strays(retired);
        let run = loop {
            if inner.stop {
                return false;
            }
            let pressed = inner.waiting_for_room > 0;
            let share = self.share(&inner, pool);
            let wait = match self.failure() {
                Some(_) => None,
                None => match inner.table.pick(Instant::now(), pressed, share) {
                    Pick::Go(run) => break run,
                    Pick::Wait(until) => until,
                    Pick::Blocked(by) => {
                        let epoch = pool.epoch();
                        // The stray, or the end of its transfer, may be younger than the look above.
                        if inner.table.retire_strays(pool.retired()) {
                            continue;
                        }
                        drop(inner);
                        // The end of its transfer is the end of the stray. Another thread may have seen to it
                        // since the epoch was read.
                        if pool.retire_requests(epoch) {
                            return true;
                        }
                        self.fail(format!(
                            "the server has not answered a request for bytes {}-{} and may perform it still, \
                             over newer bytes: write the image again",
                            by.start,
                            by.end - 1
                        ));
                        return true;
                    }
                },
            };
            match wait {
                None => self.work.wait(&mut inner),
                Some(until) => {
                    let time = until.saturating_duration_since(Instant::now());
                    self.work.wait_for(&mut inner, time);
                }
            }
        };
        if inner.table.queued_cost() > 0 {
            // Another thread may take the rest now, or has to wait until a segment of it is due.
            self.work.notify_one();
        }
        inner.at_work += 1;
        drop(inner);
        let (start, begun) = (run[0].start, Instant::now());
        let done = catch_unwind(AssertUnwindSafe(|| {
            let Answered {
                mut lease,
                doubt,
                durable,
            } = match &*run[0].payload {
                Payload::Data(_) => pool.write(start, &run.iter().map(Flight::bytes).collect::<Vec<_>>())?,
                Payload::Zero(len) => pool.zero(start, *len)?,
            };
            // The writes must be in the journal before the connection can be flushed or lost.
            let mut inner = self.lock();
            if let Payload::Zero(len) = &*run[0].payload {
                inner.table.zeroed(*len, begun.elapsed());
            }
            for flight in run {
                let slot = self.journal_share.map(|_| lease.index());
                inner.table.landed(flight, slot, doubt);
            }
            if durable {
                inner.table.flushed(lease.index());
            }
            // Without the allowance, a server that drops each connection after some number of bytes would be
            // sent the same ones for ever.
            let (slot, table) = (lease.index(), &inner.table);
            let full = |share: usize| table.unflushed(slot) > share.min(table.allowance(slot));
            let full = self.journal_share.is_some_and(full);
            drop(inner);
            self.moved.notify_all();
            // Segments that conflicted with this flight may go now.
            self.work.notify_all();
            if full { lease.flush() } else { Ok(()) }
        }));
        self.lock().at_work -= 1;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.fail(e.to_string()),
            Err(_) => return self.broken(),
        }
        true
    }
}
