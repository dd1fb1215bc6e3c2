//! A block whose bytes arrive in parts: what follows the bytes before it is hashed at once, and what comes
//! before its turn is held.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use blake2::digest::DynDigest;

use super::method::Algorithm;

/// Upper bound on the bytes of all blocks that are held because they came before their turn. A copy has a
/// few requests under way at once, of 8 MiB at most each.
pub(super) const MAX_HELD_BYTES: u64 = 64 << 20;

/// Zeros are hashed in pieces of this size, in bytes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A part of a block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Data(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

impl Part<'_> {
    pub(super) fn len(&self) -> u64 {
        match self {
            Part::Data(bytes) => bytes.len() as u64,
            Part::Zeros(length) => *length,
        }
    }
}

#[derive(Debug)]
enum Held {
    Data(Vec<u8>),
    Zeros(u64),
}

impl Held {
    /// Bytes of memory.
    fn weight(&self) -> u64 {
        match self {
            Held::Data(bytes) => bytes.len() as u64,
            Held::Zeros(_) => 0,
        }
    }
}

/// The state of a block after a part was added.
pub(super) enum Progress {
    /// More bytes are to come.
    Open,
    /// The block is whole, and this is its digest.
    Whole(Box<[u8]>),
    /// A byte came twice, or too much would have to be held: the block has to be read again.
    GivenUpNow,
    /// It was given up before.
    GivenUp,
}

/// See the head of this file.
pub(super) struct Assembly {
    digest: Box<dyn DynDigest + Send>,
    /// So many bytes from the beginning of the block are hashed.
    hashed: u64,
    length: u64,
    held: BTreeMap<u64, Held>,
    given_up: bool,
}

impl Assembly {
    pub(super) fn new(algorithm: Algorithm, length: u64) -> Assembly {
        Assembly {
            digest: algorithm.begin(),
            hashed: 0,
            length,
            held: BTreeMap::new(),
            given_up: false,
        }
    }

    /// Takes the part at `offset` in the block. `held` counts the bytes that all blocks hold.
    pub(super) fn add(&mut self, offset: u64, part: Part<'_>, held: &AtomicU64) -> Progress {
        if self.given_up || offset < self.hashed || offset + part.len() > self.length {
            return self.give_up(held);
        }
        if offset > self.hashed {
            let kept = match part {
                Part::Data(bytes) => Held::Data(bytes.to_vec()),
                Part::Zeros(length) => Held::Zeros(length),
            };
            let sum = held.fetch_add(kept.weight(), Ordering::Relaxed) + kept.weight();
            if let Some(twice) = self.held.insert(offset, kept) {
                held.fetch_sub(twice.weight(), Ordering::Relaxed);
                return self.give_up(held);
            }
            return match sum > MAX_HELD_BYTES {
                true => self.give_up(held),
                false => Progress::Open,
            };
        }
        self.hash(part);
        while let Some(first) = self.held.first_entry() {
            if *first.key() > self.hashed {
                break;
            }
            let (at, next) = first.remove_entry();
            held.fetch_sub(next.weight(), Ordering::Relaxed);
            if at < self.hashed {
                return self.give_up(held);
            }
            match next {
                Held::Data(bytes) => self.hash(Part::Data(&bytes)),
                Held::Zeros(length) => self.hash(Part::Zeros(length)),
            }
        }
        match self.hashed == self.length {
            true => Progress::Whole(self.digest.finalize_reset()),
            false => Progress::Open,
        }
    }

    /// Forgets what it has; the block is open for nothing more.
    fn give_up(&mut self, held: &AtomicU64) -> Progress {
        for (_, kept) in std::mem::take(&mut self.held) {
            held.fetch_sub(kept.weight(), Ordering::Relaxed);
        }
        match std::mem::replace(&mut self.given_up, true) {
            false => Progress::GivenUpNow,
            true => Progress::GivenUp,
        }
    }

    fn hash(&mut self, part: Part<'_>) {
        match part {
            Part::Data(bytes) => self.digest.update(bytes),
            Part::Zeros(length) => {
                for at in (0..length).step_by(ZEROS.len()) {
                    let n = (length - at).min(ZEROS.len() as u64) as usize;
                    self.digest.update(&ZEROS[..n]);
                }
            }
        }
        self.hashed += part.len();
    }
}
