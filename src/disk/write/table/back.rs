//! The outcome of a request: answered and then flushed, or lost and queued again, under anything newer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Flight, MAX_LINGER, Segment, Table};
use crate::disk::write::journal::Again;
use crate::disk::write::overlay::without;
use crate::disk::write::payload::Payload;
use crate::pool::Doubt;
use crate::sync::Instant;

impl Table {
    /// Notes that the server has performed `flight`. With a journal, `slot` is the connection that carried
    /// it. As long as `doubt` says, an earlier attempt at it may still be performed.
    pub(crate) fn landed(&mut self, flight: Flight, slot: Option<usize>, doubt: Option<Doubt>) {
        let own = self
            .flights
            .iter()
            .position(|f| Arc::ptr_eq(&f.payload, &flight.payload));
        drop(flight);
        // The table's own copy is taken, since its number may have changed meanwhile.
        let Flight {
            start,
            payload,
            seq,
            era,
        } = self
            .flights
            .swap_remove(own.expect("it was launched, and lands once"));
        self.discount(&payload);
        if let Some(doubt) = doubt {
            self.strays.add(start, payload.clone(), doubt);
        }
        let Some(slot) = slot else {
            if let Some(Payload::Data(bytes)) = Arc::into_inner(payload) {
                self.buffers.recycle(bytes);
            }
            return self.trim();
        };
        let freed = self.journal.note(start, payload, seq, slot);
        freed.into_iter().for_each(|bytes| self.buffers.recycle(bytes));
        self.trim();
        if era < self.era {
            // While this was in flight, the storage has reported a loss to another connection.
            self.take_back(Some(slot));
        }
    }

    /// Notes that no request made with a right below `retired` can be performed any more.
    pub(crate) fn retire_strays(&mut self, retired: u64) -> bool {
        self.strays.retire(retired)
    }

    /// Notes that a request that zeroed `bytes` bytes took `time`.
    pub(crate) fn zeroed(&mut self, bytes: u64, time: Duration) {
        self.pace.note(bytes, time);
    }

    /// Returns the memory in the journal that waits for a flush of connection `slot`, in bytes.
    pub(crate) fn unflushed(&self, slot: usize) -> usize {
        self.journal.cost(slot)
    }

    /// Returns how many bytes the connection in `slot` may have in the journal before it has to be flushed.
    pub(crate) fn allowance(&self, slot: usize) -> usize {
        self.allowance[slot]
    }

    /// Notes that every write that connection `slot` has answered is durable.
    pub(crate) fn flushed(&mut self, slot: usize) {
        self.allowance[slot] = self.allowance[slot].saturating_mul(2);
        let freed = self.journal.flushed(slot);
        freed.into_iter().for_each(|bytes| self.buffers.recycle(bytes));
        self.trim();
    }

    /// Queues again the writes that connection `slot` had answered and not flushed.
    pub(crate) fn lost(&mut self, slot: usize) {
        self.limit(slot);
        self.take_back(Some(slot));
    }

    /// Queues again the writes that any connection had answered and not flushed; those in flight follow when
    /// they are answered.
    pub(crate) fn lost_all(&mut self) {
        self.era += 1;
        (0..self.allowance.len()).for_each(|slot| self.limit(slot));
        self.take_back(None);
    }

    /// Lowers the allowance of `slot` after a loss of its writes in the journal.
    fn limit(&mut self, slot: usize) {
        let lost = self.journal.cost(slot);
        if lost > 0 {
            self.allowance[slot] = lost / 2;
        }
    }

    fn take_back(&mut self, slot: Option<usize>) {
        for again in self.journal.take(slot) {
            self.queue_again(again);
        }
    }

    /// Queues answered bytes again, where nothing newer is queued or in flight.
    fn queue_again(&mut self, (start, payload, seq): Again) {
        let whole = start..start + payload.len();
        self.age(&whole, seq);
        let first = self.before(start).map_or(start, |(s, _)| s);
        let hits = |range: &Range<u64>| range.start < whole.end && whole.start < range.end;
        let queued = self.queued.range(first..whole.end);
        let newer: Vec<Range<u64>> = queued
            .map(|(&s, seg)| s..s + seg.payload.len())
            .chain(self.flights.iter().map(|f| f.start..f.end()))
            .filter(hits)
            .collect();
        let gaps = newer.iter().fold(vec![whole.clone()], without);
        // These bytes have waited long enough.
        let born = Instant::now() - MAX_LINGER;
        if gaps == [whole] {
            return self.join(start, Segment { payload, seq, born });
        }
        for gap in gaps {
            let payload = payload.part(gap.start - start..gap.end - start);
            self.join(gap.start, Segment { payload, seq, born });
        }
    }

    /// Queues a segment in a gap of the queue; data in the same cell that ends where it begins takes it in.
    fn join(&mut self, start: u64, segment: Segment) {
        let left = self.data_before(start);
        let (Some(left), Payload::Data(bytes)) = (left, &segment.payload) else {
            return self.insert(start, segment);
        };
        let mut joined = self.take(left);
        if let Payload::Data(before) = &mut joined.payload {
            before.extend_from_slice(bytes);
        }
        joined.seq = joined.seq.min(segment.seq);
        joined.born = joined.born.min(segment.born);
        self.insert(left, joined);
    }

    /// Gives the segments that are queued or in flight in `range` the number `seq` if theirs is higher.
    fn age(&mut self, range: &Range<u64>, seq: u64) {
        let hit = |start: u64, end: u64| start < range.end && range.start < end;
        for flight in self.flights.iter_mut().filter(|f| hit(f.start, f.end())) {
            flight.seq = flight.seq.min(seq);
        }
        let first = self.before(range.start).map_or(range.start, |(s, _)| s);
        for (&start, segment) in self.queued.range_mut(first..range.end) {
            if hit(start, start + segment.payload.len()) && seq < segment.seq {
                self.by_age.remove(&(segment.seq, start));
                self.by_age.insert((seq, start));
                segment.seq = seq;
            }
        }
    }
}
