//! The write-behind table: what was acknowledged and isn't on the server yet.
//!
//! A write is copied once, into a *segment*; neighbours grow into one segment up to a *cell*, newer
//! bytes replace older ones in place. A writer thread [picks](Table::pick) the oldest segment that is
//! worth a request and that touches no block of a request *in flight*; so requests in flight are
//! disjoint, overlapping writes reach the server in the order in which they were acknowledged, and
//! two connections never rewrite parts of one block (a file backend would lose one of them).
//!
//! The newest bytes of any offset are in `queued`, else in `flights`, else on the server:
//! [`Table::overlay`] lets a read see that. Every segment carries the sequence number of its oldest
//! write; a flush waits until none at or below its mark is left.
//!
//! This is the plain data structure; `writer` has the lock, the threads and the waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests in flight never share a block of this many bytes: the largest unit that a file backend
/// rewrites as a whole (4096 on NFS and 4Kn disks).
const BLOCK: u64 = 4096;

/// A segment that isn't full waits this long for neighbours, unless somebody waits for it.
const LINGER: Duration = Duration::from_millis(20);

/// Segments looked at for one pick; those behind are younger, and their turn comes.
const SCAN: usize = 64;

/// What a segment costs beside its bytes, bytes; bounds the number of tiny ones.
const OVERHEAD: usize = 256;

/// A write of at least this many bytes is likely part of a stream and gets a whole cell's buffer.
const STREAM_WRITE: usize = 128 << 10;

/// Memory kept in buffers for the next writes, bytes. As much as the table of a fast stream holds: what is freed and
/// asked for again by many threads costs fresh pages, and more of them each time.
const SPARE: usize = 64 << 20;

/// What to do with a range.
#[derive(Debug)]
pub(super) enum Payload {
    /// Write these bytes.
    Data(Vec<u8>),
    /// Make this many bytes zero.
    Zero(u64),
}

impl Payload {
    fn len(&self) -> u64 {
        match self {
            Payload::Data(bytes) => bytes.len() as u64,
            Payload::Zero(len) => *len,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Payload::Data(bytes) => bytes.len() + OVERHEAD,
            Payload::Zero(_) => OVERHEAD,
        }
    }
}

#[derive(Debug)]
struct Segment {
    payload: Payload,
    /// Of its oldest write.
    seq: u64,
    born: Instant,
}

/// A request that a writer thread is performing, or that failed: then its bytes stay, so that reads
/// go on to return what was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) start: u64,
    pub(super) payload: Arc<Payload>,
    seq: u64,
}

impl Flight {
    fn end(&self) -> u64 {
        self.start + self.payload.len()
    }

    /// The bytes of a flight with data.
    pub(super) fn bytes(&self) -> &[u8] {
        match &*self.payload {
            Payload::Data(bytes) => bytes,
            Payload::Zero(_) => &[],
        }
    }
}

/// The answer of [`Table::pick`].
#[derive(Debug)]
pub(super) enum Pick {
    /// Perform these with one request, then call [`Table::landed`] with each: neighbours with data, or a single one.
    Go(Vec<Flight>),
    /// Nothing now; look again at that time, or when something changed.
    Wait(Option<Instant>),
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Table {
    /// A data segment never crosses a multiple of this many bytes, so a long stream becomes aligned PUTs of
    /// this size.
    cell: u64,
    queued: BTreeMap<u64, Segment>,
    by_age: BTreeSet<(u64, u64)>,
    flights: Vec<Flight>,
    cost: usize,
    last_seq: u64,
    /// Segments at or below this number go out at once.
    urgent: u64,
    spare: Vec<Vec<u8>>,
    cells: usize,
}

impl Table {
    /// An empty table that merges writes into requests of at most `cell` bytes.
    pub(super) fn new(cell: u64) -> Self {
        Table {
            cell,
            queued: BTreeMap::new(),
            by_age: BTreeSet::new(),
            flights: Vec::new(),
            cost: 0,
            last_seq: 0,
            urgent: 0,
            spare: Vec::new(),
            cells: 0,
        }
    }

    /// Bytes held, with an overhead for each segment.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Of [`Self::cost`], what isn't in flight.
    pub(super) fn queued_cost(&self) -> usize {
        self.cost - self.flights.iter().map(|f| f.payload.cost()).sum::<usize>()
    }

    /// Number of the newest acknowledged write.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Number of the oldest write that the server hasn't answered.
    pub(super) fn oldest(&self) -> Option<u64> {
        let queued = self.by_age.first().map(|&(seq, _)| seq);
        let flying = self.flights.iter().map(|f| f.seq).min();
        queued.into_iter().chain(flying).min()
    }

    /// From now on nothing numbered up to `seq` waits for neighbours.
    pub(super) fn hurry(&mut self, seq: u64) {
        self.urgent = self.urgent.max(seq);
    }

