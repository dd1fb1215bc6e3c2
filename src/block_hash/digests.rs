//! The digests of the blocks, however they arrive: hashed in order into the block hash as soon as all before
//! them are there, and kept in the pages of a table.
//!
//! A page of which nothing, or only zeros, is known costs a few bytes. Digests that are in the block hash
//! already are kept for one purpose, to name the first block that differs: the first [`MAX_KEPT_BYTES`] of
//! them, which are those of 1 TiB of data with the usual method. Those behind are forgotten. A digest that
//! came before its turn is kept until that comes, so who feeds them must not let a gap stand while more than
//! a bounded number arrive behind it ([`Digests::waiting_bytes`]).

use std::collections::BTreeMap;
use std::ops::Range;

use blake2::digest::DynDigest;

use super::method::Algorithm;

/// Blocks in a page.
const PAGE_BLOCKS: u64 = 512;

/// Upper bound on the digests that are kept although they are in the block hash, in bytes.
const MAX_KEPT_BYTES: usize = 8 << 20;

/// The knowledge about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    Zero,
    Digest,
}

enum Page {
    /// All of its blocks are zeros.
    Zeros,
    Mixed {
        states: Box<[State]>,
        /// The digests one after the other, with room for one of each block; empty while there is none.
        bytes: Vec<u8>,
    },
}

impl Page {
    /// Bytes of digests.
    fn weight(&self) -> usize {
        match self {
            Page::Zeros => 0,
            Page::Mixed { bytes, .. } => bytes.len(),
        }
    }
}

/// The knowledge of each block.
struct Table {
    blocks: u64,
    /// The digest of a whole block of zeros, and that of the last block if it were zeros.
    zeros: [Box<[u8]>; 2],
    pages: BTreeMap<u64, Page>,
}

/// See the head of this file.
pub(super) struct Digests {
    table: Table,
    /// The block hash of the blocks before `folded`.
    outer: Box<dyn DynDigest + Send>,
    folded: u64,
    /// Bytes of digests in the pages that are folded, and in the others.
    kept: usize,
    waiting: usize,
    most_kept: usize,
}

impl Digests {
    /// The digests of so many blocks; `zeros` are that of a whole block of zeros, and that of the last block
    /// if it were zeros.
    pub(super) fn new(algorithm: Algorithm, blocks: u64, zeros: [Box<[u8]>; 2]) -> Digests {
        Digests {
            table: Table {
                blocks,
                zeros,
                pages: BTreeMap::new(),
            },
            outer: algorithm.begin(),
            folded: 0,
            kept: 0,
            waiting: 0,
            most_kept: MAX_KEPT_BYTES,
        }
    }

    /// Returns the digest of a block, where it is known and was not forgotten.
    pub(super) fn digest(&self, block: u64) -> Option<&[u8]> {
        self.table.digest(block)
    }

    /// True once a block is whole.
    pub(super) fn has(&self, block: u64) -> bool {
        block < self.folded || self.digest(block).is_some()
    }

    /// Notes the digest of a block, unless it is known.
    pub(super) fn set(&mut self, block: u64, digest: &[u8]) {
        if self.has(block) {
            return;
        }
        let (at, length) = ((block % PAGE_BLOCKS) as usize, self.table.length());
        let (states, bytes) = self.table.mixed(block / PAGE_BLOCKS);
        states[at] = State::Digest;
        let before = bytes.len();
        bytes.resize(PAGE_BLOCKS as usize * length, 0);
        bytes[at * length..][..length].copy_from_slice(digest);
        self.waiting += bytes.len() - before;
        self.fold();
    }

    /// Notes that these blocks are zeros, but for those that are known.
    pub(super) fn set_zero(&mut self, blocks: Range<u64>) {
        let mut at = blocks.start.max(self.folded);
        while at < blocks.end {
            let page = at / PAGE_BLOCKS;
            let whole = page * PAGE_BLOCKS..(page + 1) * PAGE_BLOCKS;
            let end = whole.end.min(blocks.end);
            let is_whole = at == whole.start && (end == whole.end || end == self.table.blocks);
            if is_whole && !self.table.pages.contains_key(&page) {
                self.table.pages.insert(page, Page::Zeros);
            } else {
                let (states, _) = self.table.mixed(page);
                let range = (at - whole.start) as usize..(end - whole.start) as usize;
                let missing = states[range].iter_mut().filter(|state| **state == State::Missing);
                missing.for_each(|state| *state = State::Zero);
            }
            at = end;
        }
        self.fold();
    }

    /// Returns the first block that is missing.
    pub(super) fn first_missing(&self) -> Option<u64> {
        Some(self.folded).filter(|block| *block < self.table.blocks)
    }

    /// Bytes of the digests that came before their turn.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// Returns the block hash, once no block is missing.
    pub(super) fn finish(&self) -> Option<Box<[u8]>> {
        let is_whole = self.first_missing().is_none();
        is_whole.then(|| self.outer.box_clone().finalize())
    }

    /// Hashes the digests whose turn has come, and forgets what is too much to be kept.
    fn fold(&mut self) {
        while self.folded < self.table.blocks {
            let Some(digest) = self.table.digest(self.folded) else {
                return;
            };
            self.outer.update(digest);
            self.folded += 1;
            if self.folded % PAGE_BLOCKS == 0 || self.folded == self.table.blocks {
                self.leave((self.folded - 1) / PAGE_BLOCKS);
            }
        }
    }

