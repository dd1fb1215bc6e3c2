//! Reads: pending writes first, then known zeros, then kept chunks, and the server for the rest.
//!
//! A random read asks the server for exactly its bytes. A sequential one is served in whole chunks, while
//! prefetch threads (one for each connection) fetch the chunks ahead, several with one request; so a single
//! reader keeps all connections busy. A sequential read within
//! one chunk that no pending write and no known zero touches is answered from the chunk's own memory.
//!
//! A reader announces the chunks that it wants ([`Chunks::begin`]) and hands them over in runs. A run that no
//! thread takes, or whose request fails or panics, still ends, so that no reader waits for ever.

use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

mod chunks;
mod fetcher;
mod streams;

use self::chunks::{CHUNK_BYTES, Chunks, Found};
use self::fetcher::{Announced, Fetcher};
use self::streams::Streams;
use super::DiskError;
use super::write::WriteBehind;
use super::zeros::map::ZeroMap;
use crate::pool::Pool;
use crate::sync::Mutex;
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, JoinHandle};

/// Upper bound on the prefetch window in bytes: four requests of 8 MiB on their way and two to be read. The
/// window never exceeds the chunks that can be kept, either.
const MAX_WINDOW_BYTES: u64 = 48 << 20;

/// Upper bound on the holes that one look ahead skips.
const MAX_HOLES_AHEAD: usize = 32;

/// The bytes of one read.
#[derive(Debug)]
#[must_use]
pub(crate) enum ReadBytes<'a> {
    /// A range of a kept chunk.
    Kept(Arc<Vec<u8>>, Range<usize>),
    /// Bytes that were put together in the caller's buffer.
    Copied(&'a [u8]),
}

impl Deref for ReadBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ReadBytes::Kept(chunk, range) => &chunk[range.clone()],
            ReadBytes::Copied(bytes) => bytes,
        }
    }
}

