//! The common parts of the targets: splitting an input, and the promises of every message.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::failure::Failure;

/// The text between two of these bytes is repeated; the byte is in no ordinary text.
const REPEAT_MARK: u8 = 0x1f;

/// The length to which repetition stretches an input, roughly.
const STRETCHED_BYTES: usize = 160 << 10;

/// Splits `data` after its first line.
pub(crate) fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|b| *b == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// Derives a number from the input, for choices that an input does not state.
pub(crate) fn number_of(data: &[u8]) -> usize {
    data.iter()
        .fold(data.len(), |n, b| n.wrapping_mul(31).wrapping_add((*b).into()))
}

/// A reader that delivers a body as a socket does: in pieces of odd lengths. It repeats the marked parts of
/// the body.
pub(crate) struct Pieces<'a> {
    current: &'a [u8],
    parts: std::vec::IntoIter<(&'a [u8], usize)>,
    repeated: (&'a [u8], usize),
    piece: usize,
    taken: Rc<Cell<usize>>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        let parts = data.split(|b| *b == REPEAT_MARK).enumerate();
        let parts: Vec<_> = parts
            .filter(|(_, part)| !part.is_empty())
            .map(|(n, part)| {
                (
                    part,
                    if n % 2 == 0 {
                        1
                    } else {
                        STRETCHED_BYTES / data.len()
                    },
                )
            })
            .collect();
        Pieces {
            current: &[],
            parts: parts.into_iter(),
            repeated: (&[], 0),
            piece: [1, 2, 3, 7, 64, 1000, 4096, usize::MAX][number_of(data) % 8],
            taken: Rc::default(),
        }
    }

    /// Returns true if no part of `data` is repeated.
    pub(crate) fn is_plain(data: &[u8]) -> bool {
        !data.contains(&REPEAT_MARK)
    }

    /// The number of bytes read so far.
    pub(crate) fn taken(&self) -> Rc<Cell<usize>> {
        self.taken.clone()
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.repeated.1 == 0 {
                match self.parts.next() {
                    Some(part) => self.repeated = part,
                    None => return Ok(0),
                }
            }
            self.current = self.repeated.0;
            self.repeated.1 -= 1;
        }
        let n = self.current.len().min(buf.len()).min(self.piece);
        let (now, later) = self.current.split_at(n);
        buf[..n].copy_from_slice(now);
        self.current = later;
        self.taken.set(self.taken.get() + n);
        Ok(n)
    }
}

/// Checks that a message is one line without control characters, and shows nothing of `secrets`, each of
/// which has at least eight letters, digits or dashes.
pub(crate) fn assert_presentable(failure: &Failure, secrets: &[&str]) {
    let text = failure.to_string();
    assert!(!text.contains(char::is_control), "control characters: {text:?}");
    for secret in secrets {
        assert!(!text.contains(&secret[..8]), "{secret} in {text:?}");
    }
}
