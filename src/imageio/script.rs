//! A server that has said everything already: what fuzzing has in the place of a socket.
//!
//! It hands out its bytes in pieces of one length, so that an answer is cut anywhere; what is sent to it is gone. After
//! the last byte the connection is closed, or times out. No system call, no thread: nothing here can block.

use std::io::{self, Read, Write};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Clones go on where the others are: a second connection hears what the first has left.
#[derive(Debug, Clone)]
pub(super) struct Script(Arc<Mutex<Said>>);

#[derive(Debug)]
struct Said {
    bytes: Vec<u8>,
    heard: usize,
    piece: usize,
    closes: bool,
}

impl Script {
    /// Says `bytes`, at most `piece` of them at a time; then it closes, or is silent.
    pub(super) fn new(bytes: &[u8], piece: usize, closes: bool) -> Self {
        Script(Arc::new(Mutex::new(Said {
            bytes: bytes.to_owned(),
            heard: 0,
            piece: piece.max(1),
            closes,
        })))
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock()
    }
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut said = self.said();
        let rest = &said.bytes[said.heard..];
        let n = rest.len().min(buf.len()).min(said.piece);
        if n == 0 && !said.closes {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..n].copy_from_slice(&rest[..n]);
        said.heard += n;
        Ok(n)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
