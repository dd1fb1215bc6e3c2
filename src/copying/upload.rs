//! From an image into the disk.
//!
//! A few threads read the image, each at another place, and hand what they have read to the disk's
//! write-behind, which has threads of its own that send. So the image is read ahead while requests are on
//! their way, as far as the write-behind has room. Whoever reads next takes its part from a shared cursor,
//! which walks over the extents of the image in order: neighbours reach the write-behind close together, and
//! go out in large requests.
//!
//! Holes of the image become zeros, of which the disk sends only those that are not zero already. What lies
//! behind the image's end is zeroed too, first of all, beside the data: a used disk then reads as `cp` onto
//! its mount would leave it. An image shorter than the disk's head takes the zeros behind it along, so that
//! the head changes at once: the old one with some zeros in it may look like another format, and be refused.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use parking_lot::Mutex;

use super::CopyError;
use super::proof::Proof;
use super::stream::Stream;
use super::workers::in_parallel;
use crate::disk::{Disk, HEAD_BYTES, Head, detect};
use crate::images::{Extent, Source};

/// Upper bound on the threads that read the image: one copies faster from the page cache than most networks
/// take, and more hide the latency of the storage below an image.
const MAX_READERS: usize = 4;

/// Lower bound on a hole that is not read, in bytes: to read the zeros of a shorter one costs less than to
/// divide the data around it.
const MIN_HOLE_BYTES: u64 = 64 << 10;

/// Size in bytes of a pipe at stdin, where the system grants it: fewer calls, and the program that writes it
/// runs ahead.
const PIPE_BYTES: i32 = 1 << 20;

/// A part of the work.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// The rest of the disk behind the image's end, or behind the head where that is later.
    Rest,
    Zeros(Range<u64>),
    Data(Range<u64>),
}

/// The place that the readers have come to.
#[derive(Debug, Default)]
struct Cursor {
    at: u64,
    /// The rest is begun.
    rest: bool,
    known: Known,
}

/// The extent that was looked up last. Some file systems, tmpfs for one, look at every page up to the end of
/// an extent, so one is looked up once and not for each of its pieces.
#[derive(Debug, Default)]
struct Known {
    range: Range<u64>,
    zero: bool,
}

impl Known {
    /// Returns the extent at `at`, which `look_up` is asked for if it is another one than the last.
    fn extent_at<E>(&mut self, at: u64, look_up: impl FnOnce(u64) -> Result<Extent, E>) -> Result<Extent, E> {
        if !self.range.contains(&at) {
            let found = look_up(at)?;
            (self.range, self.zero) = (at..at.saturating_add(found.length), found.zero);
        }
        Ok(Extent {
            length: self.range.end - at,
            zero: self.zero,
        })
    }
}

/// See the head of this file.
pub(super) struct Upload {
    source: Source,
    disk: Arc<Disk>,
    piece: u64,
    cursor: Mutex<Cursor>,
    /// Takes what is copied.
    proof: Option<Proof>,
}

impl Upload {
    pub(super) fn new(source: Source, disk: Arc<Disk>, proof: Option<Proof>) -> Upload {
        Upload {
            source,
            proof,
            piece: disk.piece(),
            disk,
            cursor: Mutex::default(),
        }
    }

    /// Copies all of the image over `connections` connections, until `stop` is set. Every byte is
    /// acknowledged then, and durable once the disk has closed well.
    pub(super) fn run(&self, connections: usize, stop: &AtomicBool) -> Result<(), CopyError> {
        in_parallel(connections.clamp(2, MAX_READERS), stop, || self.copy_parts(stop))?;
        if let Some(proof) = &self.proof {
            proof.complete(|bytes, offset| self.read_padded(bytes, offset))?;
        }
        Ok(self.source.check_unchanged()?)
    }

    /// Reads bytes of the disk as it should be: behind the image's end it has zeros.
    fn read_padded(&self, bytes: &mut [u8], offset: u64) -> Result<(), CopyError> {
        let count = self.source.size().saturating_sub(offset).min(bytes.len() as u64);
        let (inside, behind) = bytes.split_at_mut(count as usize);
        behind.fill(0);
        Ok(self.source.read_at(inside, offset)?)
    }

    /// Returns the proof that has taken the bytes.
    pub(super) fn proof(&self) -> Option<Proof> {
        self.proof.clone()
    }

