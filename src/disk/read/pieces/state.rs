//! The pieces themselves, and which of them may make room. The caller has the lock.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use super::{Fetch, NO_STREAM};

#[derive(Debug)]
pub(super) enum Content {
    Kept(Arc<Vec<u8>>),
    Coming {
        fetch: Arc<Fetch>,
        tainted: bool,
        /// A used buffer for the bytes, or one without memory.
        memory: Vec<u8>,
    },
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) end: u64,
    pub(super) content: Content,
    /// Number of the stream that it is for.
    pub(super) stream: u64,
    /// Bytes that the stream is expected to read; 0 when the piece may make room.
    pub(super) unread: u64,
}

#[derive(Debug)]
pub(super) struct State {
    /// The pieces by their start.
    pub(super) pieces: BTreeMap<u64, Piece>,
    /// Starts of the kept pieces that may make room.
    pub(super) spare: LruCache<u64, ()>,
    /// Bytes of all pieces.
    bytes: u64,
    /// For each stream, how many of its pieces have unread bytes.
    unread: HashMap<u64, usize>,
    /// Upper bound on `bytes`.
    capacity: u64,
    /// Used buffers of full size: fresh pages cost more than copying bytes into them.
    buffers: Vec<Vec<u8>>,
    /// Upper bound on their number.
    most_buffers: usize,
    /// Their size in bytes, which is that of the largest piece.
    most: u64,
}

impl State {
    pub(super) fn new(capacity: u64, most: u64) -> Self {
        State {
            pieces: BTreeMap::new(),
            spare: LruCache::unbounded(),
            bytes: 0,
            unread: HashMap::new(),
            capacity,
            buffers: Vec::new(),
            most_buffers: (capacity / most / 8) as usize,
            most,
        }
    }

    /// Returns the piece that holds `offset`, and its start.
    pub(super) fn at(&self, offset: u64) -> Option<(u64, &Piece)> {
        let (&start, piece) = self.pieces.range(..=offset).next_back()?;
        (piece.end > offset).then_some((start, piece))
    }

    /// Returns the pieces that have bytes of `range`, with their starts, from the last one on.
    pub(super) fn touching(&mut self, range: &Range<u64>) -> impl Iterator<Item = (u64, &mut Piece)> {
        let from = range.start;
        let before_the_end = self.pieces.range_mut(..range.end.max(from)).rev();
        before_the_end
            .take_while(move |(_, piece)| piece.end > from)
            .map(|(&start, piece)| (start, piece))
    }

    pub(super) fn insert(&mut self, range: Range<u64>, stream: u64) {
        let bytes = range.end - range.start;
        // A buffer that has just made room becomes its memory now. When the fetch begins, others may have
        // been announced, and the buffers of all of them would not be kept for so long.
        let used = (bytes == self.most).then(|| self.buffers.pop()).flatten();
        let content = Content::Coming {
            fetch: Arc::default(),
            tainted: false,
            memory: used.unwrap_or_default(),
        };
        let piece = Piece {
            end: range.end,
            content,
            stream,
            unread: bytes,
        };
        self.pieces.insert(range.start, piece);
        self.bytes += bytes;
        *self.unread.entry(stream).or_default() += 1;
    }

    /// Notes that the first bytes of `range` were read from the piece that begins at `start`.
    pub(super) fn read(&mut self, start: u64, range: Range<u64>) {
        let Some(piece) = self.pieces.get_mut(&start) else {
            return;
        };
        let read = piece.end.min(range.end).saturating_sub(range.start);
        match piece.unread {
            0 => {
                self.spare.promote(&start);
            }
            unread if unread > read => piece.unread -= read,
            _ => self.settle(start),
        }
    }

    /// Expects the `stream` to read the piece that begins at `start`, from `at` on.
    pub(super) fn adopt(&mut self, start: u64, at: u64, stream: u64) {
        let Some(piece) = self.pieces.get_mut(&start) else {
            return;
        };
        if stream == NO_STREAM || stream == piece.stream && piece.unread > 0 {
            return;
        }
        let owner = (piece.unread > 0).then_some(piece.stream);
        (piece.stream, piece.unread) = (stream, piece.end - at.max(start));
        self.spare.pop(&start);
        *self.unread.entry(stream).or_default() += 1;
        if let Some(owner) = owner {
            self.no_longer_unread(owner);
        }
    }

    /// Notes that the piece that begins at `start` may make room.
    pub(super) fn settle(&mut self, start: u64) {
        let Some(piece) = self.pieces.get_mut(&start).filter(|piece| piece.unread > 0) else {
            return;
        };
        piece.unread = 0;
        if matches!(piece.content, Content::Kept(_)) {
            self.spare.push(start, ());
        }
        let stream = piece.stream;
        self.no_longer_unread(stream);
    }

    pub(super) fn bequeath(&mut self, other: u64, heir: u64) {
        let Some(count) = self.unread.remove(&other) else {
            return;
        };
        *self.unread.entry(heir).or_default() += count;
        let pieces = self.pieces.values_mut();
        pieces
            .filter(|piece| piece.stream == other)
            .for_each(|piece| piece.stream = heir);
    }

    fn no_longer_unread(&mut self, stream: u64) {
        if let Some(count) = self.unread.get_mut(&stream) {
            *count -= 1;
            if *count == 0 {
                self.unread.remove(&stream);
            }
        }
    }

    /// Drops pieces that may make room until `len` more bytes fit; false when they don't. With `None`, all
    /// streams count as active.
    pub(super) fn make_room(&mut self, len: u64, active: Option<&[u64]>) -> bool {
        while self.bytes + len > self.capacity {
            let Some((start, ())) = self.spare.pop_lru() else {
                match active.is_some_and(|active| self.forsake(active)) {
                    true => continue,
                    false => return false,
                }
            };
            self.remove(start);
        }
        true
    }

    /// Lets the kept pieces of streams that are not `active` make room; false when there are none.
    fn forsake(&mut self, active: &[u64]) -> bool {
        let idle = |stream: u64| stream != NO_STREAM && !active.contains(&stream);
        if !self.unread.keys().any(|&stream| idle(stream)) {
            return false;
        }
        let is_idle = |piece: &Piece| piece.unread > 0 && idle(piece.stream);
        let kept = |piece: &Piece| matches!(piece.content, Content::Kept(_));
        let forsaken: Vec<u64> = self
            .pieces
            .iter()
            .filter(|(_, piece)| is_idle(piece) && kept(piece))
            .map(|(&start, _)| start)
            .collect();
        let any = !forsaken.is_empty();
        forsaken.into_iter().for_each(|start| self.settle(start));
        any
    }

    /// Removes the piece that begins at `start`; its buffer serves the next one of full size.
    pub(super) fn remove(&mut self, start: u64) {
        let Some(piece) = self.pieces.remove(&start) else {
            return;
        };
        self.spare.pop(&start);
        self.bytes -= piece.end - start;
        if piece.unread > 0 {
            self.no_longer_unread(piece.stream);
        }
        if let Content::Kept(bytes) = piece.content {
            if self.buffers.len() < self.most_buffers && bytes.len() as u64 == self.most {
                self.buffers.extend(Arc::into_inner(bytes));
            }
        }
    }
}
