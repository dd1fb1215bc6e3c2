//! Hashes what can be read: the caller walks the extents, and a few threads read and hash the blocks that are
//! not holes. Holes cost a look at their extents.
//!
//! The memory is that of one block for each thread, [`MAX_BUFFERS_BYTES`] at most.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};
use parking_lot::Mutex;

use super::hasher::{Checksum, Hasher};
use super::method::Method;
use crate::failure::{Exit, Failure};
use crate::process::limits::no_thread;

/// Upper bound on the blocks in memory, in bytes.
const MAX_BUFFERS_BYTES: u64 = 32 << 20;

/// Upper bound on the threads: more than this are faster than any storage.
const MAX_THREADS: u64 = 8;

/// Blocks that are read before they are compared, in the search for the first one that differs.
const BATCH_BLOCKS: u64 = 64;

/// The pause between two looks whether a block that all others wait for has come.
const GAP_PAUSE: Duration = Duration::from_millis(10);

/// A run of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Bytes, at least one.
    pub(crate) length: u64,
    /// They are known to be zeros; those of other runs may be zeros, too.
    pub(crate) zero: bool,
}

/// Bytes that can be read by several threads at once, and do not change meanwhile.
pub(crate) trait Bytes: Sync {
    /// Bytes in all.
    fn size(&self) -> u64;
    /// Returns the run that begins at `offset`, which is before the end.
    fn run_at(&self, offset: u64) -> Result<Run, Failure>;
    /// Fills `buf` with the bytes at `offset`, all of which are before the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure>;
    /// Says how many requests are worth making at once; `None` for as many as there are processors.
    fn parallel(&self) -> Option<usize> {
        None
    }
}

/// Bytes, and zeros behind them up to a larger size.
pub(crate) struct Padded<'a> {
    pub(crate) bytes: &'a dyn Bytes,
    /// Bytes in all, no less than `bytes` has.
    pub(crate) size: u64,
}

impl Bytes for Padded<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64) -> Result<Run, Failure> {
        match offset < self.bytes.size() {
            true => self.bytes.run_at(offset),
            false => Ok(Run {
                length: self.size - offset,
                zero: true,
            }),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        let there = self.bytes.size().saturating_sub(offset).min(buf.len() as u64);
        let (bytes, zeros) = buf.split_at_mut(there as usize);
        zeros.fill(0);
        match bytes.is_empty() {
            true => Ok(()),
            false => self.bytes.read_at(bytes, offset),
        }
    }

    fn parallel(&self) -> Option<usize> {
        self.bytes.parallel()
    }
}

/// How far the work has got, for who looks on; and how that one stops it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Bytes that are done, holes included.
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Watch {
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Has the work end soon, with an error.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Fails once the work is to end.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(Failure::text(Exit::Other, "stopped by a signal")),
            false => Ok(()),
        }
    }

    fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Returns the block hash of `bytes`, and the hasher that still knows the digest of each block.
pub(crate) fn hash(bytes: &dyn Bytes, method: Method, watch: &Watch) -> Result<(Checksum, Hasher), Failure> {
    let hasher = Hasher::new(method.algorithm, method.block_size, bytes.size());
    hash_blocks(bytes, &hasher, 0..hasher.blocks(), watch)?;
    match hasher.finish() {
        Some(checksum) => Ok((checksum, hasher)),
        None => Err(Failure::text(
            Exit::Other,
            "internal error: a block was not hashed",
        )),
    }
}

/// The place where bytes differ from what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// This block is the first one.
    At(u64),
    /// The block hashes differ, and all blocks before this one are the same. Of those from there on no digest
    /// was kept.
    From(u64),
}

/// Returns the place of the first difference between `bytes` and what `expected` has hashed, which has the
/// same size and is whole; `None` where both have the same block hash.
pub(crate) fn first_difference(
    bytes: &dyn Bytes,
    expected: &Hasher,
    watch: &Watch,
) -> Result<Option<Difference>, Failure> {
    let Method {
        algorithm,
        block_size,
    } = expected.method();
    let hasher = Hasher::new(algorithm, block_size, bytes.size());
    let mut unknown = None;
    for start in (0..hasher.blocks()).step_by(BATCH_BLOCKS as usize) {
        let blocks = start..(start + BATCH_BLOCKS).min(hasher.blocks());
        hash_blocks(bytes, &hasher, blocks.clone(), watch)?;
        for block in blocks {
            match (expected.digest_of(block), hasher.digest_of(block)) {
                (Some(known), Some(here)) if known != here => return Ok(Some(Difference::At(block))),
                (Some(_), Some(_)) => {}
                _ => drop(unknown.get_or_insert(block)),
            }
        }
    }
    match (hasher.finish(), expected.finish()) {
        (Some(here), Some(there)) if here == there => Ok(None),
        (Some(_), Some(_)) => Ok(Some(Difference::From(unknown.unwrap_or(0)))),
        _ => Err(Failure::text(
            Exit::Other,
            "internal error: a block was not hashed",
        )),
    }
}

