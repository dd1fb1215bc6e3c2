//! A recorded server, which takes the place of a socket when fuzzing and in tests.
//!
//! It hands out its bytes in pieces of one length, so that answers are cut at any point, and drops everything
//! that is sent to it. A test may have it take only so many sends. After the last byte the connection is
//! closed or times out. It makes no system call and has no thread, so nothing here can block.

use std::io::{self, Read, Write};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Clones share their position: a second connection reads the bytes that the first has left.
#[derive(Debug, Clone)]
pub(super) struct Script(Arc<Mutex<Said>>);

#[derive(Debug)]
struct Said {
    bytes: Vec<u8>,
    heard: usize,
    piece: usize,
    closes: bool,
    /// The number of further sends that it takes.
    takes: usize,
}

impl Script {
    /// Sends `bytes`, at most `piece` of them per read; then it closes, or stays silent.
    pub(super) fn new(bytes: &[u8], piece: usize, closes: bool) -> Self {
        Script(Arc::new(Mutex::new(Said {
            bytes: bytes.to_owned(),
            heard: 0,
            piece: piece.max(1),
            closes,
            takes: usize::MAX,
        })))
    }

    /// Has it take `sends` sends, and fail the others as a closed connection does.
    #[cfg(test)]
    pub(super) fn taking(self, sends: usize) -> Self {
        self.said().takes = sends;
        self
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
            // A silence that the kernel itself has given up on, so that nobody waits any longer.
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        buf[..n].copy_from_slice(&rest[..n]);
        said.heard += n;
        Ok(n)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut said = self.said();
        if said.takes == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        said.takes -= 1;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
