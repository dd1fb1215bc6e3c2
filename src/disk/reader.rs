//! Reads: pending writes first, known zeros next, then kept chunks, and the server for the rest.
//!
//! A random read asks the server for exactly its bytes. A sequential one is served in whole chunks, and
//! the chunks ahead are fetched meanwhile by prefetch threads (one for each connection), so that a
//! single reader keeps all connections busy.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::debug;

use super::DiskError;
use super::chunks::{CHUNK, Chunks, Found};
use super::streams::Streams;
use super::writer::WriteBehind;
use crate::pool::Pool;

/// Furthest prefetch, bytes; also never more than half of the cache.
const MAX_WINDOW: u64 = 16 << 20;

/// The reading half of a disk.
pub(super) struct Reader {
    fetcher: Arc<Fetcher>,
    streams: Mutex<Streams>,
    ahead: Sender<u64>,
}

impl Reader {
    /// A reader over `size` bytes with a cache of `cache` bytes, and its prefetch threads.
    pub(super) fn start(
        size: u64,
        pool: Arc<Pool>,
        writes: Arc<WriteBehind>,
        cache: u64,
    ) -> std::io::Result<(Reader, Vec<JoinHandle<()>>)> {
        let (ahead, wanted) = bounded::<u64>(256);
        let connections = pool.connections();
        let fetcher = Arc::new(Fetcher {
            size,
            pool,
            writes,
            chunks: Chunks::new(cache),
        });
        let prefetch = |n| {
            let (fetcher, wanted): (_, Receiver<u64>) = (fetcher.clone(), wanted.clone());
            let builder = std::thread::Builder::new().name(format!("prefetch-{n}"));
            builder.spawn(move || {
                for index in &wanted {
                    fetcher.fetch(index);
                }
            })
        };
        let threads = (1..=connections).map(prefetch).collect::<Result<_, _>>()?;
        Ok((
            Reader {
                fetcher,
                streams: Mutex::default(),
                ahead,
            },
            threads,
        ))
    }

    /// The kept chunks, for the writes to taint.
    pub(super) fn chunks(&self) -> &Chunks {
        &self.fetcher.chunks
    }

    /// Fills `buf` from `offset`; the caller has made sure that it lies within the disk.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = offset..offset + buf.len() as u64;
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
        let ahead = {
            let max = MAX_WINDOW.min(self.fetcher.chunks.capacity() as u64 * CHUNK / 2);
            self.streams
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .note(&range, max)
        };
        if let Some(ahead) = &ahead {
            self.fetch_ahead(ahead.clone());
        }
        for gap in gaps {
            let part = &mut buf[(gap.start - offset) as usize..(gap.end - offset) as usize];
            match ahead {
                Some(_) => self.read_chunks(gap.start, part)?,
                None => self.read_exact(gap.start, part)?,
            }
        }
        Ok(())
    }

    /// Asks for the bytes themselves, unless a chunk has them all.
    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let within = (offset % CHUNK) as usize;
        if within + buf.len() <= CHUNK as usize
            && let Found::Kept(bytes) = self.fetcher.chunks.find(offset / CHUNK)
        {
            buf.copy_from_slice(&bytes[within..within + buf.len()]);
            return Ok(());
        }
        self.fetcher
            .pool
            .read(offset, buf)
            .map_err(|e| DiskError::Read(e.to_string()))
    }

    fn read_chunks(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let index = at / CHUNK;
            let until = ((index + 1) * CHUNK).min(end);
            let part = &mut buf[(at - offset) as usize..(until - offset) as usize];
            let bytes = match self.fetcher.chunks.find(index) {
                Found::Kept(bytes) => Some(bytes),
                Found::Coming(fetch) => fetch.wait(),
                Found::Missing => self.fetcher.fetch(index),
            };
            match bytes {
                Some(bytes) => {
                    let within = (at % CHUNK) as usize;
                    part.copy_from_slice(&bytes[within..within + part.len()]);
                }
                None => self
                    .fetcher
                    .pool
                    .read(at, part)
                    .map_err(|e| DiskError::Read(e.to_string()))?,
            }
            at = until;
        }
        Ok(())
    }

    /// Puts the chunks of `range` on the prefetch list. Full list: enough is under way.
    fn fetch_ahead(&self, range: Range<u64>) {
        let range = range.start.min(self.fetcher.size)..range.end.min(self.fetcher.size);
        for index in range.start / CHUNK..range.end.div_ceil(CHUNK) {
            let missing = matches!(self.fetcher.chunks.find(index), Found::Missing);
            if missing && self.ahead.try_send(index).is_err() {
                return;
            }
        }
    }
}

/// Fetches whole chunks, for the prefetch threads and for a reader that is ahead of them.
struct Fetcher {
    size: u64,
    pool: Arc<Pool>,
    writes: Arc<WriteBehind>,
    chunks: Chunks,
}

impl Fetcher {
    /// Fetches chunk `index` unless somebody does or did; `None` when there is nothing to share: it is
    /// known to be zero, being written, or the request failed.
    fn fetch(&self, index: u64) -> Option<Arc<Vec<u8>>> {
        let range = index * CHUNK..((index + 1) * CHUNK).min(self.size);
        self.chunks.begin(index)?;
        // Whoever waits for this chunk is told in any case, also when the request panics.
        let mut end = EndOnDrop {
            chunks: &self.chunks,
            index,
            bytes: None,
        };
        let inner = self.writes.lock();
        let hole = inner
            .zeros
            .as_ref()
            .is_some_and(|zeros| zeros.covers(range.clone()));
        if hole || inner.table.touches(&range) {
            self.chunks.spoil(index);
            return None;
        }
        drop(inner);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match self.pool.read(range.start, &mut bytes) {
            Ok(()) => end.bytes = Some(Arc::new(bytes)),
            Err(e) => debug!("fetch of chunk {index} failed: {e}"),
        }
        end.bytes.clone()
    }
}

struct EndOnDrop<'a> {
    chunks: &'a Chunks,
    index: u64,
    bytes: Option<Arc<Vec<u8>>>,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.chunks.end(self.index, self.bytes.take());
    }
}