    fn end(&self) -> u64 {
        with_whole_head(self.source.size(), &self.disk)
    }

    fn copy_parts(&self, stop: &AtomicBool) -> Result<(), CopyError> {
        while let Some(part) = self.next()? {
            if stop.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            match part {
                Part::Rest => zero_the_rest(&self.disk, self.end(), self.proof.as_ref())?,
                Part::Zeros(range) => {
                    self.disk.zero(range.start, range.end - range.start, true)?;
                    if let Some(proof) = &self.proof {
                        proof.zero(range.start, range.end - range.start);
                    }
                }
                Part::Data(range) => {
                    let mut bytes = self.disk.lend();
                    bytes.truncate((range.end - range.start) as usize);
                    self.read_padded(&mut bytes, range.start)?;
                    if let Some(proof) = &self.proof {
                        proof.data(range.start, &bytes);
                    }
                    self.disk.write_lent(range.start, bytes)?;
                }
            }
            if let Some(proof) = &self.proof {
                proof.keep_up(stop, |bytes, offset| self.read_padded(bytes, offset))?;
            }
        }
        Ok(())
    }

    /// Takes the next part.
    fn next(&self) -> Result<Option<Part>, CopyError> {
        let mut cursor = self.cursor.lock();
        if !std::mem::replace(&mut cursor.rest, true) {
            return Ok(Some(Part::Rest));
        }
        let size = self.source.size();
        if cursor.at >= size {
            return Ok(None);
        }
        let (at, known) = (cursor.at, &mut cursor.known);
        let mut part = next_part(at, size, self.piece, |at| {
            known.extent_at(at, |at| self.source.extent_at(at))
        })?;
        if let Part::Zeros(range) | Part::Data(range) = &mut part {
            cursor.at = range.end;
            if range.end == size {
                range.end = self.end();
            }
        }
        Ok(Some(part))
    }
}

/// The part at `at` of an image of `size` bytes: a long hole as a whole, or the data up to the next one, at
/// most to the end of its piece.
fn next_part<E>(
    at: u64,
    size: u64,
    piece: u64,
    mut extent_at: impl FnMut(u64) -> Result<Extent, E>,
) -> Result<Part, E> {
    let is_hole = |extent: &Extent, end: u64| extent.zero && (extent.length >= MIN_HOLE_BYTES || end >= size);
    let first = extent_at(at)?;
    let mut end = at.saturating_add(first.length).min(size);
    if is_hole(&first, end) {
        return Ok(Part::Zeros(at..end));
    }
    let most = (at / piece + 1).saturating_mul(piece).min(size);
    while end < most {
        let extent = extent_at(end)?;
        let next = end.saturating_add(extent.length).min(size);
        if is_hole(&extent, next) {
            break;
        }
        end = next;
    }
    Ok(Part::Data(at..end.min(most)))
}

/// Returns the end in bytes of an image of `size` bytes with the zeros that complete the head of `disk`. An
/// empty image has none to complete.
fn with_whole_head(size: u64, disk: &Disk) -> u64 {
    match size {
        0 => 0,
        _ => size.max((HEAD_BYTES as u64).min(disk.capacity())),
    }
}

/// Zeroes the disk from `end` on.
fn zero_the_rest(disk: &Disk, end: u64, proof: Option<&Proof>) -> Result<(), CopyError> {
    if end < disk.capacity() {
        disk.truncate(end)?;
        if let Some(proof) = proof {
            proof.zero(end, disk.capacity() - end);
        }
    }
    Ok(())
}

/// Refuses an image that does not fit, or whose bytes would cost a raw disk that `minds_the_head` its life,
/// before the first byte is written.
pub(super) fn check(source: &Source, disk: &Disk, minds_the_head: bool) -> Result<(), CopyError> {
    check_size(source.size(), disk)?;
    if minds_the_head {
        let mut head: Head = [0; HEAD_BYTES];
        let count = source.size().min(HEAD_BYTES as u64) as usize;
        source.read_at(&mut head[..count], 0)?;
        if let Some(format) = detect(&head) {
            return Err(CopyError::LooksLike { format });
        }
    }
    Ok(())
}

