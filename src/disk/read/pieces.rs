//! Pieces of the disk for sequential readers: the read cache, and the fetches under way.
//!
//! A piece is a range of data, of at most [`PIECE_BYTES`], that begins where the reader who asked for it
//! wanted it to. Pieces do not overlap, so no byte is fetched for one while another has it.
//!
//! A piece may only be kept while it equals the bytes that the server would answer. So:
//! - an accepted write [taints](Pieces::taint) the pieces that it touches: a kept one is dropped, and one
//!   that is being fetched will neither be kept nor be shared with further readers;
//! - a fetch is announced with [`Pieces::begin`] *before* it checks whether a pending write touches the piece
//!   (and then calls [`Pieces::spoil`]), while a write enters the pending table before it taints. So one of
//!   the two always sees the other.
//!
//! A reader takes its snapshot of the pending writes first and then looks for pieces: a write that its
//! snapshot lacks was either on the server before the fetch began, or has tainted it.
//!
//! A piece makes room only when as many bytes as it has were read from it, or when nobody is expected to read
//! the rest: its stream has passed it, or has not read for a while. A prefetch that would need more room is
//! not announced.

use std::ops::Range;
use std::sync::Arc;

mod state;

use self::state::{Content, Piece, State};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Upper bound on the size of a piece in bytes: the kernel's largest read.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// The stream of a piece that is fetched for a read which waits for it.
pub(super) const NO_STREAM: u64 = 0;

/// One fetch, on which its readers wait.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    /// `None` until the fetch has ended, then the bytes, or `None` when it failed.
    outcome: Mutex<Option<Option<Arc<Vec<u8>>>>>,
    done: Condvar,
}

impl Fetch {
    /// Waits for the bytes; `None` when the fetch failed.
    pub(super) fn wait(&self) -> Option<Arc<Vec<u8>>> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(bytes) => return bytes.clone(),
                None => self.done.wait(&mut outcome),
            }
        }
    }
}

/// The place of the bytes from an offset on.
#[derive(Debug)]
pub(super) enum Found {
    /// They are in a kept piece that begins at this offset.
    Kept(Arc<Vec<u8>>, u64),
    /// They are being fetched with the piece of this range.
    Coming(Arc<Fetch>, Range<u64>),
    /// Up to this offset they are neither kept nor being fetched to be shared.
    Missing(u64),
}

/// Runs of pieces that were announced, each for one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) runs: Vec<Range<u64>>,
    /// False when there was no room for the rest.
    pub(super) all: bool,
}

/// The kept pieces and those under way, behind a lock of their own.
#[derive(Debug)]
pub(crate) struct Pieces {
    state: Mutex<State>,
    /// Upper bound on the bytes of one piece.
    most: u64,
}

impl Pieces {
    /// Keeps and announces at most `capacity` bytes, in pieces of at most `most`.
    pub(super) fn new(capacity: u64, most: u64) -> Self {
        Pieces {
            state: Mutex::new(State::new(capacity, most)),
            most,
        }
    }

    /// Returns where the first bytes of `range` are, and notes that they are read now if they are kept.
    pub(super) fn find(&self, range: Range<u64>) -> Found {
        let mut state = self.lock();
        let (start, found) = match state.at(range.start) {
            Some((start, piece)) => match &piece.content {
                Content::Kept(bytes) => (start, Found::Kept(bytes.clone(), start)),
                Content::Coming {
                    fetch,
                    tainted: false,
                    ..
                } => {
                    return Found::Coming(fetch.clone(), start..piece.end);
                }
                Content::Coming { tainted: true, .. } => return Found::Missing(piece.end.min(range.end)),
            },
            None => {
                let next = state.pieces.range(range.clone()).next();
                return Found::Missing(next.map_or(range.end, |(&start, _)| start));
            }
        };
        state.read(start, range);
        found
    }

    /// True when one piece holds, or can hold, all of `range`.
    pub(super) fn in_one(&self, range: &Range<u64>) -> bool {
        let state = self.lock();
        match state.at(range.start) {
            Some((_, piece)) => piece.end >= range.end,
            None => {
                range.end - range.start <= self.most && state.pieces.range(range.clone()).next().is_none()
            }
        }
    }

    /// Notes that the first bytes of `range` were read from the piece that begins at `start`.
    pub(super) fn read(&self, start: u64, range: Range<u64>) {
        self.lock().read(start, range);
    }

