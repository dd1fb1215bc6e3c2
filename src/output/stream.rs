//! A text on its way into a stream whose reader may not read.
//!
//! A full pipe blocks whoever writes to it. A terminal that nobody reads, as behind a connection that is
//! stuck, has room for one byte and blocks a longer write. So a text goes through an open file description of
//! our own, which does not block; the stream's own is COMMAND's too and stays as it is. A text that finds no
//! room in time is dropped, and the next one that gets through begins where it does not mix with the
//! fragment.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{tcgetpgrp, write};
use parking_lot::Mutex;

/// Longest wait for a reader who does not read. After one such wait nobody is waited for until a text gets
/// through, but for the texts that have to come last.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before the next try where a terminal says that there is room and takes nothing: one byte is
/// free, and the end of a line needs two.
const PAUSE: Duration = Duration::from_millis(10);

/// The kernel takes that many bytes into a pipe without waiting, once it says that there is room
/// (PIPE_BUF, `pipe(7)`).
const PIECE_BYTES: usize = 4096;

/// The outcome of the texts so far, for the next one.
#[derive(Debug)]
pub(super) struct Past {
    /// The reader does not read.
    nobody_reads: bool,
    /// The next text begins with this: the last one broke off, or does not end its line.
    pub(super) begin_with: &'static str,
}

impl Past {
    pub(super) const fn new() -> Past {
        Past {
            nobody_reads: false,
            begin_with: "",
        }
    }
}

/// How a text is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// The reader is waited for even if the last text was not read.
    waits: bool,
    /// The next text begins with this where a piece of this one is missing.
    mended_with: &'static str,
}

impl Manner {
    /// Does the same, and waits for the reader even if the last text was not read.
    pub(super) const fn last(self) -> Manner {
        Manner { waits: true, ..self }
    }
}

/// The text is a line or more. The next one does not go on in its fragment.
pub(super) const LINE: Manner = Manner {
    waits: false,
    mended_with: "\n",
};

/// The text is a drawing. The next one leaves its control sequence, lets lines be wrapped, and goes to where
/// the cursor was.
pub(super) const DRAWING: Manner = Manner {
    waits: false,
    mended_with: "\x1b[?7h\x1b8",
};

/// Writes `text` as far as the reader takes it. Returns true where that is all of it.
pub(super) fn offer(stream: &impl AsFd, past: &Mutex<Past>, text: &[u8], manner: Manner) -> bool {
    let mut past = past.lock();
    let text = [past.begin_with.as_bytes(), text].concat();
    // A terminal stops a background process that writes, where `stty tostop` is set; a mount must go on. The
    // mask is this thread's for as long as it writes, so no program that is started inherits it.
    let before = SigSet::from(Signal::SIGTTOU).thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let way = Way::to(stream.as_fd());
    let mut rest = &text[..];
    while !rest.is_empty() {
        let patience = match past.nobody_reads && !manner.waits {
            true => Duration::ZERO,
            false => PATIENCE,
        };
        let taken = way.write(&rest[..rest.len().min(PIECE_BYTES)], Instant::now() + patience);
        past.nobody_reads = taken == Err(Errno::EAGAIN);
        match taken {
            Ok(count) => rest = &rest[count..],
            Err(_) => break,
        }
    }
    drop(way);
    let _ = before.map(|mask| mask.thread_set_mask());
    let written = &text[..text.len() - rest.len()];
    if rest.is_empty() || written.ends_with(b"\n") {
        past.begin_with = "";
    } else if !written.is_empty() {
        past.begin_with = manner.mended_with;
    }
    rest.is_empty()
}