    /// Acknowledges `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        self.last_seq += 1;
        let mut start = offset;
        while !data.is_empty() {
            let n = ((self.cell - start % self.cell) as usize).min(data.len());
            let (piece, rest) = data.split_at(n);
            self.put(start, piece);
            start += n as u64;
            data = rest;
        }
    }

    /// Acknowledges zeros in `range`.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        self.last_seq += 1;
        self.carve(&range);
        let (mut start, mut end, mut seq, mut born) = (range.start, range.end, self.last_seq, Instant::now());
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

    fn put(&mut self, start: u64, piece: &[u8]) {
        let end = start + piece.len() as u64;
        // Newer bytes inside an older segment: the segment's number covers them.
        if let Some((s, seg)) = self.queued.range_mut(..=start).next_back()
            && let Payload::Data(bytes) = &mut seg.payload
            && s + bytes.len() as u64 >= end
        {
            let at = (start - s) as usize;
            bytes[at..at + piece.len()].copy_from_slice(piece);
            return;
        }
        self.carve(&(start..end));
        // A neighbour on the left in the same cell takes the bytes; one on the right is taken in.
        let left = self.before(start).filter(|&(s, seg)| {
            matches!(seg.payload, Payload::Data(_))
                && s + seg.payload.len() == start
                && s / self.cell == start / self.cell
        });
        let (at, mut segment) = match left.map(|(s, _)| s) {
            Some(s) => (s, self.take(s)),
            None => {
                let bytes = self.buffer(piece.len());
                let payload = Payload::Data(bytes);
                (
                    start,
                    Segment {
                        payload,
                        seq: self.last_seq,
                        born: Instant::now(),
                    },
                )
            }
        };
        let Payload::Data(bytes) = &mut segment.payload else {
            unreachable!("only data was taken")
        };
        bytes.extend_from_slice(piece);
        if !end.is_multiple_of(self.cell)
            && let Some(Segment {
                payload: Payload::Data(_),
                ..
            }) = self.queued.get(&end)
        {
            let right = self.take(end);
            let Payload::Data(more) = right.payload else {
                unreachable!("just seen")
            };
            bytes.extend_from_slice(&more);
            segment.seq = segment.seq.min(right.seq);
            segment.born = segment.born.min(right.born);
            self.recycle(more);
        }
        self.insert(at, segment);
    }

