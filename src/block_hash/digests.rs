//! The digests of the blocks, however they arrive: pages of a table that is as large as what is not zeros.
//!
//! A page without any digest costs a few bytes, so 8 TiB of holes take 256 KiB here, and each TiB of data
//! 8 MiB with digests of 32 bytes and blocks of 4 MiB.

use std::collections::BTreeMap;
use std::ops::Range;

/// Blocks in a page.
const PAGE_BLOCKS: u64 = 512;

/// The knowledge about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// Nothing, or not all of its bytes.
    Missing,
    /// It is whole, and all zeros.
    Zero,
    /// The digest of its bytes.
    Digest(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    Zero,
    Digest,
}

#[derive(Debug)]
enum Page {
    /// All of its blocks are zeros.
    Zeros,
    Mixed {
        states: Box<[State]>,
        /// The digests one after the other, with room for one of each block; empty while there is none.
        bytes: Vec<u8>,
    },
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Digests {
    blocks: u64,
    /// Length of a digest in bytes.
    length: usize,
    pages: BTreeMap<u64, Page>,
}

impl Digests {
    pub(super) fn new(blocks: u64, length: usize) -> Digests {
        Digests {
            blocks,
            length,
            pages: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, block: u64) -> Known<'_> {
        let at = (block % PAGE_BLOCKS) as usize;
        match self.pages.get(&(block / PAGE_BLOCKS)) {
            None => Known::Missing,
            Some(Page::Zeros) => Known::Zero,
            Some(Page::Mixed { states, bytes }) => match states[at] {
                State::Missing => Known::Missing,
                State::Zero => Known::Zero,
                State::Digest => Known::Digest(&bytes[at * self.length..][..self.length]),
            },
        }
    }

    /// Notes the digest of a block.
    pub(super) fn set(&mut self, block: u64, digest: &[u8]) {
        let (at, length) = ((block % PAGE_BLOCKS) as usize, self.length);
        let (states, bytes) = self.mixed(block / PAGE_BLOCKS);
        states[at] = State::Digest;
        bytes.resize(PAGE_BLOCKS as usize * length, 0);
        bytes[at * length..][..length].copy_from_slice(digest);
    }

    /// Notes that these blocks are zeros.
    pub(super) fn set_zero(&mut self, blocks: Range<u64>) {
        let mut at = blocks.start;
        while at < blocks.end {
            let page = at / PAGE_BLOCKS;
            let whole = page * PAGE_BLOCKS..(page + 1) * PAGE_BLOCKS;
            let end = whole.end.min(blocks.end);
            if at == whole.start && (end == whole.end || end == self.blocks) {
                self.pages.insert(page, Page::Zeros);
            } else {
                let (states, _) = self.mixed(page);
                let range = (at - whole.start) as usize..(end - whole.start) as usize;
                states[range].fill(State::Zero);
            }
            at = end;
        }
    }

    /// Returns the first block that is missing, from `from` on.
    pub(super) fn missing_from(&self, from: u64) -> Option<u64> {
        let mut block = from;
        while block < self.blocks {
            match self.pages.get(&(block / PAGE_BLOCKS)) {
                Some(Page::Zeros) => block = (block / PAGE_BLOCKS + 1) * PAGE_BLOCKS,
                _ if self.get(block) == Known::Missing => return Some(block),
                _ => block += 1,
            }
        }
        None
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

    #[test]
    fn holes_cost_a_page_at_most_and_hide_no_digest() {
        let blocks = 8 * (1 << 40) / (1 << 20);
        let mut digests = Digests::new(blocks, 2);
        digests.set(1000, &[1, 2]);
        digests.set_zero(0..1000);
        assert_eq!(digests.missing_from(0), Some(1001));
        digests.set_zero(1001..blocks);
        assert_eq!(digests.missing_from(0), None);
        assert_eq!(digests.get(1000), Known::Digest(&[1, 2]));
        assert_eq!((digests.get(999), digests.get(1001)), (Known::Zero, Known::Zero));
        let mixed = |page: &&Page| matches!(page, Page::Mixed { .. });
        assert_eq!(digests.pages.values().filter(mixed).count(), 1);
    }

    #[test]
    fn a_block_among_zeros_can_get_a_digest() {
        let mut digests = Digests::new(600, 1);
        digests.set_zero(0..600);
        digests.set(599, &[7]);
        assert_eq!(digests.get(599), Known::Digest(&[7]));
        assert_eq!((digests.get(598), digests.missing_from(0)), (Known::Zero, None));
    }
}
