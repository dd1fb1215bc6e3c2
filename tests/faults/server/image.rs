//! A sparse byte image in memory.
//!
//! The bytes are in 64 KiB chunks behind `Arc`; an absent chunk reads as zeros. Copying a whole chunk from
//! one image to another shares it, so the durable copy of a disk needs memory only where the two differ.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Size of a chunk, in bytes.
pub const CHUNK: u64 = 64 * 1024;

/// Unit of the extents in bytes, as raw images on a file system have it.
const EXTENT_UNIT: u64 = 4096;

type Chunk = Arc<Vec<u8>>;

#[derive(Clone, Debug)]
pub struct Image {
    size: u64,
    chunks: BTreeMap<u64, Chunk>,
}

/// A run of chunks that are all zero or all data; `start` and `length` are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
    pub zero: bool,
}

impl Image {
    pub fn new(size: u64) -> Image {
        Image {
            size,
            chunks: BTreeMap::new(),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (index, within, at) in pieces(range) {
            if let Some(chunk) = self.chunks.get(&index) {
                let length = within.len();
                bytes[at..at + length].copy_from_slice(&chunk[within]);
            }
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        assert!(
            end <= self.size,
            "write of {offset}..{end} past the image's end {}",
            self.size
        );
        for (index, within, at) in pieces(offset..end) {
            let length = within.len();
            self.chunk_mut(index)[within].copy_from_slice(&bytes[at..at + length]);
        }
    }

    pub fn zero(&mut self, range: Range<u64>) {
        assert!(
            range.end <= self.size,
            "zero of {range:?} past the image's end {}",
            self.size
        );
        for (index, within, _) in pieces(range) {
            if within.len() as u64 == CHUNK {
                self.chunks.remove(&index);
            } else if self.chunks.contains_key(&index) {
                self.chunk_mut(index)[within].fill(0);
            }
        }
    }

    pub fn copy_from(&mut self, source: &Image, range: Range<u64>) {
        for (index, within, _) in pieces(range) {
            match source.chunks.get(&index) {
                Some(chunk) if within.len() as u64 == CHUNK => {
                    self.chunks.insert(index, Arc::clone(chunk));
                }
                Some(chunk) => self.chunk_mut(index)[within.clone()].copy_from_slice(&chunk[within]),
                None => {
                    let start = index * CHUNK;
                    self.zero(start + within.start as u64..start + within.end as u64);
                }
            }
        }
    }

    /// Returns the offset of the first byte that differs; absent chunks count as zeros.
    pub fn first_difference(&self, other: &Image) -> Option<u64> {
        let indexes: std::collections::BTreeSet<u64> =
            self.chunks.keys().chain(other.chunks.keys()).copied().collect();
        let zeros = vec![0; CHUNK as usize];
        for index in indexes {
            let mine = self.chunks.get(&index).map_or(&zeros[..], |chunk| &chunk[..]);
            let theirs = other.chunks.get(&index).map_or(&zeros[..], |chunk| &chunk[..]);
            if let Some(at) = mine.iter().zip(theirs).position(|(a, b)| a != b) {
                return Some(index * CHUNK + at as u64);
            }
        }
        (self.size != other.size).then_some(self.size.min(other.size))
    }

    /// Returns the image as runs of zero and data chunks, which together cover it exactly.
    pub fn extents(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for start in (0..self.size).step_by(EXTENT_UNIT as usize) {
            let length = EXTENT_UNIT.min(self.size - start);
            let within = (start % CHUNK) as usize..(start % CHUNK + length) as usize;
            let chunk = self.chunks.get(&(start / CHUNK));
            let zero = chunk.is_none_or(|chunk| chunk[within].iter().all(|byte| *byte == 0));
            match extents.last_mut() {
                Some(last) if last.zero == zero => last.length += length,
                _ => extents.push(Extent { start, length, zero }),
            }
        }
        extents
    }

    fn chunk_mut(&mut self, index: u64) -> &mut Vec<u8> {
        let chunk = self
            .chunks
            .entry(index)
            .or_insert_with(|| Arc::new(vec![0; CHUNK as usize]));
        Arc::make_mut(chunk)
    }
}

/// Splits a range at chunk borders into tuples of a chunk's index, the bytes within that chunk, and their
/// position in the range.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>, usize)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let index = at / CHUNK;
        let end = range.end.min((index + 1) * CHUNK);
        let within = (at - index * CHUNK) as usize..(end - index * CHUNK) as usize;
        let position = (at - range.start) as usize;
        at = end;
        Some((index, within, position))
    })
}
