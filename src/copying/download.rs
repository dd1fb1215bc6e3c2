//! From the disk into an image.
//!
//! A thread for each connection reads what may be data, in requests as large as the disk makes them, straight
//! into a buffer of its own, and writes that to the image. Holes are not asked for, and are holes in the
//! image; zeros in the data become holes as well. A stream has no holes and one order: there one thread reads
//! through the disk's read-ahead, which keeps all connections at work.
//!
//! An image is an [`Output`], which has a temporary name and goes when it is dropped. It lies in a slot, so
//! that it can be dropped at a signal, whatever the copying threads wait for. That is done in a thread that
//! has root's capabilities, as root may have made it in another user's directory.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded};
use parking_lot::{Mutex, RwLock};

use super::CopyError;
use super::proof::Proof;
use super::stream::Stream;
use super::workers::in_parallel;
use crate::disk::{BLOCK_BYTES, Disk, is_zero};
use crate::images::{FileStamp, ImageError, Output, placed};
use crate::open_disk::OpenDisk;
use crate::process::{rights, spawn};

/// Lower bound on a request, in bytes, however many connections share the memory.
const MIN_REQUEST_BYTES: u64 = 512 << 10;

/// Unit in bytes of the places where requests end, unless a hash has larger blocks.
const UNIT_BYTES: u64 = 512 << 10;

/// Size in bytes of the pieces in which a stream is written: one piece of the read cache.
const STREAM_BYTES: usize = 1 << 20;

/// How long an image whose file system hangs is waited for before it stays behind, under its temporary name.
const DISCARD_PATIENCE: Duration = Duration::from_secs(2);

/// See the head of this file.
pub(super) struct Download {
    disk: Arc<Disk>,
    /// Upper bound on a request, in bytes: a connection's share of the memory.
    most: u64,
    /// See [`cut`]. A multiple of it that is not the end of the data ends each request.
    unit: u64,
    /// The place that the readers have come to.
    at: Mutex<u64>,
    /// Bytes of the disk that the image has, the holes included.
    done: Arc<AtomicU64>,
    /// `None` once it is published, or given up.
    output: RwLock<Option<Output>>,
    /// Bytes of the image that are never written are not zero by themselves.
    zeroes_holes: bool,
    /// The image is whole, and on its way to its name: a signal comes too late.
    publishing: Mutex<bool>,
    /// How the image was when it got its name, once it has that.
    stamp: Arc<OnceLock<FileStamp>>,
    /// Takes what is copied.
    proof: Option<Proof>,
}

impl Download {
    /// A download over `connections` connections, whose buffers take at most `memory` bytes together.
    pub(super) fn new(
        disk: Arc<Disk>,
        output: Output,
        (connections, memory): (usize, u64),
        proof: Option<Proof>,
    ) -> Download {
        let share = memory / connections.max(1) as u64;
        Download {
            most: share.max(MIN_REQUEST_BYTES),
            unit: proof.as_ref().map_or(UNIT_BYTES, Proof::block_size),
            disk,
            at: Mutex::new(0),
            done: Arc::default(),
            zeroes_holes: output.keeps_old_bytes(),
            output: RwLock::new(Some(output)),
            publishing: Mutex::new(false),
            stamp: Arc::default(),
            proof,
        }
    }

    /// True for a device, which keeps what was written to it when the copy fails.
    pub(super) fn is_in_place(&self) -> bool {
        self.zeroes_holes
    }

    /// Returns the proof that takes the bytes.
    pub(super) fn proof(&self) -> Option<Proof> {
        self.proof.clone()
    }

    /// Copies all of `open`, until `stop` is set, and gives the image its name.
    pub(super) fn run(&self, open: &Arc<OpenDisk>, stop: &AtomicBool) -> Result<(), CopyError> {
        in_parallel(open.connections().max(1), stop, || self.copy_parts(stop, stop))?;
        if let Some(proof) = &self.proof {
            proof.complete(|bytes, offset| Ok(self.disk.read_straight(offset, bytes)?))?;
            prove(proof, open, stop)?;
        }
        {
            let mut publishing = self.publishing.lock();
            if stop.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            *publishing = true;
        }
        let output = self.output.write().take().ok_or(CopyError::Stopped)?;
        if let Some(stamp) = rights::with(move || output.publish())? {
            let _ = self.stamp.set(stamp);
        }
        Ok(())
    }

    /// How the image was when it got its name.
    pub(super) fn stamp(&self) -> &Arc<OnceLock<FileStamp>> {
        &self.stamp
    }

    /// Counts the bytes of the disk that the image has.
    pub(super) fn done(&self) -> &Arc<AtomicU64> {
        &self.done
    }

    /// Copies all of the disk over so many connections, and returns the image, which is whole. Copies of
    /// other disks share `stop`, and a failure of this one does not set it.
    pub(super) fn fill(self, connections: usize, stop: &AtomicBool) -> Result<Output, CopyError> {
        let failed = AtomicBool::new(false);
        in_parallel(connections.max(1), &failed, || self.copy_parts(stop, &failed))?;
        let output = self.output.into_inner().ok_or(CopyError::Stopped)?;
        Ok(output.complete()?)
    }

