//! The write-behind table: writes that are acknowledged and not known to be durable on the server.
//!
//! A write is copied once, into a *segment*. Neighbours grow into one segment up to a *cell*, and newer bytes
//! replace older ones in place. A writer thread [picks](Table::pick) the oldest segment that is worth a
//! request and that touches no block of a request *in flight*. So requests in flight are disjoint,
//! overlapping writes reach the server in the order in which they were acknowledged, and two connections
//! never rewrite parts of one block (a file backend would lose one of them).
//!
//! Answered writes move from `flights` into the [journal](super::journal) until they are flushed; when the
//! connection that carried them is lost before that, they are queued again, under anything newer. So the
//! newest bytes of any offset are in `queued`, else in `flights`, else in the journal, else on the server.
//! [`Table::overlay`] shows a read just that, also while a server that has restarted has forgotten the bytes
//! in the journal. A segment over one of the [strays](super::strays) waits for it.
//!
//! Every segment carries the sequence number of its oldest write; a flush waits until no number at or below
//! its mark is left. Bytes that replace others which are not durable take over their number: the writes that
//! were acknowledged before the flush may have been replaced since, but as long as neither the old bytes nor
//! the new ones are durable, something with that number is left for the flush to wait for.
//!
//! This is the plain data structure; its parent has the lock, the threads and the waiting. Here writes come
//! in; [`out`] chooses the segments of a request, and [`back`] takes the outcome: answered, flushed, or lost
//! and queued again.

mod back;
mod flight;
mod out;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

pub(crate) use self::flight::{Flight, Pick};
use super::buffers::Buffers;
use super::journal::Journal;
use super::overlay::Placed;
use super::payload::Payload;
use super::strays::Strays;
use crate::disk::zeros::pace::Pace;
use crate::sync::Instant;

/// Time that a segment which isn't full waits for neighbours, unless a thread waits for it.
const MAX_LINGER: Duration = Duration::from_millis(20);

/// Upper bound on the segments that one pick looks at; the others are younger, and their turn comes.
const MAX_SEGMENTS_PER_LOOK: usize = 64;

/// Upper bound on the segments that go with one request.
const MAX_SEGMENTS_PER_REQUEST: usize = 64;

/// Size in bytes from which on a write is likely part of a stream and gets the buffer of a whole cell.
const MIN_STREAM_WRITE_BYTES: usize = 128 << 10;

/// A change that waits to be sent.
#[derive(Debug)]
struct Segment {
    payload: Payload,
    /// Number of its oldest write.
    seq: u64,
    /// When its first write came.
    born: Instant,
}

/// The table; the head of this file describes it.
#[derive(Debug)]
pub(crate) struct Table {
    /// Size of a cell in bytes. A data segment never crosses a multiple of it, so a long stream becomes
    /// aligned PUTs of this size.
    cell: u64,
    /// Disjoint segments by their first byte.
    queued: BTreeMap<u64, Segment>,
    /// Number and first byte of each queued segment.
    by_age: BTreeSet<(u64, u64)>,
    flights: Vec<Flight>,
    journal: Journal,
    strays: Strays,
    /// Number of times that the storage has reported a loss.
    era: u64,
    /// Upper bound on the zeros of one request. A write to the same place has to wait while the request is in
    /// flight or in doubt.
    pace: Pace,
    /// For each slot, how many bytes its connection may carry unflushed: half of the bytes that were lost
    /// with the last one, then twice as many after each flush that succeeds. So there is progress with
    /// connections that never live for long, and little is sent again.
    allowance: Vec<usize>,
    /// Memory of `queued` and `flights` in bytes.
    cost: usize,
    /// Bytes of data in that memory.
    content: usize,
    last_seq: u64,
    /// Number up to which segments go out at once.
    urgent: u64,
    buffers: Buffers,
}

