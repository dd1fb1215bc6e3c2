//! The lock around the write-behind table, and everything that waits on it.
//!
//! All of these wait on one mutex:
//! - a writer thread (one for each writing connection, [`threads`]) waits on `work` for a segment that may
//!   go;
//! - a write from the kernel waits on `moved` for room;
//! - a flush or close waits on `moved` until no earlier acknowledged write is left;
//! - a caller that needs the extents waits on `moved` for them.
//!
//! No request is made under the lock. The first failure stops the table: nothing more is sent, those that
//! wait for room or for the drain get the error, and acknowledged bytes stay readable until the end.

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
use super::zeros::map::ZeroMap;
use super::{DiskError, caller};
use crate::pool::Replay;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

/// Number of cells in a request of full size; writes are merged into cells. A free connection takes a full
/// cell at once; the more cells wait, the more go with one request. So a lone write leaves early, and a
/// stream makes large requests, which storage with high latency needs.
const CELLS_PER_REQUEST: u64 = 4;

/// The state under the lock: the size of the file, its holes, and the writes that are not durable yet.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) table: Table,
    /// Size of the file as its users see it, in bytes; at most the disk's.
    pub(crate) len: u64,
    /// `None` until the extents are known.
    pub(crate) zeros: Option<ZeroMap>,
    /// The server's extents tell zeros from data; a file or block backend reports all of a disk as data.
    pub(crate) zeros_told: bool,
    /// The ranges that no data was written to since the disk was opened.
    pub(crate) unwritten: ZeroMap,
    /// The ranges that changed since the extents were asked for; `None` when they are not on their way.
    pub(crate) changed_since: Option<Changes>,
    /// Number of writes that wait for room.
    waiting_for_room: usize,
    /// Number of writer threads with a request.
    at_work: u64,
    /// Set when the disk closes: writes are refused.
    closing: bool,
    /// Set when the writer threads have to end.
    stop: bool,
}

/// The ranges that changed while the extents were on their way.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<std::ops::Range<u64>>);

impl Changes {
    /// Upper bound on the number of ranges; beyond it, everything counts as changed.
    const MAX_RANGES: usize = 1 << 16;

    /// Notes that `range` has changed.
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
    /// True when zeros in `range` would continue a run of zeros before it, or are there already.
    pub(crate) fn follows_zeros(&self, range: &std::ops::Range<u64>) -> bool {
        let known = |range| self.zeros.as_ref().is_some_and(|zeros| zeros.covers(range));
        known(range.clone())
            || range.start > 0
                && (self.table.zeros_end_at(range.start) || known(range.start - 1..range.start))
    }
}

/// The write-behind of one disk, shared by all threads.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    inner: Mutex<Inner>,
    /// Notified when writer threads may find a segment to send.
    work: Condvar,
    /// Notified when a request was answered, the extents are known, or the disk fails or closes.
    moved: Condvar,
    /// Bytes of memory for unanswered writes from which on writes wait.
    limit: usize,
    /// Bytes in the journal above which a writing connection is flushed; with one request more, that is the
    /// connection's share of the journal. `None` without a journal.
    journal_share: Option<usize>,
    request_size: u64,
    writers: u64,
    /// Why nothing is sent any more.
    failure: OnceLock<String>,
}

impl WriteBehind {
    /// A write-behind for a file of `len` bytes. It holds at most `limit` bytes (and one write more) that are
    /// not answered, in requests of at most `request_size` bytes, and at most `journal` bytes (but at least
    /// one request for each of the `writers` connections) that are answered and not flushed.
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
                zeros_told: false,
                unwritten: ZeroMap::of(0..len),
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

    /// Returns the first failure: the reason why nothing is sent any more.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn check(&self) -> Result<(), DiskError> {
        self.failure()
            .map_or(Ok(()), |why| Err(DiskError::Failed(why.to_owned())))
    }

    /// Notes that the extents are asked for now: the answer may lack the writes that are pending.
    pub(crate) fn expect_zeros(&self) {
        let mut inner = self.lock();
        inner.changed_since = Some(Changes(inner.table.ranges().collect()));
    }

    /// Takes over the extents as `map`, without the ranges that changed meanwhile.
    pub(crate) fn learn_zeros(&self, mut map: ZeroMap) {
        let mut inner = self.lock();
        inner.zeros_told = map.bytes() > 0;
        for range in inner.changed_since.take().unwrap_or_default().0 {
            map.remove(range);
        }
        inner.zeros = Some(map);
        drop(inner);
        self.moved.notify_all();
    }

    /// Waits until the extents are known, or until `deadline`, or until the disk closes, or the caller has
    /// [gone](caller).
    pub(crate) fn await_zeros(&self, deadline: Option<Instant>) {
        let mut inner = self.lock();
        while inner.zeros.is_none() && !inner.closing && !caller::is_gone() {
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

    /// Notes a failure, of which the first one stays, and wakes all waiters.
    pub(crate) fn fail(&self, why: String) {
        let _lock = self.lock();
        if self.failure.set(why.clone()).is_ok() {
            info!("data may be lost: {why}");
        }
        self.work.notify_all();
        self.moved.notify_all();
    }

    /// Returns the number of the oldest write that is not known to be durable.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.lock().table.oldest_undurable()
    }

    /// Returns the number of the newest acknowledged write.
    pub(crate) fn last_seq(&self) -> u64 {
        self.lock().table.last_seq()
    }

    /// Waits until the table may take more, or the caller has [gone](caller). The caller changes it under the
    /// lock and then calls [`Self::accepted`].
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
            if caller::is_gone() {
                return Err(DiskError::Abandoned);
            }
        }
    }

    /// Has those that wait for room, or for the extents, look whether somebody waits for them.
    pub(crate) fn look_at_callers(&self) {
        // One that is about to wait has the lock, and would miss it.
        let _lock = self.lock();
        self.moved.notify_all();
    }

    /// Wakes a writer thread for a new segment.
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

    /// Refuses all further writes.
    pub(crate) fn refuse_writes(&self) {
        self.lock().closing = true;
        self.moved.notify_all();
    }

    /// Ends the writer threads; segments that are still in the table stay there.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
    }
}

/// The pool calls these with the connection's lease held. Slots beyond the writers carry no writes.
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