/// The way of a text into a stream.
#[derive(Debug)]
enum Way<'a> {
    /// It does not block, and no other program has it.
    Own(File),
    Socket(BorrowedFd<'a>),
    /// It may block: a file, a device, or a terminal or pipe of another user.
    Shared(BorrowedFd<'a>),
}

impl Way<'_> {
    /// Opens a terminal or pipe once more. It is done for each text: stderr becomes another stream in the
    /// background, and a pipe that stayed open here would have no end for its reader.
    fn to(stream: BorrowedFd<'_>) -> Way<'_> {
        let kind = fstat(stream).map_or(0, |stat| stat.st_mode & SFlag::S_IFMT.bits());
        let open = |path: &str| {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            options.open(path).ok()
        };
        let again = || open(&format!("/proc/self/fd/{}", stream.as_raw_fd()));
        // Our controlling terminal may be opened by this name whoever owns it, as after `su`.
        let ours = || tcgetpgrp(stream).ok().and_then(|_| open("/dev/tty"));
        let own = match kind == SFlag::S_IFIFO.bits() || stream.is_terminal() {
            true => again().or_else(ours),
            false => None,
        };
        match own {
            Some(own) => Way::Own(own),
            None if kind == SFlag::S_IFSOCK.bits() => Way::Socket(stream),
            None => Way::Shared(stream),
        }
    }

    /// Writes a piece of `text`, and returns its length. Fails with EAGAIN where there is no room until then.
    fn write(&self, text: &[u8], until: Instant) -> Result<usize, Errno> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.stream(), PollFlags::POLLOUT)], left) {
                // A signal says nothing about the reader.
                Err(Errno::EINTR) => continue,
                Ok(0) => return Err(Errno::EAGAIN),
                _ => {}
            }
            let taken = match self {
                Way::Own(own) => write(own, text),
                Way::Shared(stream) => write(stream, text),
                Way::Socket(stream) => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    send(stream.as_raw_fd(), text, flags)
                }
            };
            match taken {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if Instant::now() < until => std::thread::sleep(PAUSE),
                Ok(0) => return Err(Errno::EIO),
                taken => return taken,
            }
        }
    }

    fn stream(&self) -> BorrowedFd<'_> {
        match self {
            Way::Own(own) => own.as_fd(),
            Way::Socket(stream) | Way::Shared(stream) => *stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::io::{Read, Write};

    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        (reader.into(), writer.into())
    }

    /// A pipe into which nothing fits any more.
    fn full() -> (File, File) {
        let (reader, mut writer) = pipe();
        let ready = |writer: &File| {
            let mut look = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
            poll(&mut look, PollTimeout::ZERO) != Ok(0)
        };
        while ready(&writer) {
            writer.write_all(&[b'.'; PIECE_BYTES]).unwrap();
        }
        (reader, writer)
    }

    fn past() -> Mutex<Past> {
        Mutex::new(Past::new())
    }

    #[test]
    fn a_reader_who_does_not_read_holds_nothing_up() {
        let (mut reader, writer) = full();
        let past = past();
        let start = Instant::now();
        for _ in 0..1000 {
            offer(&writer, &past, b"dropped\n", LINE);
        }
        assert!(start.elapsed() < 20 * PATIENCE, "each line waits");
        reader.read_exact(&mut vec![0; PIECE_BYTES]).unwrap();
        assert!(offer(&writer, &past, b"back\n", LINE));
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with(".back\n"), "{:?}", rest.trim_start_matches('.'));
    }

    /// Such a terminal has room for a byte while a line does not fit.
    #[test]
    fn a_terminal_that_nobody_reads_holds_nothing_up_and_its_lines_stay_apart() {
        let terminal = openpty(None, None).unwrap();
        let past = past();
        let start = Instant::now();
        let line = |n: usize| format!("line {n:05} {}\n", "x".repeat(70));
        let taken = (0..10_000).filter(|n| offer(&terminal.slave, &past, line(*n).as_bytes(), LINE));
        let taken = taken.count();
        assert!(start.elapsed() < 20 * PATIENCE, "each line waits");
        assert!(0 < taken && taken < 10_000, "{taken}");
        let mut master = File::from(terminal.master);
        let read = std::thread::spawn(move || {
            let (mut all, mut piece) = (Vec::new(), [0; 4096]);
            while !all.ends_with(b"last\r\n") {
                let count = master.read(&mut piece).unwrap();
                all.extend(&piece[..count]);
            }
            String::from_utf8(all).unwrap()
        });
        while !offer(&terminal.slave, &past, b"last\n", LINE) {}
        let all = read.join().unwrap();
        let whole = |row: &&str| row.len() == line(0).len() - 1;
        assert!(all.lines().filter(whole).count() >= taken, "{all}");
        assert_eq!(all.lines().last(), Some("last"));
    }

    #[test]
    fn a_line_that_broke_off_does_not_take_the_next_one_along() {
        let (mut reader, writer) = pipe();
        let past = past();
        assert!(!offer(&writer, &past, &[b'x'; 1 << 20], LINE));
        let mut got = vec![0; 4 * PIECE_BYTES];
        reader.read_exact(&mut got).unwrap();
        assert!(offer(&writer, &past, b"{}\n", LINE));
        assert!(offer(&writer, &past, b"{}\n", LINE));
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(
            rest.ends_with("x\n{}\n{}\n"),
            "{:?}",
            rest.trim_start_matches('x')
        );
    }

    #[test]
    fn a_socket_that_nobody_reads_holds_nothing_up_and_keeps_its_flags() {
        let (_reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let past = past();
        let start = Instant::now();
        let taken = (0..10_000).filter(|_| offer(&writer, &past, &[b'x'; 100], LINE));
        assert!(taken.count() < 10_000);
        assert!(start.elapsed() < 20 * PATIENCE, "each line waits");
        let flags = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert_eq!(flags & libc::O_NONBLOCK, 0);
    }

    #[test]
    fn a_stream_that_fails_is_no_failure() {
        offer(&File::create("/dev/full").unwrap(), &past(), b"x\n", LINE);
        let (reader, writer) = pipe();
        drop(reader);
        offer(&writer, &past(), b"x\n", LINE);
    }
}