/// Hashes these blocks into `hasher`.
fn hash_blocks(bytes: &dyn Bytes, hasher: &Hasher, blocks: Range<u64>, watch: &Watch) -> Result<(), Failure> {
    let most = (MAX_BUFFERS_BYTES / hasher.method().block_size).clamp(1, MAX_THREADS);
    let wanted = bytes
        .parallel()
        .unwrap_or_else(|| available_parallelism().map_or(1, Into::into));
    let threads = (wanted as u64).clamp(1, most);
    let failure = Mutex::new(None);
    let fail = |why: Failure| {
        failure.lock().get_or_insert(why);
    };
    let (give, work) = bounded(threads as usize);
    std::thread::scope(|scope| {
        let (mut started, mut refused) = (false, None);
        // Each has a copy of the channel, and none is left here: when all have failed, the walk ends.
        for n in 1..=threads {
            let (work, fail) = (work.clone(), &fail);
            let builder = std::thread::Builder::new().name(format!("hash-{n}"));
            let body = move || read_and_hash(bytes, hasher, &work, watch).unwrap_or_else(fail);
            // The others do its work.
            match builder.spawn_scoped(scope, body) {
                Ok(_) => started = true,
                Err(e) => refused = Some(e),
            }
        }
        drop(work);
        if let Some(e) = refused.filter(|_| !started) {
            return fail(no_thread("hash-1", &e));
        }
        let walked = walk(bytes, hasher, blocks, watch, &mut |block| {
            watch.check()?;
            // One of the threads is at the block that the others wait for.
            while hasher.is_far_ahead() && failure.lock().is_none() {
                std::thread::sleep(GAP_PAUSE);
                watch.check()?;
            }
            Ok(failure.lock().is_none() && give.send(block).is_ok())
        });
        drop(give);
        walked.unwrap_or_else(fail);
    });
    match failure.into_inner() {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// Gives the zeros to `hasher`, and every other block to `data`, until that returns false.
fn walk(
    bytes: &dyn Bytes,
    hasher: &Hasher,
    blocks: Range<u64>,
    watch: &Watch,
    data: &mut dyn FnMut(u64) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut block = blocks.start;
    while block < blocks.end {
        let range = hasher.range(block);
        let end = run_end(bytes, range.start, true)?;
        if end >= range.end {
            // The blocks that this run of zeros covers whole.
            let covered = match end == bytes.size() {
                true => blocks.end,
                false => (end / hasher.method().block_size).min(blocks.end),
            };
            let zeros = range.start..hasher.range(covered - 1).end;
            hasher.zero(zeros.start, zeros.end - zeros.start);
            watch.add(zeros.end - zeros.start);
            block = covered;
            continue;
        }
        // The next look is for a block that such a run does not touch.
        let until = match end == range.start {
            true => run_end(bytes, range.start, false)?,
            false => range.end,
        };
        let until = until.div_ceil(hasher.method().block_size).min(blocks.end);
        for block in block..until.max(block + 1) {
            if !data(block)? {
                return Ok(());
            }
        }
        block = until.max(block + 1);
    }
    Ok(())
}

/// Returns the end of the runs that are `zero`, or are not, from `offset` on; `offset` where there is none.
fn run_end(bytes: &dyn Bytes, offset: u64, zero: bool) -> Result<u64, Failure> {
    let mut end = offset;
    while end < bytes.size() {
        let run = bytes.run_at(end)?;
        if run.zero != zero {
            break;
        }
        end += run.length.max(1);
        if !zero {
            // One run of data is work enough before the next look.
            break;
        }
    }
    Ok(end.min(bytes.size()))
}

/// The work of one thread: until there is no more, or one block can't be read.
fn read_and_hash(
    bytes: &dyn Bytes,
    hasher: &Hasher,
    work: &Receiver<u64>,
    watch: &Watch,
) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    for block in work {
        let range = hasher.range(block);
        buffer.resize((range.end - range.start) as usize, 0);
        bytes.read_at(&mut buffer, range.start)?;
        hasher.data(range.start, &buffer);
        watch.add(range.end - range.start);
    }
    Ok(())
}
