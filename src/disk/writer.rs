//! The lock around the write-behind table, the threads that empty it, and everybody who waits.
//!
//! Who waits for what, all on one mutex:
//! - a writer thread (one for each writing connection) waits on `work` for a segment that may go;
//! - a write from the kernel waits on `moved` for room;
//! - a flush or close waits on `moved` until nothing acknowledged before it is left.
//!
//! No request is made under the lock. The first failure stops the table: nothing more is sent, room
//! and drain waiters get the error, and what was acknowledged stays readable until the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use tracing::info;

use super::DiskError;
use super::pending::{Payload, Pick, Table};
use super::zeros::ZeroMap;
use crate::pool::Pool;

/// What the lock protects: the size of the file, its holes, and what isn't written yet.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) table: Table,
    /// Size of the file as its users see it, bytes; at most the disk's.
    pub(super) len: u64,
    /// `None` until the extents were asked for.
    pub(super) zeros: Option<ZeroMap>,
    /// While the extents are on their way: what changed meanwhile.
    pub(super) changed_since: Option<Vec<std::ops::Range<u64>>>,
    waiting_for_room: usize,
    closing: bool,
    stop: bool,
}

impl Inner {
    /// True when zeros at `offset` would extend a run of zeros that ends there.
    pub(super) fn follows_zeros(&self, offset: u64) -> bool {
        offset > 0
            && (self.table.zeros_end_at(offset)
                || self
                    .zeros
                    .as_ref()
                    .is_some_and(|zeros| zeros.covers(offset - 1..offset)))
    }
}

/// The shared half of the write-behind.
#[derive(Debug)]
pub(super) struct WriteBehind {
    inner: Mutex<Inner>,
    work: Condvar,
    moved: Condvar,
    limit: usize,
    failure: OnceLock<String>,
}

impl WriteBehind {
    /// Holds at most `limit` bytes (and one write more), in requests of at most `request_size` bytes.
    pub(super) fn new(len: u64, limit: usize, request_size: u64) -> Self {
        WriteBehind {
            inner: Mutex::new(Inner {
                table: Table::new(request_size),
                len,
                zeros: None,
                changed_since: None,
                waiting_for_room: 0,
                closing: false,
                stop: false,
            }),
            work: Condvar::new(),
            moved: Condvar::new(),
            limit,
            failure: OnceLock::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Why nothing is written any more.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(super) fn check(&self) -> Result<(), DiskError> {
        self.failure()
            .map_or(Ok(()), |why| Err(DiskError::Failed(why.to_owned())))
    }

    /// Notes the first failure for good and wakes everybody.
    pub(super) fn fail(&self, why: String) {
        let _lock = self.lock();
        if self.failure.set(why.clone()).is_ok() {
            info!("data may be lost: {why}");
        }
        self.work.notify_all();
        self.moved.notify_all();
    }

    /// Number of the newest acknowledged write.
    pub(super) fn last_seq(&self) -> u64 {
        self.lock().table.last_seq()
    }

    /// Waits until the table may take more; the caller changes it and calls [`Self::accepted`].
    pub(super) fn room(&self) -> Result<MutexGuard<'_, Inner>, DiskError> {
        let mut inner = self.lock();
        loop {
            self.check()?;
            if inner.closing {
                return Err(DiskError::Closing);
            }
            if inner.table.cost() < self.limit {
                return Ok(inner);
            }
            inner.waiting_for_room += 1;
            self.work.notify_all();
            inner = self.moved.wait(inner).unwrap_or_else(|e| e.into_inner());
            inner.waiting_for_room -= 1;
        }
    }

    /// There is something new in the table.
    pub(super) fn accepted(&self) {
        self.work.notify_one();
    }

    /// Waits until the server has answered everything that was acknowledged before the call.
    pub(super) fn drain(&self) -> Result<(), DiskError> {
        let mut inner = self.lock();
        let mark = inner.table.last_seq();
        inner.table.hurry(mark);
        self.work.notify_all();
        loop {
            self.check()?;
            if inner.table.oldest().is_none_or(|oldest| oldest > mark) {
                return Ok(());
            }
            inner = self.moved.wait(inner).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// From now on writes are refused.
    pub(super) fn refuse_writes(&self) {
        self.lock().closing = true;
        self.moved.notify_all();
    }

    /// Ends the writer threads; what is still in the table stays there.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
    }

    /// Starts one writer thread for each connection that may write.
    pub(super) fn start(self: &Arc<Self>, pool: &Arc<Pool>) -> std::io::Result<Vec<JoinHandle<()>>> {
        let spawn = |n| {
            let (shared, pool) = (self.clone(), pool.clone());
            let builder = std::thread::Builder::new().name(format!("writer-{n}"));
            builder.spawn(move || while shared.perform_next(&pool) {})
        };
        (1..=pool.writers()).map(spawn).collect()
    }

    fn perform_next(&self, pool: &Pool) -> bool {
        let mut inner = self.lock();
        let flight = loop {
            if inner.stop {
                return false;
            }
            let pressed = inner.waiting_for_room > 0;
            let wait = match self.failure() {
                Some(_) => None,
                None => match inner.table.pick(Instant::now(), pressed) {
                    Pick::Go(flight) => break flight,
                    Pick::Wait(until) => until,
                },
            };
            inner = match wait {
                None => self.work.wait(inner).unwrap_or_else(|e| e.into_inner()),
                Some(until) => {
                    let time = until.saturating_duration_since(Instant::now());
                    self.work
                        .wait_timeout(inner, time)
                        .unwrap_or_else(|e| e.into_inner())
                        .0
                }
            };
        };
        drop(inner);
        let done = catch_unwind(AssertUnwindSafe(|| match &*flight.payload {
            Payload::Data(bytes) => pool.write(flight.start, bytes),
            Payload::Zero(len) => pool.zero(flight.start, *len),
        }));
        match done {
            Ok(Ok(())) => {
                self.lock().table.landed(flight);
                self.moved.notify_all();
                // What conflicted with this flight may go now.
                self.work.notify_all();
            }
            Ok(Err(e)) => self.fail(e.to_string()),
            Err(_) => self.fail("internal error in a writer thread".into()),
        }
        true
    }
}
