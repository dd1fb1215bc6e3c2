//! The lock around the write-behind table, the threads that empty it, and everybody who waits.
//!
//! Who waits for what, all on one mutex:
//! - a writer thread (one for each writing connection) waits on `work` for a segment that may go;
//! - a write from the kernel waits on `moved` for room;
//! - a flush or close waits on `moved` until nothing acknowledged before it is left.
//!
//! No request is made under the lock. The first failure stops the table: nothing more is sent, room
//! and drain waiters get the error, and what was acknowledged stays readable until the end.

use std::sync::OnceLock;

use tracing::info;

mod buffers;
mod journal;
mod overlay;
pub(crate) mod payload;
mod strays;
pub(crate) mod table;
mod threads;

use self::table::Table;
use super::DiskError;
use super::zeros::map::ZeroMap;
use crate::pool::Replay;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

/// Writes are merged into cells of this part of a request. A connection that is free takes a full cell at once; the more
/// cells wait, the more go with one request. So a lone write is on its way early, and a stream makes large requests, which
/// is what storage with a long way to it wants.
const CELLS_PER_REQUEST: u64 = 4;

/// What the lock protects: the size of the file, its holes, and what isn't written yet.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) table: Table,
    /// Size of the file as its users see it, bytes; at most the disk's.
    pub(crate) len: u64,
    /// `None` until the extents are here.
    pub(crate) zeros: Option<ZeroMap>,
    /// While the extents are on their way: what changed meanwhile.
    pub(crate) changed_since: Option<Changes>,
    waiting_for_room: usize,
    /// Writer threads with a request.
    at_work: u64,
    closing: bool,
    stop: bool,
}

/// Ranges that were written while the extents were on their way.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<std::ops::Range<u64>>);

impl Changes {
    /// Ranges remembered at most; beyond, all has changed.
    const MAX_RANGES: usize = 1 << 16;

    /// `range` has changed.
    pub(crate) fn note(&mut self, range: std::ops::Range<u64>) {
        let full = self.0.len() == Self::MAX_RANGES;
        match self.0.last_mut() {
            Some(last) if last.start <= range.start && range.start <= last.end => {
                last.end = last.end.max(range.end)
            }
            _ if full => self.0 = std::iter::once(0..u64::MAX).collect(),
            _ => self.0.push(range),
        }
    }
}

impl Inner {
    /// True when zeros in `range` would extend a run of zeros that ends there, or are there already.
    pub(crate) fn follows_zeros(&self, range: &std::ops::Range<u64>) -> bool {
        let known = |range| self.zeros.as_ref().is_some_and(|zeros| zeros.covers(range));
        known(range.clone())
            || range.start > 0
                && (self.table.zeros_end_at(range.start) || known(range.start - 1..range.start))
    }
}

/// The shared half of the write-behind.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    inner: Mutex<Inner>,
    work: Condvar,
    moved: Condvar,
    limit: usize,
    /// What each writing connection may add to the journal before it is flushed, bytes; with one request more, that is its
    /// share. `None` without a journal.
    journal_share: Option<usize>,
    request_size: u64,
    writers: u64,
    failure: OnceLock<String>,
}

impl WriteBehind {
    /// Holds at most `limit` bytes (and one write more) that are not answered, in requests of at most `request_size`
    /// bytes, and `journal` bytes (but at least one request for each connection) that are not flushed.
    pub(crate) fn new(len: u64, limit: usize, journal: u64, request_size: u64, writers: usize) -> Self {
        WriteBehind {
            inner: Mutex::new(Inner {
                table: Table::new(
                    request_size / CELLS_PER_REQUEST,
                    writers,
                    limit.saturating_add(journal as usize),
                ),
                len,
                zeros: None,
                changed_since: None,
                waiting_for_room: 0,
                at_work: 0,
                closing: false,
                stop: false,
            }),
            work: Condvar::new(),
            moved: Condvar::new(),
            limit,
            journal_share: (journal > 0)
                .then(|| (journal as usize / writers).saturating_sub(request_size as usize)),
            request_size,
            writers: writers as u64,
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Why nothing is written any more.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn check(&self) -> Result<(), DiskError> {
        self.failure()
            .map_or(Ok(()), |why| Err(DiskError::Failed(why.to_owned())))
    }

    /// The extents are asked for now: what is pending may not be in the answer.
    pub(crate) fn expect_zeros(&self) {
        let mut inner = self.lock();
        inner.changed_since = Some(Changes(inner.table.ranges().collect()));
    }

    /// The extents are here.
    pub(crate) fn learn_zeros(&self, mut map: ZeroMap) {
        let mut inner = self.lock();
        for range in inner.changed_since.take().unwrap_or_default().0 {
            map.remove(range);
        }
        inner.zeros = Some(map);
        drop(inner);
        self.moved.notify_all();
    }

    /// Waits until the extents are here, or until `deadline`, or until the disk closes.
    pub(crate) fn await_zeros(&self, deadline: Option<Instant>) {
        let mut inner = self.lock();
        while inner.zeros.is_none() && !inner.closing {
            let now = Instant::now();
            match deadline {
                None => self.moved.wait(&mut inner),
                Some(at) if at <= now => return,
                Some(at) => {
                    self.moved.wait_for(&mut inner, at - now);
                }
            }
        }
    }

    /// Notes the first failure for good and wakes everybody.
    pub(crate) fn fail(&self, why: String) {
        let _lock = self.lock();
        if self.failure.set(why.clone()).is_ok() {
            info!("data may be lost: {why}");
        }
        self.work.notify_all();
        self.moved.notify_all();
    }

    /// Number of the oldest write that is not on the storage for good.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.lock().table.oldest_undurable()
    }

    /// Number of the newest acknowledged write.
    pub(crate) fn last_seq(&self) -> u64 {
        self.lock().table.last_seq()
    }

    /// Waits until the table may take more; the caller changes it and calls [`Self::accepted`].
    pub(crate) fn room(&self) -> Result<MutexGuard<'_, Inner>, DiskError> {
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
            self.moved.wait(&mut inner);
            inner.waiting_for_room -= 1;
        }
    }

    /// There is something new in the table.
    pub(crate) fn accepted(&self) {
        self.work.notify_one();
    }

    /// Waits until the server has answered everything that was acknowledged before the call.
    pub(crate) fn drain(&self) -> Result<(), DiskError> {
        let mut inner = self.lock();
        let mark = inner.table.last_seq();
        inner.table.hurry(mark);
        self.work.notify_all();
        loop {
            self.check()?;
            if inner.table.oldest().is_none_or(|oldest| oldest > mark) {
                return Ok(());
            }
            self.moved.wait(&mut inner);
        }
    }

    /// From now on writes are refused.
    pub(crate) fn refuse_writes(&self) {
        self.lock().closing = true;
        self.moved.notify_all();
    }

    /// Ends the writer threads; what is still in the table stays there.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
    }
}

/// The pool tells, with the connection's lease held.
impl Replay for WriteBehind {
    fn durable(&self, slot: usize) {
        if (slot as u64) < self.writers {
            self.lock().table.flushed(slot);
        }
    }

    fn replay(&self, slot: usize) {
        if (slot as u64) < self.writers {
            self.lock().table.lost(slot);
            self.work.notify_all();
        }
    }

    fn replay_all(&self) {
        self.lock().table.lost_all();
        self.work.notify_all();
    }
}