    /// Announces fetches of what in `range` is neither kept nor announced, for the `stream`. Returns them in
    /// runs of at most `request` bytes; only an `urgent` one may be cut short for lack of room. Each
    /// [piece](Pieces::cut) of a run has to [end](Pieces::end). The stream is expected to read what is there
    /// already, too. Pieces of streams that are not `active` make room; with `None` all streams count as
    /// active.
    pub(super) fn begin(
        &self,
        range: Range<u64>,
        request: u64,
        stream: u64,
        urgent: bool,
        active: Option<&[u64]>,
    ) -> Begun {
        let mut state = self.lock();
        let (mut runs, mut at) = (Vec::new(), range.start);
        while at < range.end {
            if let Some((start, piece)) = state.at(at) {
                let end = piece.end;
                state.adopt(start, at, stream);
                at = end;
                continue;
            }
            let next = state.pieces.range(at..range.end).next();
            let end = next.map_or(range.end, |(&start, _)| start).min(at + request);
            let mut run = at..end;
            if !state.make_room(end - at, active) {
                run.end = end.min(at + self.most);
                if !urgent || !runs.is_empty() || !state.make_room(run.end - at, active) {
                    return Begun { runs, all: false };
                }
            }
            self.cut(run.clone())
                .for_each(|piece| state.insert(piece, stream));
            at = run.end;
            runs.push(run);
        }
        Begun { runs, all: true }
    }

    /// Returns the pieces of a run.
    pub(super) fn cut(&self, run: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let most = self.most;
        run.clone()
            .step_by(most as usize)
            .map(move |start| start..(start + most).min(run.end))
    }

    /// Returns a buffer for the bytes of `piece`, which was announced, with arbitrary content.
    pub(super) fn buffer(&self, piece: &Range<u64>) -> Vec<u8> {
        let mut buffer = match self
            .lock()
            .pieces
            .get_mut(&piece.start)
            .map(|piece| &mut piece.content)
        {
            Some(Content::Coming { memory, .. }) => std::mem::take(memory),
            _ => Vec::new(),
        };
        buffer.resize((piece.end - piece.start) as usize, 0);
        buffer
    }

    /// Keeps the fetch of the piece that begins at `start` from being shared or kept, since a pending write
    /// touches the piece.
    pub(super) fn spoil(&self, start: u64) {
        if let Some(piece) = self.lock().pieces.get_mut(&start) {
            if let Content::Coming { tainted, .. } = &mut piece.content {
                *tainted = true;
            }
        }
    }

    /// Ends the fetch of the piece that begins at `start`; `bytes` is `None` when it failed.
    pub(super) fn end(&self, start: u64, bytes: Option<Arc<Vec<u8>>>) {
        let mut state = self.lock();
        let Some(piece) = state.pieces.get_mut(&start) else {
            return;
        };
        let Content::Coming { fetch, tainted, .. } = &piece.content else {
            return;
        };
        let (fetch, tainted) = (fetch.clone(), *tainted);
        match &bytes {
            Some(bytes) if !tainted => {
                piece.content = Content::Kept(bytes.clone());
                if piece.unread == 0 {
                    state.spare.push(start, ());
                }
            }
            _ => state.remove(start),
        }
        drop(state);
        *fetch.outcome.lock() = Some(bytes);
        fetch.done.notify_all();
    }

    /// Notes that the bytes of `range` have changed.
    pub(crate) fn taint(&self, range: &Range<u64>) {
        let mut state = self.lock();
        let mut dropped = Vec::new();
        for (start, piece) in state.touching(range) {
            match &mut piece.content {
                Content::Kept(_) => dropped.push(start),
                Content::Coming { tainted, .. } => *tainted = true,
            }
        }
        dropped.into_iter().for_each(|start| state.remove(start));
    }

    /// Notes that the `stream` will not read soon what is left of its pieces that end in `range`.
    pub(super) fn pass(&self, range: &Range<u64>, stream: u64) {
        if range.is_empty() {
            return;
        }
        let mut state = self.lock();
        let ours = |piece: &Piece| piece.stream == stream && piece.end <= range.end;
        let touching = state.touching(range);
        let passed: Vec<u64> = touching
            .filter(|(_, piece)| ours(piece))
            .map(|(start, _)| start)
            .collect();
        passed.into_iter().for_each(|start| state.settle(start));
    }

    /// Notes that zeros were read where the pieces have short holes.
    pub(super) fn read_zeros(&self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut state = self.lock();
        let touched: Vec<u64> = state.touching(range).map(|(start, _)| start).collect();
        for start in touched {
            state.read(start, range.start.max(start)..range.end);
        }
    }

    /// Notes that the stream `heir` will read what was fetched for the stream `other`.
    pub(super) fn bequeath(&self, other: u64, heir: u64) {
        self.lock().bequeath(other, heir);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
