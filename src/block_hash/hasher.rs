//! Takes the bytes of a disk in any order and by several threads, and makes the block hash of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::assembly::{Assembly, Part, Progress};
use super::digests::Digests;
use super::method::{Algorithm, Method};
use crate::disk::is_zero;

/// Digests may wait for an earlier one up to so many bytes, before whoever feeds them waits, too.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// The block hash of some bytes, in the form of imageio's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) algorithm: String,
    /// Bytes.
    pub(crate) block_size: u64,
    /// Lower-case hexadecimal digits.
    pub(crate) checksum: String,
}

impl Checksum {
    pub(crate) fn of(method: Method, digest: &[u8]) -> Checksum {
        Checksum {
            algorithm: method.algorithm.name().to_owned(),
            block_size: method.block_size,
            checksum: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// See the head of this file. Each byte is given once; a block of which a byte came twice before it was whole
/// is missing until it is given as a whole.
pub(crate) struct Hasher {
    method: Method,
    /// Bytes in all.
    size: u64,
    digests: Mutex<Digests>,
    open: Mutex<HashMap<u64, Arc<Mutex<Assembly>>>>,
    /// Blocks that were given up, and that nobody has come to read again.
    given_up: Mutex<Vec<u64>>,
    /// Bytes that the blocks in `open` hold.
    held: AtomicU64,
}

impl Hasher {
    /// Begins a block hash of `size` bytes.
    pub(crate) fn new(algorithm: Algorithm, block_size: u64, size: u64) -> Hasher {
        let method = Method {
            algorithm,
            block_size,
        };
        let zero = algorithm.digest(&vec![0; block_size as usize]);
        let last = match size % block_size {
            0 => zero.clone(),
            short => algorithm.digest(&vec![0; short as usize]),
        };
        Hasher {
            method,
            size,
            digests: Mutex::new(Digests::new(algorithm, size.div_ceil(block_size), [zero, last])),
            open: Mutex::default(),
            given_up: Mutex::default(),
            held: AtomicU64::new(0),
        }
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// Bytes in all.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Number of blocks; the last one may be short.
    pub(crate) fn blocks(&self) -> u64 {
        self.size.div_ceil(self.method.block_size)
    }

    /// The bytes of a block.
    pub(crate) fn range(&self, block: u64) -> Range<u64> {
        let start = block * self.method.block_size;
        start..(start + self.method.block_size).min(self.size)
    }

    /// Takes the bytes at `offset`. What lies beyond the size is no byte of the disk, and is left out.
    pub(crate) fn data(&self, offset: u64, bytes: &[u8]) {
        let end = (offset + bytes.len() as u64).min(self.size);
        let mut at = offset;
        while at < end {
            let block = at / self.method.block_size;
            let range = self.range(block);
            let until = range.end.min(end);
            let part = &bytes[(at - offset) as usize..(until - offset) as usize];
            match at == range.start && until == range.end {
                true if is_zero(part) => self.note_zeros(block..block + 1),
                true => self.note(block, &self.method.algorithm.digest(part)),
                false => self.add(block, at - range.start, Part::Data(part)),
            }
            at = until;
        }
    }

    /// Takes `length` zeros at `offset`. Whole blocks cost nothing.
    pub(crate) fn zero(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size);
        let mut at = offset;
        while at < end {
            let block = at / self.method.block_size;
            let range = self.range(block);
            if at == range.start && range.end <= end {
                let until = match end == self.size {
                    true => self.blocks(),
                    false => end / self.method.block_size,
                };
                self.note_zeros(block..until);
                at = self.range(until - 1).end;
            } else {
                let until = range.end.min(end);
                self.add(block, at - range.start, Part::Zeros(until - at));
                at = until;
            }
        }
    }

    /// Returns the first bytes of which there is no digest yet, one block of them.
    pub(crate) fn missing(&self) -> Option<Range<u64>> {
        let block = self.digests.lock().first_missing()?;
        Some(self.range(block))
    }

    /// Takes a block that was given up: whoever feeds this reads it again, so that what follows it does not
    /// wait for it.
    pub(crate) fn take_given_up(&self) -> Option<Range<u64>> {
        let block = self.given_up.lock().pop()?;
        Some(self.range(block))
    }

    /// True where so many digests wait for an earlier one that whoever feeds this in order should wait, too.
    pub(crate) fn is_far_ahead(&self) -> bool {
        self.digests.lock().waiting_bytes() > MAX_WAITING_BYTES
    }

    /// Returns the digest of a block, once all of its bytes are there, and where it was not forgotten.
    pub(crate) fn digest_of(&self, block: u64) -> Option<Box<[u8]>> {
        self.digests.lock().digest(block).map(Into::into)
    }

    /// Returns the block hash; `None` where bytes are [missing](Self::missing).
    pub(crate) fn finish(&self) -> Option<Checksum> {
        let digest = self.digests.lock().finish()?;
        Some(Checksum::of(self.method, &digest))
    }

    fn note(&self, block: u64, digest: &[u8]) {
        self.digests.lock().set(block, digest);
        self.open.lock().remove(&block);
    }

    fn note_zeros(&self, blocks: Range<u64>) {
        self.open.lock().retain(|block, _| !blocks.contains(block));
        self.digests.lock().set_zero(blocks);
    }

    /// Takes a part of a block.
    fn add(&self, block: u64, offset: u64, part: Part<'_>) {
        let assembly = match self.open.lock().entry(block) {
            Entry::Occupied(open) => open.get().clone(),
            Entry::Vacant(_) if self.digests.lock().has(block) => return,
            Entry::Vacant(place) => {
                let range = self.range(block);
                let new = Assembly::new(self.method.algorithm, range.end - range.start);
                place.insert(Arc::new(Mutex::new(new))).clone()
            }
        };
        match assembly.lock().add(offset, part, &self.held) {
            Progress::Whole(digest) => self.note(block, &digest),
            Progress::GivenUpNow => self.given_up.lock().push(block),
            Progress::Open | Progress::GivenUp => {}
        }
    }
}

#[cfg(test)]
mod tests;