/// The reading half of a disk.
pub(crate) struct Reader {
    fetcher: Arc<Fetcher>,
    streams: Mutex<Streams>,
    ahead: Sender<Announced>,
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
        let fetcher = Arc::new(Fetcher {
            size,
            pool,
            writes,
            // The rest of the cache is for the requests under way.
            chunks: Arc::new(Chunks::new(cache / 4 * 3, (request_size / CHUNK_BYTES).max(1))),
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
        let streams = Mutex::default();
        Ok((
            Reader {
                fetcher,
                streams,
                ahead,
            },
            threads,
        ))
    }

    /// Returns the chunks, for writes to taint.
    pub(crate) fn chunks(&self) -> &Chunks {
        &self.fetcher.chunks
    }

    /// Reads `len` bytes at `offset`; the caller has made sure that they lie within the disk.
    pub(crate) fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        buf: &'a mut Vec<u8>,
    ) -> Result<ReadBytes<'a>, DiskError> {
        let range = offset..offset + len as u64;
        let ahead = self.note(&range);
        if ahead && offset / CHUNK_BYTES == (range.end - 1) / CHUNK_BYTES {
            let inner = self.fetcher.writes.lock();
            let zeros = inner.zeros.as_ref();
            let plain = !inner.table.touches(&range) && zeros.is_none_or(|zeros| !zeros.touches(&range));
            drop(inner);
            let chunk = plain.then(|| self.chunk(offset / CHUNK_BYTES)).flatten();
            if let Some(chunk) = chunk {
                self.consumed_to(range.end);
                let within = (offset % CHUNK_BYTES) as usize;
                return Ok(ReadBytes::Kept(chunk, within..within + len));
            }
        }
        if buf.len() < len {
            buf.resize(len, 0);
        }
        self.read_into(offset, &mut buf[..len], ahead)?;
        Ok(ReadBytes::Copied(&buf[..len]))
    }

    /// Returns true when `range` continues a stream, and then has the chunks ahead fetched. A hole continues
    /// none.
    fn note(&self, range: &Range<u64>) -> bool {
        let max = MAX_WINDOW_BYTES.min(self.fetcher.chunks.capacity() as u64 * CHUNK_BYTES);
        let inner = self.fetcher.writes.lock();
        let zeros = inner.zeros.as_ref();
        if range.is_empty() || zeros.is_some_and(|zeros| zeros.covers(range.clone())) {
            return false;
        }
        let mut streams = self.streams.lock();
        let count = |range: Range<u64>, most| match zeros {
            Some(zeros) => zeros.data_in(range, most),
            None => Some(range.end - range.start).filter(|&bytes| bytes <= most),
        };
        let Some(ahead) = streams.note(range, max, count) else {
            return false;
        };
        drop(streams);
        let (data, cut) = data_ahead(zeros, ahead, self.fetcher.size);
        drop(inner);
        self.fetch_ahead(data, cut);
        true
    }

    /// Fills `buf` with the bytes at `offset`, by whole chunks if they are part of a `stream`.
    fn read_into(&self, offset: u64, buf: &mut [u8], stream: bool) -> Result<(), DiskError> {
        let inner = self.fetcher.writes.lock();
        let mut gaps = inner.table.overlay(offset, buf);
        if let Some(zeros) = &inner.zeros {
            let mut data = Vec::with_capacity(gaps.len());
            for gap in gaps {
                let mut at = gap.start;
                while at < gap.end {
                    let from = zeros.next_data(at).min(gap.end);
                    buf[(at - offset) as usize..(from - offset) as usize].fill(0);
                    at = zeros.next_zero(from).unwrap_or(gap.end).min(gap.end);
                    if from < at {
                        data.push(from..at);
                    }
                }
            }
            gaps = data;
        }
        drop(inner);
        for gap in gaps {
            let part = &mut buf[(gap.start - offset) as usize..(gap.end - offset) as usize];
            match stream {
                true => self.read_chunks(gap.start, part)?,
                false => self.read_exact(gap.start, part)?,
            }
        }
        Ok(())
    }

    /// Fills `buf` by a request for exactly its bytes, unless a kept chunk has all of them.
    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let within = (offset % CHUNK_BYTES) as usize;
        let found = match within + buf.len() <= CHUNK_BYTES as usize {
            true => self.fetcher.chunks.find(offset / CHUNK_BYTES),
            false => Found::Missing,
        };
        if let Found::Kept(bytes) = found {
            buf.copy_from_slice(&bytes[within..within + buf.len()]);
            return Ok(());
        }
        self.fetcher
            .pool
            .read(offset, &mut [buf])
            .map_err(|e| DiskError::Read(e.to_string()))
    }

    /// Fills `buf` from whole chunks.
    fn read_chunks(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let until = ((at / CHUNK_BYTES + 1) * CHUNK_BYTES).min(end);
            let part = &mut buf[(at - offset) as usize..(until - offset) as usize];
            match self.chunk(at / CHUNK_BYTES) {
                Some(bytes) => {
                    let within = (at % CHUNK_BYTES) as usize;
                    part.copy_from_slice(&bytes[within..within + part.len()]);
                    self.consumed_to(until);
                }
                None => self
                    .fetcher
                    .pool
                    .read(at, &mut [part])
                    .map_err(|e| DiskError::Read(e.to_string()))?,
            }
            at = until;
        }
        Ok(())
    }

    /// Notes that a sequential reader has reached `end`.
    fn consumed_to(&self, end: u64) {
        if end % CHUNK_BYTES == 0 {
            self.fetcher.chunks.consumed(end / CHUNK_BYTES - 1);
        }
    }

    /// Returns chunk `index`, if necessary after fetching it; `None` when it can't be shared because it is
    /// being written or its fetch failed.
    fn chunk(&self, index: u64) -> Option<Arc<Vec<u8>>> {
        match self.fetcher.chunks.find(index) {
            Found::Kept(bytes) => Some(bytes),
            Found::Coming(fetch) => fetch.wait(),
            Found::Missing => {
                for run in self.fetcher.announce(index..index + 1) {
                    self.fetcher.fetch(run);
                }
                match self.fetcher.chunks.find(index) {
                    Found::Kept(bytes) => Some(bytes),
                    Found::Coming(fetch) => fetch.wait(),
                    Found::Missing => None,
                }
            }
        }
    }

    /// Hands the chunks of `data` over to the prefetch threads. With `cut`, the last range continues beyond
    /// the window: then only its whole runs are fetched, unless the reader reads it next; the rest comes with
    /// a later read. When the list of announced runs is full, enough are under way.
    fn fetch_ahead(&self, data: Vec<Range<u64>>, cut: bool) {
        let last = data.len().saturating_sub(1);
        for (n, range) in data.into_iter().enumerate() {
            let (first, end) = (range.start / CHUNK_BYTES, range.end.div_ceil(CHUNK_BYTES));
            let run = self.fetcher.chunks.run();
            let whole = (end / run * run).max(first);
            let cut = cut && n == last && (whole > first || n > 0);
            for run in self.fetcher.announce(first..if cut { whole } else { end }) {
                if self.ahead.try_send(run).is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns the next ranges of data from the start of `ahead` on, which together have as many bytes as
/// `ahead`: holes are skipped. The flag is true when the last range ends only because the window does.
fn data_ahead(zeros: Option<&ZeroMap>, ahead: Range<u64>, size: u64) -> (Vec<Range<u64>>, bool) {
    let (mut at, mut left) = (ahead.start, ahead.end - ahead.start);
    let (mut data, mut cut) = (Vec::new(), false);
    while left > 0 && data.len() < MAX_HOLES_AHEAD {
        let start = zeros.map_or(at, |zeros| zeros.next_data(at));
        let extent = zeros.and_then(|zeros| zeros.next_zero(start)).unwrap_or(size);
        let end = extent.min(size).min(start + left);
        if start >= end {
            break;
        }
        cut = end < extent.min(size);
        left -= end - start;
        data.push(start..end);
        at = end;
    }
    (data, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_is_data_and_cut_only_where_the_window_ends_within_it() {
        let mut zeros = ZeroMap::default();
        zeros.insert(30..100);
        zeros.insert(110..200);
        let ahead = |from, len| {
            let (data, cut) = data_ahead(Some(&zeros), from..from + len, 210);
            (
                data.iter().map(|data| (data.start, data.end)).collect::<Vec<_>>(),
                cut,
            )
        };
        assert_eq!(ahead(10, 15), (vec![(10, 25)], true));
        assert_eq!(ahead(10, 20), (vec![(10, 30)], false));
        assert_eq!(ahead(10, 25), (vec![(10, 30), (100, 105)], true));
        assert_eq!(ahead(10, 30), (vec![(10, 30), (100, 110)], false));
        assert_eq!(ahead(50, 80), (vec![(100, 110), (200, 210)], false));
    }
}