    /// Sets `stop`, unless it is too late for that; then false is returned.
    pub(super) fn stop(&self, stop: &AtomicBool) -> bool {
        let publishing = self.publishing.lock();
        if !*publishing {
            stop.store(true, Ordering::Relaxed);
            if let Some(proof) = &self.proof {
                proof.stop();
            }
        }
        !*publishing
    }

    /// Removes the image, unless it has its name or is on its way to it. It waits twice for
    /// [`DISCARD_PATIENCE`] at most; false is returned where the image may be there still, under its
    /// temporary name.
    pub(super) fn discard(&self) -> bool {
        // The lock is held until the image is gone: whoever discards it as well waits for that.
        let Some(mut slot) = self.output.try_write_for(DISCARD_PATIENCE) else {
            return false;
        };
        let Some(output) = slot.take() else {
            return true;
        };
        let (removed, gone) = bounded(1);
        // A thread has the capabilities of the one that makes it. Where none is granted, the image goes with
        // what it was to do.
        let remove = move || {
            drop(output);
            let _ = removed.send(());
        };
        let _ = rights::with(move || spawn("discard", remove).map(drop));
        !matches!(
            gone.recv_timeout(DISCARD_PATIENCE),
            Err(RecvTimeoutError::Timeout)
        )
    }