/// Refuses `image` bytes that do not fit on the disk.
pub(super) fn check_size(image: u64, disk: &Disk) -> Result<(), CopyError> {
    match image > disk.capacity() {
        true => Err(CopyError::DiskTooSmall {
            image,
            disk: disk.capacity(),
        }),
        false => Ok(()),
    }
}

/// Copies `size` bytes from stdin to the disk, until `stop` is set. A stream that is shorter or longer is an
/// error. One that ends within the first piece, as of a program that could not begin, changes nothing.
pub(super) fn from_stdin(
    disk: &Disk,
    size: u64,
    proof: Option<&Proof>,
    stop: &AtomicBool,
) -> Result<(), CopyError> {
    let mut stdin = Stream::of(io::stdin(), stop).map_err(CopyError::Stdin)?;
    let _ = fcntl(&stdin.file, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let (piece, mut at) = (disk.piece(), 0);
    while at < size {
        if stop.load(Ordering::Relaxed) {
            return Err(CopyError::Stopped);
        }
        let mut bytes = disk.lend();
        bytes.truncate((size - at).min(piece) as usize);
        let got = stdin.fill(&mut bytes)?;
        let is_whole = got == bytes.len();
        match (at, is_whole) {
            (0, false) => {
                return Err(CopyError::StdinEnded {
                    got: got as u64,
                    size,
                });
            }
            (0, true) => {
                let end = with_whole_head(size, disk);
                zero_the_rest(disk, end, proof)?;
                if end > size {
                    bytes.resize(end as usize, 0);
                }
            }
            (_, true) => {}
            (_, false) => bytes.truncate(got),
        }
        if !bytes.is_empty() {
            if let Some(proof) = proof {
                proof.data(at, &bytes);
            }
            disk.write_lent(at, bytes)?;
        }
        at += got as u64;
        if !is_whole {
            return Err(CopyError::StdinEnded { got: at, size });
        }
    }
    match stdin.fill(&mut [0])? {
        0 if size == 0 => zero_the_rest(disk, size, proof),
        0 => Ok(()),
        _ => Err(CopyError::StdinLonger { size }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// All parts of an image with these extents, each with its length and whether it is zero, and how many
    /// times one was looked up.
    fn parts(extents: &[(u64, bool)], piece: u64) -> (Vec<Part>, usize) {
        let size = extents.iter().map(|(length, _)| length).sum();
        let lookups = Cell::new(0);
        let look_up = |at| {
            lookups.set(lookups.get() + 1);
            let mut start = 0;
            for (length, zero) in extents {
                if at < start + length {
                    let length = start + length - at;
                    return Ok::<_, ()>(Extent { length, zero: *zero });
                }
                start += length;
            }
            Err(())
        };
        let (mut at, mut known, mut parts) = (0, Known::default(), Vec::new());
        while at < size {
            let extent_at = |at| known.extent_at(at, look_up);
            let part = next_part(at, size, piece, extent_at).unwrap();
            let (Part::Zeros(range) | Part::Data(range)) = &part else {
                panic!("{part:?}");
            };
            assert_eq!(range.start, at);
            at = range.end;
            parts.push(part);
        }
        (parts, lookups.get())
    }

    #[test]
    fn an_extent_is_looked_up_once_for_all_its_pieces() {
        const MIB: u64 = 1 << 20;
        let extents = [(32 * MIB, false), (MIB, true), (5 * MIB + 1, false)];
        let (parts, lookups) = parts(&extents, MIB);
        assert_eq!((parts.len(), lookups), (39, 3), "{parts:?}");
    }

    #[test]
    fn long_holes_are_not_read_and_short_ones_do_not_divide_the_data() {
        const MIB: u64 = 1 << 20;
        let (found, _) = parts(
            &[
                (5 * MIB, false),
                (MIB_HOLE, true),
                (4096, false),
                (8192, true),
                (4096, false),
                (100, true),
            ],
            2 * MIB,
        );
        let after = 5 * MIB + MIB_HOLE;
        assert_eq!(
            found,
            [
                Part::Data(0..2 * MIB),
                Part::Data(2 * MIB..4 * MIB),
                Part::Data(4 * MIB..5 * MIB),
                Part::Zeros(5 * MIB..after),
                Part::Data(after..after + 16384),
                Part::Zeros(after + 16384..after + 16484),
            ]
        );
    }

    const MIB_HOLE: u64 = 3 << 40;
}