    /// A page is folded.
    fn leave(&mut self, page: u64) {
        let pages = &mut self.table.pages;
        let weight = pages.get(&page).map_or(0, Page::weight);
        self.waiting -= weight;
        match weight {
            0 => drop(pages.insert(page, Page::Zeros)),
            // Once one was forgotten, so are all behind it, since each weighs the same.
            _ if self.kept + weight > self.most_kept => drop(pages.remove(&page)),
            _ => self.kept += weight,
        }
    }

    #[cfg(test)]
    pub(super) fn keep_at_most(&mut self, bytes: usize) {
        self.most_kept = bytes;
    }
}

impl Table {
    fn digest(&self, block: u64) -> Option<&[u8]> {
        let (at, length) = ((block % PAGE_BLOCKS) as usize, self.length());
        match self.pages.get(&(block / PAGE_BLOCKS))? {
            Page::Zeros => Some(self.of_zeros(block)),
            Page::Mixed { states, bytes } => match states[at] {
                State::Missing => None,
                State::Zero => Some(self.of_zeros(block)),
                State::Digest => Some(&bytes[at * length..][..length]),
            },
        }
    }

    /// Length of a digest in bytes.
    fn length(&self) -> usize {
        self.zeros[0].len()
    }

    fn of_zeros(&self, block: u64) -> &[u8] {
        &self.zeros[usize::from(block + 1 == self.blocks)]
    }

    fn mixed(&mut self, page: u64) -> (&mut [State], &mut Vec<u8>) {
        let missing = || Page::Mixed {
            states: vec![State::Missing; PAGE_BLOCKS as usize].into(),
            bytes: Vec::new(),
        };
        let page = self.pages.entry(page).or_insert_with(missing);
        if matches!(page, Page::Zeros) {
            *page = Page::Mixed {
                states: vec![State::Zero; PAGE_BLOCKS as usize].into(),
                bytes: Vec::new(),
            };
        }
        match page {
            Page::Mixed { states, bytes } => (states, bytes),
            Page::Zeros => unreachable!("it was replaced above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(blocks: u64) -> Digests {
        let zeros = [0, 1].map(|n| vec![n; 16].into());
        Digests::new(Algorithm::Md5, blocks, zeros)
    }

    fn digest(block: u64) -> Vec<u8> {
        [block.to_le_bytes(), 77_u64.to_le_bytes()].concat()
    }

    #[test]
    fn holes_cost_a_page_at_most_and_hide_no_digest() {
        let blocks = 8 * (1 << 40) / (1 << 20);
        let mut digests = digests(blocks);
        digests.set(1000, &digest(1000));
        digests.set_zero(0..1000);
        assert_eq!(digests.first_missing(), Some(1001));
        digests.set_zero(1000..blocks);
        assert_eq!(digests.first_missing(), None);
        assert_eq!(digests.digest(1000), Some(digest(1000).as_slice()));
        for zero in [999, 1001] {
            assert_eq!(digests.digest(zero), Some([0; 16].as_slice()), "block {zero}");
        }
        assert_eq!(
            digests.digest(blocks - 1),
            Some([1; 16].as_slice()),
            "the last block"
        );
        let mixed = |page: &&Page| matches!(page, Page::Mixed { .. });
        assert_eq!(digests.table.pages.values().filter(mixed).count(), 1);
    }

    /// With blocks of 1 MiB and digests of 64 bytes it would be 64 MiB for each TiB otherwise.
    #[test]
    fn digests_whose_turn_was_are_kept_up_to_a_bound_and_all_are_in_the_hash() {
        let (blocks, one_page) = (20 * PAGE_BLOCKS + 100, PAGE_BLOCKS as usize * 16);
        let bound = 7 * one_page;
        let (mut digests, mut expected) = (digests(blocks), Algorithm::Md5.begin());
        digests.keep_at_most(bound);
        // Each pair comes in the wrong order.
        for pair in (0..blocks).step_by(2) {
            for block in [pair + 1, pair] {
                digests.set(block, &digest(block));
            }
            [pair, pair + 1]
                .into_iter()
                .for_each(|block| expected.update(&digest(block)));
            let in_pages: usize = digests.table.pages.values().map(Page::weight).sum();
            assert!(in_pages <= bound + 2 * one_page, "{in_pages} at block {pair}");
            assert!(digests.waiting_bytes() <= 2 * one_page);
        }
        assert_eq!(digests.finish(), Some(expected.finalize()));
        assert_eq!(digests.digest(1), Some(digest(1).as_slice()));
        assert_eq!(digests.digest(blocks - 1), None);
        assert!(digests.has(blocks - 1));
    }

    #[test]
    fn what_is_known_is_not_changed() {
        let mut digests = digests(600);
        digests.set(599, &digest(599));
        digests.set_zero(0..600);
        digests.set(5, &digest(5));
        assert_eq!(digests.digest(599), Some(digest(599).as_slice()));
        assert_eq!(digests.digest(5), Some([0; 16].as_slice()));
        assert_eq!(digests.first_missing(), None);
    }
}
