//! The bytes of a TLS connection that have arrived and were not used yet.

use std::io::{self, Read};

use rustls::{Error, InvalidMessage};

use super::records::MAX_RECORD_BYTES;

/// Size of the buffer, and so the largest read from the socket.
const BUFFER_BYTES: usize = 256 * 1024;

/// A buffer whose bytes are used in place, from the front.
pub(super) struct Arrived {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Arrived {
    pub(super) fn new() -> Self {
        Arrived {
            bytes: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }

    /// The place of the first unused byte in [`whole`](Self::whole).
    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn unused(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// All bytes, with those that were used since the last [`fill`](Self::fill).
    pub(super) fn whole(&self) -> &[u8] {
        &self.bytes
    }

    /// Counts `len` of the unused bytes as used.
    pub(super) fn use_up(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Reads some bytes from `socket` behind the unused ones, which it may move; returns 0 at the end of the
    /// stream.
    pub(super) fn fill(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        if self.start == self.end || self.bytes.len() - self.end < MAX_RECORD_BYTES {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            return Err(io::Error::other(Error::from(
                InvalidMessage::HandshakePayloadTooLarge,
            )));
        }
        let n = socket.read(&mut self.bytes[self.end..])?;
        self.end += n;
        Ok(n)
    }
}
