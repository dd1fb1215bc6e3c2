//! What the targets share: how an input is taken apart, and what every message keeps to.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::failure::Failure;

/// What stands between two of these is said again and again; no text has it.
const REPEAT_MARK: u8 = 0x1f;

/// How much an input is stretched by repetition, bytes.
const STRETCHED_BYTES: usize = 160 << 10;

/// The first line of `data`, and the rest.
pub(crate) fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|b| *b == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// A number that follows from the input: choices that no text should have to spell out.
pub(crate) fn number_of(data: &[u8]) -> usize {
    data.iter()
        .fold(data.len(), |n, b| n.wrapping_mul(31).wrapping_add((*b).into()))
}

/// A body as a socket delivers it: in pieces of an odd length, and long where a part of it is to be repeated.
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

    /// Nothing in it is repeated.
    pub(crate) fn is_plain(data: &[u8]) -> bool {
        !data.contains(&REPEAT_MARK)
    }

    /// How many bytes were read so far.
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

/// A message is one line, shows nothing of `secrets` (each at least eight letters, digits or dashes) and can't steer a
/// terminal.
pub(crate) fn assert_presentable(failure: &Failure, secrets: &[&str]) {
    let text = failure.to_string();
    assert!(!text.contains(char::is_control), "control characters: {text:?}");
    for secret in secrets {
        assert!(!text.contains(&secret[..8]), "{secret} in {text:?}");
    }
}
