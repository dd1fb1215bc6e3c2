//! Reads: pending writes first, then known zeros, then kept pieces, and the server for the rest.
//!
//! A small random read asks the server for exactly its bytes. A sequential one is served from pieces
//! (`pieces`), while prefetch threads (one for each connection) fetch the data ahead, several pieces with one
//! request; so a single reader keeps all connections busy. Large reads go through pieces too, as far as there
//! is room: where several readers want the same bytes, or a prefetch does, they are fetched once. A read
//! within one piece that no pending write and no long hole touches is answered from the piece's own memory.
//!
//! Only data is fetched: the ranges known to be zero divide it, unless they are too short to be worth a
//! request of their own.
//!
//! A reader announces the pieces that it wants ([`Pieces::begin`]) and hands them over in runs. A run that no
//! thread takes, or whose request fails or panics, still ends, so that no reader waits for ever. Locks are
//! taken in this order: the disk's inner one, the streams, the pieces.

use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

mod fetcher;
mod pieces;
mod streams;

use self::fetcher::{Announced, Fetcher};
use self::pieces::{Found, NO_STREAM, PIECE_BYTES, Pieces};
use self::streams::{Ahead, Streams};
use super::DiskError;
use super::extents::MAX_MAP_WAIT;
use super::write::WriteBehind;
use super::zeros::map::ZeroMap;
use crate::pool::{Op, Pool};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Instant, Mutex};

/// Upper bound on the prefetch windows in bytes: four requests of 8 MiB on their way and two to be read.
const MAX_WINDOW_BYTES: u64 = 48 << 20;

/// Upper bound on the stretches of data that one look ahead announces.
const MAX_STRETCHES: usize = 128;

/// Size in bytes from which on every read goes through pieces. A smaller one that continues no stream asks
/// for its own bytes, since what it would wait for may be far back in a queue.
pub(super) const MIN_SHARED_BYTES: usize = 64 << 10;

/// Lower bound on the memory for pieces in bytes: with less, no stream keeps two connections busy.
const MIN_CACHE_BYTES: u64 = 2 << 20;

/// The bytes of one read.
#[derive(Debug)]
#[must_use]
pub(crate) enum ReadBytes<'a> {
    /// A range of a kept piece.
    Kept(Arc<Vec<u8>>, Range<usize>),
    /// Bytes that were put together in the caller's buffer.
    Copied(&'a [u8]),
}

impl Deref for ReadBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ReadBytes::Kept(piece, range) => &piece[range.clone()],
            ReadBytes::Copied(bytes) => bytes,
        }
    }
}

/// The place where a reader finds its next bytes.
enum Part {
    /// In the piece that begins at this offset.
    Piece(Arc<Vec<u8>>, u64),
    /// On the server, up to this offset.
    Exact(u64),
}

/// How a read is served.
#[derive(Clone, Copy)]
struct Way {
    /// Through pieces.
    shared: bool,
    /// Its stream, if it was announced for it before.
    promised: Option<u64>,
}

/// The reading half of a disk.
pub(crate) struct Reader {
    size: u64,
    fetcher: Arc<Fetcher>,
    streams: Mutex<Streams>,
    /// Upper bound on a request, in bytes, a multiple of a piece.
    most: u64,
    ahead: Sender<Announced>,
    /// Time from which on data is fetched ahead even without the map of zeros.
    map_is_late: Instant,
}

impl Reader {
    /// Starts a reader over `size` bytes with a cache of `cache` bytes, and its prefetch threads, whose
    /// requests ask for at most `request_size` bytes.
    pub(crate) fn start(
        size: u64,
        pool: Arc<Pool>,
        writes: Arc<WriteBehind>,
        cache: u64,
        request_size: u64,
    ) -> std::io::Result<(Reader, Vec<JoinHandle<()>>)> {
        let (ahead, wanted) = bounded::<Announced>(256);
        let connections = pool.connections();
        let cache = cache.max(MIN_CACHE_BYTES);
        let piece = PIECE_BYTES.min(request_size);
        // The rest is for what readers wait for, and for what they have just read.
        let window = MAX_WINDOW_BYTES.min(cache / 4 * 3);
        let fetcher = Arc::new(Fetcher {
            pool,
            writes,
            // The rest is for buffers that wait for the next fetches.
            pieces: Arc::new(Pieces::new(cache / 8 * 7, piece)),
        });
        let prefetch = |n| {
            let (fetcher, wanted): (_, Receiver<Announced>) = (fetcher.clone(), wanted.clone());
            let builder = thread::Builder::new().name(format!("prefetch-{n}"));
            builder.spawn(move || {
                for run in &wanted {
                    // A panic costs this run only: the thread must stay for the runs announced later.
                    let _ = catch_unwind(AssertUnwindSafe(|| fetcher.fetch(run)));
                }
            })
        };
        let threads = (1..=connections).map(prefetch).collect::<Result<_, _>>()?;
        let most = request_size / piece * piece;
        let streams = Mutex::new(Streams::new(window, most, piece, connections));
        Ok((
            Reader {
                size,
                fetcher,
                streams,
                most,
                ahead,
                map_is_late: Instant::now() + MAX_MAP_WAIT,
            },
            threads,
        ))
    }