    /// Removes `range` from what is queued; what sticks out on both sides stays, as old as it was.
    fn carve(&mut self, range: &Range<u64>) {
        let first = self.before(range.start).map_or(range.start, |(s, _)| s);
        let touched: Vec<u64> = self.queued.range(first..range.end).map(|(&s, _)| s).collect();
        for s in touched {
            let e = s + self.queued[&s].payload.len();
            if e <= range.start {
                continue;
            }
            let Segment { payload, seq, born } = self.take(s);
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
                    Payload::Data(bytes) => self.recycle(bytes),
                    Payload::Zero(_) => {}
                }
            }
        }
    }

    fn before(&self, offset: u64) -> Option<(u64, &Segment)> {
        self.queued.range(..offset).next_back().map(|(&s, seg)| (s, seg))
    }

    fn insert(&mut self, start: u64, segment: Segment) {
        self.cost += segment.payload.cost();
        self.by_age.insert((segment.seq, start));
        self.queued.insert(start, segment);
    }

    fn take(&mut self, start: u64) -> Segment {
        let segment = self.queued.remove(&start).expect("the caller saw it");
        self.by_age.remove(&(segment.seq, start));
        self.cost -= segment.payload.cost();
        segment
    }

    /// What to send now, at most `most` bytes of data. With `pressed`, somebody waits for room and nothing lingers.
    pub(super) fn pick(&mut self, now: Instant, pressed: bool, most: u64) -> Pick {
        let mut next_look = None;
        let mut found = None;
        for &(_, start) in self.by_age.iter().take(SCAN) {
            let segment = &self.queued[&start];
            let end = start + segment.payload.len();
            if self
                .flights
                .iter()
                .any(|flight| share_block(&(start..end), &(flight.start..flight.end())))
            {
                continue;
            }
            let ripe = segment.born + LINGER;
            if pressed || self.is_due(start, segment, now) {
                found = Some(start);
                break;
            }
            next_look = Some(next_look.map_or(ripe, |t: Instant| t.min(ripe)));
        }
        let Some(start) = found else {
            return Pick::Wait(next_look);
        };
        let mut run = vec![self.launch(start)];
        while let Some(next) = self.next_of(&run, now, pressed, most) {
            let next = self.launch(next);
            run.push(next);
        }
        Pick::Go(run)
    }

    /// True when a segment need not wait for neighbours.
    fn is_due(&self, start: u64, segment: &Segment, now: Instant) -> bool {
        let end = start + segment.payload.len();
        let full = matches!(segment.payload, Payload::Data(_)) && end.is_multiple_of(self.cell);
        full || segment.seq <= self.urgent || segment.born + LINGER <= now
    }

    /// Start of the queued data that follows `run` and may go with it.
    fn next_of(&self, run: &[Flight], now: Instant, pressed: bool, most: u64) -> Option<u64> {
        let (first, last) = (run.first()?, run.last()?);
        let end = last.end();
        let next = self.queued.get(&end)?;
        let next_end = end + next.payload.len();
        let is_data = |payload: &Payload| matches!(payload, Payload::Data(_));
        let own = |flight: &Flight| run.iter().any(|own| Arc::ptr_eq(&own.payload, &flight.payload));
        let free =
            |flight: &Flight| own(flight) || !share_block(&(end..next_end), &(flight.start..flight.end()));
        let fits = is_data(&last.payload) && is_data(&next.payload) && next_end - first.start <= most;
        let due = pressed || self.is_due(end, next, now);
        (fits && due && self.flights.iter().all(free)).then_some(end)
    }

    fn launch(&mut self, start: u64) -> Flight {
        let segment = self.take(start);
        self.cost += segment.payload.cost();
        let flight = Flight {
            start,
            payload: Arc::new(segment.payload),
            seq: segment.seq,
        };
        self.flights.push(flight.clone());
        flight
    }

    /// The server has answered `flight` with success.
    pub(super) fn landed(&mut self, flight: Flight) {
        self.flights.retain(|f| !Arc::ptr_eq(&f.payload, &flight.payload));
        self.cost -= flight.payload.cost();
        if let Some(Payload::Data(bytes)) = Arc::into_inner(flight.payload) {
            self.recycle(bytes);
        }
    }

    /// True when any acknowledged byte of `range` is not on the server yet.
    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        let queued = self.queued.range(..range.end).next_back();
        queued.is_some_and(|(s, seg)| s + seg.payload.len() > range.start)
            || self
                .flights
                .iter()
                .any(|f| f.start < range.end && range.start < f.end())
    }

    /// True when a segment of zeros is queued that ends at `offset`.
    pub(super) fn zeros_end_at(&self, offset: u64) -> bool {
        self.before(offset).is_some_and(
            |(start, segment)| matches!(segment.payload, Payload::Zero(len) if start + len == offset),
        )
    }

    /// Ranges of everything that isn't on the server yet.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let queued = self.queued.iter().map(|(&s, seg)| s..s + seg.payload.len());
        queued.chain(self.flights.iter().map(|f| f.start..f.end()))
    }

    /// Copies the acknowledged bytes of `offset..` into `buf`; returns the parts that it has
    /// nothing about, in ascending order.
    pub(super) fn overlay(&self, offset: u64, buf: &mut [u8]) -> Vec<Range<u64>> {
        let end = offset + buf.len() as u64;
        let whole: Vec<Range<u64>> = std::iter::once(offset..end).filter(|r| !r.is_empty()).collect();
        let mut gaps = whole;
        let first = self.before(offset).map_or(offset, |(s, _)| s);
        for (&start, segment) in self.queued.range(first..end) {
            gaps = cover(gaps, start, &segment.payload, offset, buf);
        }
        for flight in &self.flights {
            gaps = cover(gaps, flight.start, &flight.payload, offset, buf);
        }
        gaps
    }

    /// An empty buffer for a piece of `len` bytes. Whole-cell buffers are used again, and never more of
    /// them than the table has handed out at its fullest.
    fn buffer(&mut self, len: usize) -> Vec<u8> {
        if len < STREAM_WRITE || self.cells * self.cell as usize > self.cost + self.cell as usize {
            return Vec::with_capacity(len);
        }
        self.cells += 1;
        self.spare
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(self.cell as usize))
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() >= self.cell as usize {
            self.cells = self.cells.saturating_sub(1);
            if self.spare.len() * (self.cell as usize) < SPARE {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
    }
}

fn share_block(a: &Range<u64>, b: &Range<u64>) -> bool {
    let first = |r: &Range<u64>| r.start / BLOCK;
    let last = |r: &Range<u64>| (r.end - 1) / BLOCK;
    first(a) <= last(b) && first(b) <= last(a)
}

/// Fills from `payload`, which stands at `start`, whatever of it lies in `gaps`; returns the rest.
fn cover(
    gaps: Vec<Range<u64>>,
    start: u64,
    payload: &Payload,
    offset: u64,
    buf: &mut [u8],
) -> Vec<Range<u64>> {
    let end = start + payload.len();
    let mut rest = Vec::with_capacity(gaps.len() + 1);
    for gap in gaps {
        let hit = gap.start.max(start)..gap.end.min(end);
        if hit.is_empty() {
            rest.push(gap);
            continue;
        }
        let into = &mut buf[(hit.start - offset) as usize..(hit.end - offset) as usize];
        match payload {
            Payload::Data(bytes) => {
                into.copy_from_slice(&bytes[(hit.start - start) as usize..(hit.end - start) as usize]);
            }
            Payload::Zero(_) => into.fill(0),
        }
        rest.extend(
            [gap.start..hit.start, hit.end..gap.end]
                .into_iter()
                .filter(|r| !r.is_empty()),
        );
    }
    rest
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
