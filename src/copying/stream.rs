//! stdin and stdout as a copy uses them: without a buffer of their own, and with patience where another
//! process has set them to non-blocking.
//!
//! `O_NONBLOCK` belongs to the open file, which several processes may share: a terminal or a pipe that node
//! or ssh has touched stays non-blocking for all. It is not ours to change. So a call that would block waits
//! in poll(2), with looks at whether to stop.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::CopyError;

/// How often a stream that is waited for looks whether to stop, in milliseconds.
const LOOK_MS: u16 = 100;

/// See the head of this file.
pub(super) struct Stream<'a> {
    pub(super) file: File,
    stop: &'a AtomicBool,
}

impl Stream<'_> {
    /// A stream over another descriptor of the file that `fd` is, which waits until `stop` is set.
    pub(super) fn of(fd: impl AsFd, stop: &AtomicBool) -> io::Result<Stream<'_>> {
        let file = File::from(fd.as_fd().try_clone_to_owned()?);
        Ok(Stream { file, stop })
    }

    /// Fills `buf`, less of it where the stream ends; returns how much.
    pub(super) fn fill(&mut self, buf: &mut [u8]) -> Result<usize, CopyError> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) => self.wait(e, PollFlags::POLLIN, CopyError::Stdin)?,
            }
        }
        Ok(filled)
    }

    /// Writes all of `buf`.
    pub(super) fn write(&mut self, mut buf: &[u8]) -> Result<(), CopyError> {
        while !buf.is_empty() {
            match self.file.write(buf) {
                Ok(0) => return Err(CopyError::Stdout(io::ErrorKind::WriteZero.into())),
                Ok(n) => buf = &buf[n..],
                Err(e) => self.wait(e, PollFlags::POLLOUT, CopyError::Stdout)?,
            }
        }
        Ok(())
    }

    /// Waits until a call that has failed is worth another attempt; an error that is none of waiting becomes
    /// that of the copy.
    fn wait(
        &self,
        error: io::Error,
        for_what: PollFlags,
        fail: impl Fn(io::Error) -> CopyError,
    ) -> Result<(), CopyError> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(fail(error)),
        }
        let fd: BorrowedFd<'_> = self.file.as_fd();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            match poll(&mut [PollFd::new(fd, for_what)], PollTimeout::from(LOOK_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                // Also an end or an error of the stream, which the next call tells.
                Ok(_) => return Ok(()),
                Err(e) => return Err(fail(e.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn non_blocking() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn stream(socket: UnixStream, stop: &AtomicBool) -> Stream<'_> {
        Stream::of(OwnedFd::from(socket), stop).unwrap()
    }

    #[test]
    fn a_stream_that_comes_in_pieces_fills_a_buffer_and_one_that_ends_does_not() {
        let (ours, mut theirs) = non_blocking();
        let writer = thread::spawn(move || {
            for n in [1, 3, 4] {
                thread::sleep(Duration::from_millis(5));
                theirs.write_all(&[n; 2]).unwrap();
            }
        });
        let stop = AtomicBool::new(false);
        let mut buf = [0; 8];
        assert_eq!(stream(ours, &stop).fill(&mut buf).unwrap(), 6);
        assert_eq!(buf, [1, 1, 3, 3, 4, 4, 0, 0]);
        writer.join().unwrap();
    }

    #[test]
    fn a_stream_without_room_is_waited_for() {
        let (ours, mut theirs) = non_blocking();
        let all = vec![7; 4 << 20];
        let expected = all.len();
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            got.len()
        });
        let stop = AtomicBool::new(false);
        stream(ours, &stop).write(&all).unwrap();
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_stream() {
        let (ours, _theirs) = non_blocking();
        let stop = AtomicBool::new(true);
        let stopped = stream(ours, &stop).fill(&mut [0; 8]);
        assert!(matches!(stopped, Err(CopyError::Stopped)), "{stopped:?}");
    }
}