    fn copy_parts(&self, stop: &AtomicBool, failed: &AtomicBool) -> Result<(), CopyError> {
        let mut buffer = Vec::new();
        while let Some((hole, data)) = self.next() {
            if stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            if self.zeroes_holes && !hole.is_empty() {
                self.with_output(|output| output.zero_at(hole.start, hole.end - hole.start))?;
            }
            let count = (data.end - data.start) as usize;
            let bytes = placed(&mut buffer, count, data.start);
            if count > 0 {
                self.disk.read_straight(data.start, bytes)?;
            }
            if let Some(proof) = &self.proof {
                proof.zero(hole.start, hole.end - hole.start);
                proof.data(data.start, bytes);
            }
            for (run, zero) in runs(data.start, bytes) {
                let (at, len) = (data.start + run.start as u64, run.len() as u64);
                match zero {
                    false => self.with_output(|output| output.write_at(&bytes[run], at))?,
                    true if self.zeroes_holes => self.with_output(|output| output.zero_at(at, len))?,
                    true => {}
                }
            }
            if let Some(proof) = &self.proof {
                proof.keep_up(stop, |bytes, offset| {
                    Ok(self.disk.read_straight(offset, bytes)?)
                })?;
            }
            self.done.fetch_add(data.end - hole.start, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes the next hole, which may be empty, and the data behind it.
    fn next(&self) -> Option<(Range<u64>, Range<u64>)> {
        let mut at = self.at.lock();
        let (from, end) = (*at, self.disk.capacity());
        if from >= end {
            return None;
        }
        let request = self.disk.request_size().clamp(MIN_REQUEST_BYTES, self.most);
        let found = self.disk.next_stretch(from, request);
        let data = found.unwrap_or(end..end);
        let data = data.start..cut(&data, request, self.unit);
        *at = data.end;
        Some((from..data.start, data))
    }

    fn with_output(&self, act: impl FnOnce(&Output) -> Result<(), ImageError>) -> Result<(), CopyError> {
        match &*self.output.read() {
            Some(output) => Ok(act(output)?),
            None => Err(CopyError::Stopped),
        }
    }
}

/// The end of a request for the beginning of `data`, which has at most `request` bytes: a multiple of `unit`
/// where the data may go on behind it, and otherwise its end. So an extent takes as few requests as it can,
/// and requests that are longer than a block of the hash divide none.
fn cut(data: &Range<u64>, request: u64, unit: u64) -> u64 {
    let aligned = data.end / unit * unit;
    match data.end - data.start < request || aligned <= data.start {
        true => data.end,
        false => aligned,
    }
}

/// Divides `bytes` at `offset` into runs of whole blocks that are zero and runs that are not.
pub(super) fn runs(offset: u64, bytes: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let into = ((offset + at as u64) % BLOCK_BYTES as u64) as usize;
        let end = (at + BLOCK_BYTES - into).min(bytes.len());
        let zero = is_zero(&bytes[at..end]);
        match runs.last_mut() {
            Some((run, same)) if *same == zero => run.end = end,
            _ => runs.push((at..end, zero)),
        }
        at = end;
    }
    runs
}

/// Compares what was copied with `disk`.
fn prove(proof: &Proof, disk: &Arc<OpenDisk>, stop: &AtomicBool) -> Result<(), CopyError> {
    let proven = proof.compare(disk, "what was read from it");
    proven.map_err(|failure| match stop.load(Ordering::Relaxed) {
        true => CopyError::Stopped,
        false => CopyError::Unproven(failure.to_string()),
    })
}

/// Copies the disk to stdout, until `stop` is set.
pub(super) fn to_stdout(
    open: &Arc<OpenDisk>,
    proof: Option<&Proof>,
    stop: &AtomicBool,
) -> Result<(), CopyError> {
    let disk = open.disk();
    // The lock of `io::stdout` has a buffer that would be one copy more.
    let mut stdout = Stream::of(io::stdout(), stop).map_err(CopyError::Stdout)?;
    let (mut at, mut buffer) = (0, Vec::new());
    while at < disk.capacity() {
        if stop.load(Ordering::Relaxed) {
            return Err(CopyError::Stopped);
        }
        let bytes = disk.read(at, STREAM_BYTES, &mut buffer)?;
        if let Some(proof) = proof {
            proof.data(at, &bytes);
        }
        stdout.write(&bytes)?;
        at += bytes.len() as u64;
    }
    // A file keeps what it got; a pipe has nothing to flush.
    match stdout.file.sync_all() {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EROFS | libc::ENOTSUP)) => {}
        synced => synced.map_err(CopyError::Stdout)?,
    }
    proof.map_or(Ok(()), |proof| prove(proof, open, stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_are_told_from_others_on_the_grid_of_the_disk() {
        let mut bytes = vec![0; 4 * BLOCK_BYTES];
        bytes[BLOCK_BYTES] = 1;
        let block = |n: usize| n * BLOCK_BYTES;
        assert_eq!(
            runs(0, &bytes),
            [
                (0..block(1), true),
                (block(1)..block(2), false),
                (block(2)..block(4), true)
            ]
        );
        let half = BLOCK_BYTES / 2;
        assert_eq!(
            runs(half as u64, &bytes)[1],
            (half..half + BLOCK_BYTES, false),
            "the grid is that of the disk"
        );
        assert!(runs(0, &[]).is_empty());
    }

    #[test]
    fn an_extent_takes_as_few_requests_as_it_can_and_divides_no_block() {
        const MIB: u64 = 1 << 20;
        let requests = |extent: Range<u64>, request: u64, unit: u64| {
            let (mut at, mut ends) = (extent.start, Vec::new());
            while at < extent.end {
                at = cut(&(at..extent.end.min(at + request)), request, unit);
                ends.push(at);
            }
            ends
        };
        assert_eq!(requests(3 * MIB..11 * MIB, 8 * MIB, MIB), [11 * MIB]);
        assert_eq!(requests(3 * MIB + 1..11 * MIB, 8 * MIB, MIB), [11 * MIB]);
        assert_eq!(
            requests(3 * MIB + 1..21 * MIB, 8 * MIB, MIB),
            [11 * MIB, 19 * MIB, 21 * MIB]
        );
        let blocks = requests(3 * MIB..22 * MIB, 8 * MIB, 4 * MIB);
        assert_eq!(blocks, [8 * MIB, 16 * MIB, 22 * MIB]);
        // Requests smaller than a block end at each of its ends.
        assert_eq!(requests(3 * MIB..5 * MIB, MIB / 2, 4 * MIB).len(), 4);
        assert!(requests(MIB / 4..9 * MIB, MIB / 2, 4 * MIB).contains(&(4 * MIB)));
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod beside_others {
    use super::*;
    use crate::disk::{DiskOptions, HeadRule};
    use crate::images::Format;
    use crate::pool::Pool;
    use crate::remote::{Dial, memory::MemoryServer};

    /// A disk of this many bytes that are not zero, on two connections.
    fn disk(size: usize) -> Arc<Disk> {
        let server = MemoryServer::new(size, 9);
        let first = server.dial().unwrap();
        let pool = Pool::open(server, first, 2, 2, Duration::ZERO);
        pool.await_all();
        let options = DiskOptions {
            read_only: true,
            cache_size: 4 << 20,
            journal_size: 0,
            write_behind: 1 << 20,
            request_size: 1 << 20,
            zero_detect: true,
            extents: true,
            spare_connection: false,
            head: HeadRule::Refuse,
            announce: |_| {},
        };
        Arc::new(Disk::open(pool, size as u64, options).unwrap())
    }

    /// The disks of a backup share what stops them.
    #[test]
    fn a_copy_that_fails_stops_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let size = 4 << 20;
        let stop = AtomicBool::new(false);
        let fill = |name: &str, room: u64| {
            let output = Output::create(&folder.path().join(name), Format::Qcow2, room, false).unwrap();
            Download::new(disk(size), output, (2, 4 << 20), None).fill(2, &stop)
        };
        let failed = fill("small.qcow2", 1 << 20);
        assert!(matches!(failed, Err(CopyError::Image(_))), "{failed:?}");
        assert!(!stop.load(Ordering::Relaxed), "the others are stopped, too");
        fill("whole.qcow2", size as u64).unwrap().publish().unwrap();
        stop.store(true, Ordering::Relaxed);
        let stopped = fill("stopped.qcow2", size as u64);
        assert!(matches!(stopped, Err(CopyError::Stopped)), "{stopped:?}");
    }
}