    /// Returns the pieces, for writes to taint.
    pub(crate) fn pieces(&self) -> &Pieces {
        &self.fetcher.pieces
    }

    /// Reads `len` bytes at `offset`; the caller has made sure that they lie within the disk.
    pub(crate) fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        buf: &'a mut Vec<u8>,
    ) -> Result<ReadBytes<'a>, DiskError> {
        let range = offset..offset + len as u64;
        let way = self.note(&range);
        if way.shared {
            let inner = self.fetcher.writes.lock();
            let plain = !inner.table.touches(&range)
                && inner.zeros.as_ref().is_none_or(|zeros| {
                    let stretch = zeros.next_stretch(offset, len as u64, range.end);
                    stretch.is_some_and(|stretch| stretch == range)
                });
            drop(inner);
            if plain && self.fetcher.pieces.in_one(&range) {
                if let Part::Piece(piece, start) = self.part(range.clone(), way) {
                    let within = (offset - start) as usize;
                    if within + len <= piece.len() {
                        return Ok(ReadBytes::Kept(piece, within..within + len));
                    }
                }
            }
        }
        if buf.len() < len {
            buf.resize(len, 0);
        }
        self.read_into(offset, &mut buf[..len], way)?;
        Ok(ReadBytes::Copied(&buf[..len]))
    }

    /// Notes a read, and has fetched what its stream needs next, if it continues one. A hole continues none.
    fn note(&self, range: &Range<u64>) -> Way {
        let mut way = Way {
            shared: range.end - range.start >= MIN_SHARED_BYTES as u64,
            promised: None,
        };
        let inner = self.fetcher.writes.lock();
        let zeros = inner.zeros.as_ref();
        if range.is_empty() || zeros.is_some_and(|zeros| zeros.covers(range.clone())) {
            return way;
        }
        let count = |range: Range<u64>, most| match zeros {
            Some(zeros) => zeros.data_in(range, most),
            None => Some(range.end - range.start).filter(|&bytes| bytes <= most),
        };
        let now = Instant::now();
        let mut streams = self.streams.lock();
        streams.set_request(self.fetcher.pool.request_size(Op::Read, self.most));
        if let Some(ahead) = streams.note(range, now, count) {
            way = Way {
                shared: true,
                promised: ahead.promised.then_some(ahead.stream),
            };
            let pieces = &self.fetcher.pieces;
            pieces.pass(&ahead.passed, ahead.stream);
            ahead
                .merged
                .iter()
                .for_each(|&other| pieces.bequeath(other, ahead.stream));
            // Without the map of zeros, holes would be fetched.
            let map_is_near = zeros.is_none() && now < self.map_is_late;
            if ahead.want > 0 && !map_is_near {
                let (end, bytes) = self.fetch_ahead(zeros, &ahead, &streams.active(now));
                streams.announced(ahead.stream, end, bytes);
            }
        }
        way
    }

    /// Fills `buf` with the bytes at `offset`.
    fn read_into(&self, offset: u64, buf: &mut [u8], way: Way) -> Result<(), DiskError> {
        let inner = self.fetcher.writes.lock();
        let mut gaps = inner.table.overlay(offset, buf);
        if let Some(zeros) = &inner.zeros {
            let mut data = Vec::with_capacity(gaps.len());
            for gap in gaps {
                let mut at = gap.start;
                while at < gap.end {
                    let found = zeros.next_stretch(at, u64::MAX, gap.end);
                    let stretch = found.unwrap_or(gap.end..gap.end);
                    buf[(at - offset) as usize..(stretch.start - offset) as usize].fill(0);
                    self.fetcher.pieces.read_zeros(&(at..stretch.start));
                    at = stretch.end;
                    if !stretch.is_empty() {
                        data.push(stretch);
                    }
                }
            }
            gaps = data;
        }
        drop(inner);
        for gap in gaps {
            let part = &mut buf[(gap.start - offset) as usize..(gap.end - offset) as usize];
            if let Err(e) = self.read_data(gap.start, part, way) {
                // Nobody comes for what was fetched for this read.
                self.fetcher.pieces.pass(&gap, NO_STREAM);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Fills `buf` from pieces and by requests for exactly the bytes that are in none.
    fn read_data(&self, offset: u64, buf: &mut [u8], way: Way) -> Result<(), DiskError> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let rest = &mut buf[(at - offset) as usize..];
            at += match self.part(at..end, way) {
                Part::Piece(bytes, start) => {
                    let bytes = &bytes[(at - start) as usize..];
                    let len = bytes.len().min(rest.len());
                    rest[..len].copy_from_slice(&bytes[..len]);
                    len as u64
                }
                Part::Exact(until) => {
                    let part = &mut rest[..(until - at) as usize];
                    let read = self.fetcher.pool.read(at, &mut [part]);
                    read.map_err(|e| DiskError::Read(e.to_string()))?;
                    until - at
                }
            };
        }
        Ok(())
    }

    /// Returns where the first bytes of `range` are, if necessary after fetching them.
    fn part(&self, range: Range<u64>, way: Way) -> Part {
        let mut fetched = false;
        loop {
            match self.fetcher.pieces.find(range.clone()) {
                Found::Kept(bytes, start) => return Part::Piece(bytes, start),
                Found::Coming(fetch, piece) if way.shared => match fetch.wait() {
                    Some(bytes) => {
                        self.fetcher.pieces.read(piece.start, range);
                        return Part::Piece(bytes, piece.start);
                    }
                    // It is being written, or the fetch has failed; then this read tells why.
                    None => return Part::Exact(piece.end.min(range.end)),
                },
                Found::Coming(_, piece) => return Part::Exact(piece.end.min(range.end)),
                Found::Missing(until) if way.shared && !fetched => {
                    fetched = true;
                    let any = self.fetcher.fetch_now(range.start..until);
                    if let Some(stream) = way.promised.filter(|_| any) {
                        self.streams.lock().missed(stream);
                    }
                }
                Found::Missing(until) => return Part::Exact(until),
            }
        }
    }

    /// Hands the data ahead of a stream over to the prefetch threads. Returns the offset up to which all of
    /// it is announced now, and how many bytes of it are. When the list of announced runs is full, or there
    /// is no room, enough are under way.
    fn fetch_ahead(&self, zeros: Option<&ZeroMap>, ahead: &Ahead, active: &[u64]) -> (u64, u64) {
        let (mut at, mut bytes) = (ahead.from, 0);
        for _ in 0..MAX_STRETCHES {
            let Some((stretch, cut)) =
                next_stretch(zeros, at, ahead.want - bytes, self.size.min(ahead.until))
            else {
                break;
            };
            let len = stretch.end - stretch.start;
            // The rest of a stretch that goes on comes with a later read, in a full request.
            let len = match cut && (bytes > 0 || len > ahead.request) {
                true => len / ahead.request * ahead.request,
                false => len,
            };
            if len == 0 {
                break;
            }
            let stretch = stretch.start..stretch.start + len;
            let before = bytes;
            let (runs, all) = self.fetcher.announce(stretch.clone(), ahead, active);
            for run in runs {
                let end = run.end();
                if self.ahead.try_send(run).is_err() {
                    return (at, bytes);
                }
                (at, bytes) = (end, before + end - stretch.start);
            }
            if !all {
                return (at, bytes);
            }
            (at, bytes) = (stretch.end, before + len);
            if bytes >= ahead.want {
                break;
            }
        }
        (at, bytes)
    }
}

/// Returns the next stretch of data from `offset` on, of at most `most` bytes, on a disk of `size` bytes. The
/// flag is true when it ends only because of `most`.
fn next_stretch(zeros: Option<&ZeroMap>, offset: u64, most: u64, size: u64) -> Option<(Range<u64>, bool)> {
    if offset >= size {
        return None;
    }
    let stretch = match zeros {
        Some(zeros) => zeros.next_stretch(offset, most, size)?,
        None => offset..offset.saturating_add(most).min(size),
    };
    let goes_on = || zeros.is_none_or(|zeros| !zeros.covers(stretch.end..stretch.end + 1));
    let cut = stretch.end - stretch.start == most && stretch.end < size && goes_on();
    (!stretch.is_empty()).then_some((stretch, cut))
}