impl Table {
    /// Creates an empty table that merges writes into segments of at most `cell` bytes, for connections in
    /// `slots` slots. It keeps free buffers as long as all of it takes at most `memory` bytes.
    pub(crate) fn new(cell: u64, slots: usize, memory: usize) -> Self {
        Table {
            cell,
            queued: BTreeMap::new(),
            by_age: BTreeSet::new(),
            flights: Vec::new(),
            journal: Journal::new(slots),
            strays: Strays::default(),
            era: 0,
            pace: Pace::new(),
            allowance: vec![usize::MAX; slots],
            cost: 0,
            content: 0,
            last_seq: 0,
            urgent: 0,
            buffers: Buffers::new(cell as usize, memory),
        }
    }

    /// Returns the memory of writes without an answer, in bytes, with an overhead for each segment.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// Returns the part of [`Self::cost`] that is not in flight.
    pub(crate) fn queued_cost(&self) -> usize {
        self.cost - self.flights.iter().map(|f| f.payload.cost()).sum::<usize>()
    }

    /// Returns the bytes of data in memory that are not known to be durable: those without an answer, and
    /// those in the journal.
    pub(crate) fn undurable_bytes(&self) -> u64 {
        self.content as u64 + self.journal.content()
    }

    /// Returns the number of the newest acknowledged write.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Returns the number of the oldest write that the server hasn't answered.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let queued = self.by_age.first().map(|&(seq, _)| seq);
        let flying = self.flights.iter().map(|f| f.seq).min();
        queued.into_iter().chain(flying).min()
    }

    /// Lets no segment numbered up to `seq` wait for neighbours any more.
    pub(crate) fn hurry(&mut self, seq: u64) {
        self.urgent = self.urgent.max(seq);
    }

    /// Acknowledges `data` at `offset`.
    pub(crate) fn write(&mut self, offset: u64, mut data: &[u8]) {
        self.last_seq += 1;
        let mut start = offset;
        while !data.is_empty() {
            let n = ((self.cell - start % self.cell) as usize).min(data.len());
            let (piece, rest) = data.split_at(n);
            self.put(start, piece);
            start += n as u64;
            data = rest;
        }
        self.trim();
    }

    /// Acknowledges `bytes` at `offset`, which lie within one cell; they are not copied.
    pub(crate) fn adopt(&mut self, offset: u64, bytes: Vec<u8>) {
        self.last_seq += 1;
        let range = offset..offset + bytes.len() as u64;
        let seq = self.carve(&range).unwrap_or(self.last_seq);
        let segment = Segment {
            payload: Payload::Data(bytes),
            seq,
            born: Instant::now(),
        };
        self.insert(offset, segment);
        self.trim();
    }

    /// Returns the size of a cell in bytes.
    pub(crate) fn cell(&self) -> u64 {
        self.cell
    }

    /// Returns a buffer as long as a cell, to be filled and given to [`Self::adopt`].
    pub(crate) fn lend(&mut self) -> Vec<u8> {
        self.buffers.filled()
    }

    /// Takes back a buffer that was lent and is not adopted.
    pub(crate) fn take_back_lent(&mut self, bytes: Vec<u8>) {
        self.buffers.recycle(bytes);
        self.trim();
    }

    /// Acknowledges zeros in `range`.
    pub(crate) fn zero(&mut self, range: Range<u64>) {
        self.last_seq += 1;
        let mut seq = self.carve(&range).unwrap_or(self.last_seq);
        let (mut start, mut end, mut born) = (range.start, range.end, Instant::now());
        let left = self
            .before(start)
            .filter(|&(s, seg)| s + seg.payload.len() == start)
            .map(|(s, _)| s);
        for neighbour in [left, Some(end)].into_iter().flatten() {
            if let Some(Segment {
                payload: Payload::Zero(len),
                ..
            }) = self.queued.get(&neighbour)
            {
                let len = *len;
                let old = self.take(neighbour);
                start = start.min(neighbour);
                end = end.max(neighbour + len);
                (seq, born) = (seq.min(old.seq), born.min(old.born));
            }
        }
        self.insert(
            start,
            Segment {
                payload: Payload::Zero(end - start),
                seq,
                born,
            },
        );
    }

    /// Queues `piece`, which lies within one cell, at `start`.
    fn put(&mut self, start: u64, piece: &[u8]) {
        let end = start + piece.len() as u64;
        if let Some(older) = self.data_over(&(start..end)) {
            // The number of the older segment covers the newer bytes, too.
            older.copy_from_slice(piece);
            return;
        }
        let seq = self.carve(&(start..end)).unwrap_or(self.last_seq);
        // A neighbour on the left in the same cell takes the bytes in; they take in one on the right.
        let (at, mut segment) = match self.data_before(start) {
            Some(s) => (s, self.take(s)),
            None => {
                let bytes = self.buffer(piece.len());
                let payload = Payload::Data(bytes);
                (
                    start,
                    Segment {
                        payload,
                        seq,
                        born: Instant::now(),
                    },
                )
            }
        };
        let Payload::Data(bytes) = &mut segment.payload else {
            unreachable!("only data was taken")
        };
        bytes.extend_from_slice(piece);
        segment.seq = segment.seq.min(seq);
        let is_data = |segment: &Segment| matches!(segment.payload, Payload::Data(_));
        if end % self.cell != 0 && self.queued.get(&end).is_some_and(is_data) {
            let right = self.take(end);
            let Payload::Data(more) = right.payload else {
                unreachable!("just seen")
            };
            bytes.extend_from_slice(&more);
            segment.seq = segment.seq.min(right.seq);
            segment.born = segment.born.min(right.born);
            self.buffers.recycle(more);
        }
        self.insert(at, segment);
    }

    /// Removes `range` from the queue. The parts of segments outside of it stay, with their age. Returns the
    /// lowest number that was there.
    fn carve(&mut self, range: &Range<u64>) -> Option<u64> {
        let first = self.before(range.start).map_or(range.start, |(s, _)| s);
        let touched: Vec<u64> = self.queued.range(first..range.end).map(|(&s, _)| s).collect();
        let mut oldest = None;
        for s in touched {
            let e = s + self.queued[&s].payload.len();
            if e <= range.start {
                continue;
            }
            let Segment { payload, seq, born } = self.take(s);
            oldest = Some(oldest.map_or(seq, |oldest: u64| oldest.min(seq)));
            let (left, right) = match payload {
                Payload::Zero(_) => (
                    Payload::Zero(range.start.saturating_sub(s)),
                    Payload::Zero(e.saturating_sub(range.end)),
                ),
                Payload::Data(mut bytes) => {
                    let right = match e > range.end {
                        true => bytes[(range.end - s) as usize..].to_vec(),
                        false => Vec::new(),
                    };
                    bytes.truncate(range.start.saturating_sub(s) as usize);
                    (Payload::Data(bytes), Payload::Data(right))
                }
            };
            for (at, payload) in [(s, left), (range.end, right)] {
                match payload {
                    payload if payload.len() > 0 => self.insert(at, Segment { payload, seq, born }),
                    Payload::Data(bytes) => self.buffers.recycle(bytes),
                    Payload::Zero(_) => {}
                }
            }
        }
        oldest
    }

    /// Returns the last queued segment that begins before `offset`, and its first byte.
    fn before(&self, offset: u64) -> Option<(u64, &Segment)> {
        self.queued.range(..offset).next_back().map(|(&s, seg)| (s, seg))
    }

    fn count(&mut self, payload: &Payload) {
        self.cost += payload.cost();
        self.content += payload.content();
    }

    fn discount(&mut self, payload: &Payload) {
        self.cost -= payload.cost();
        self.content -= payload.content();
    }

    fn insert(&mut self, start: u64, segment: Segment) {
        self.count(&segment.payload);
        self.by_age.insert((segment.seq, start));
        self.queued.insert(start, segment);
    }

    fn take(&mut self, start: u64) -> Segment {
        let segment = self.queued.remove(&start).expect("the caller saw it");
        self.by_age.remove(&(segment.seq, start));
        self.discount(&segment.payload);
        segment
    }

    /// Returns the queued bytes of `range` when one segment with data holds all of them.
    fn data_over(&mut self, range: &Range<u64>) -> Option<&mut [u8]> {
        let (start, segment) = self.queued.range_mut(..=range.start).next_back()?;
        let Payload::Data(bytes) = &mut segment.payload else {
            return None;
        };
        let at = |offset: u64| (offset - start) as usize;
        bytes.get_mut(at(range.start)..at(range.end))
    }

    /// Returns the start of the queued data that ends at `start`, if it is in the same cell.
    fn data_before(&self, start: u64) -> Option<u64> {
        let (s, segment) = self.before(start)?;
        let is_data = matches!(segment.payload, Payload::Data(_));
        (is_data && s + segment.payload.len() == start && s / self.cell == start / self.cell).then_some(s)
    }

    /// Returns the number of the oldest write that is not known to be durable.
    pub(crate) fn oldest_undurable(&self) -> Option<u64> {
        self.oldest().into_iter().chain(self.journal.oldest()).min()
    }

    /// True when every write numbered up to `seq` is durable.
    #[cfg(test)]
    pub(crate) fn is_durable(&self, seq: u64) -> bool {
        self.oldest_undurable().is_none_or(|oldest| oldest > seq)
    }

    /// True when any acknowledged byte of `range` is not known to be durable.
    pub(crate) fn touches(&self, range: &Range<u64>) -> bool {
        let queued = self.queued.range(..range.end).next_back();
        queued.is_some_and(|(s, seg)| s + seg.payload.len() > range.start)
            || self.journal.touches(range)
            || self
                .flights
                .iter()
                .any(|f| f.start < range.end && range.start < f.end())
    }

    /// True when a segment of zeros is queued that ends at `offset`.
    pub(crate) fn zeros_end_at(&self, offset: u64) -> bool {
        self.before(offset).is_some_and(
            |(start, segment)| matches!(segment.payload, Payload::Zero(len) if start + len == offset),
        )
    }

    /// Returns the ranges of all writes that the server has not answered.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let queued = self.queued.iter().map(|(&s, seg)| s..s + seg.payload.len());
        queued.chain(self.flights.iter().map(|f| f.start..f.end()))
    }

    /// Copies the acknowledged bytes of `offset..` into `buf`; returns the ranges that it has no bytes of, in
    /// ascending order.
    pub(crate) fn overlay(&self, offset: u64, buf: &mut [u8]) -> Vec<Range<u64>> {
        let end = offset + buf.len() as u64;
        let mut gaps: Vec<Range<u64>> = std::iter::once(offset..end).filter(|r| !r.is_empty()).collect();
        let first = self.before(offset).map_or(offset, |(s, _)| s);
        let queued = self
            .queued
            .range(first..end)
            .map(|(&s, seg)| Placed::whole(s, &seg.payload));
        let flights = self.flights.iter().map(|f| Placed::whole(f.start, &f.payload));
        for layer in queued.chain(flights).chain(self.journal.within(offset..end)) {
            gaps = layer.fill(gaps, offset, buf);
        }
        gaps
    }

    /// Returns an empty buffer for a piece of `len` bytes. It has room for a whole cell if more bytes are
    /// likely to follow, unless the unused room of all buffers exceeds the bytes in them.
    fn buffer(&mut self, len: usize) -> Vec<u8> {
        match len < MIN_STREAM_WRITE_BYTES || self.cost > 2 * self.content + self.cell as usize {
            true => Vec::with_capacity(len),
            false => self.buffers.whole(),
        }
    }

    /// Frees buffers that exceed the limit; called after every change of the memory held.
    fn trim(&mut self) {
        self.buffers.trim(self.cost + self.journal.total());
    }
}

#[cfg(test)]
mod tests;
