//! The stream of one connection, as `transport` uses it below ureq and `requests` beside it.
//!
//! ureq copies each byte of a body through a buffer of its own, and while it receives one it asks for the log
//! level for each 16 bytes. So the bytes of the disk pass it by where they can. The body of a PUT sends
//! itself when ureq asks for it ([`Line::send_ahead`]), and ureq's own order to send the same bytes then
//! finds them sent. The body of a GET is read into the caller's buffers ([`Line::read_body`]) after ureq has
//! read the head, which may have brought the first bytes of the body. ureq reads the whole body where not its
//! length alone says where it ends: in chunks, without a length, before HTTP/1.1, and with
//! `Connection: close`.
//!
//! All three ways are under the rules 2 and 3 of `transport`, which are kept here: a failed send is
//! remembered until no answer follows, and what is received is bounded in bytes and in time.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::unversioned::transport::{Buffers, LazyBuffers};

use super::permit::Permit;
use super::socket::Socket;
use super::tls::TlsStream;

/// A line between ureq's transport and the client. Its lock is held for one send or read, or for one body.
pub(super) type SharedLine = Arc<Mutex<Line>>;

/// The lines of one client, of which it uses one at a time.
#[derive(Debug, Default)]
pub(super) struct Lines {
    present: Mutex<Weak<Mutex<Line>>>,
    idle: Mutex<Option<SharedLine>>,
}

impl Lines {
    /// Notes that the present request goes over `line`.
    pub(super) fn use_now(&self, line: &SharedLine) {
        *self.present.lock() = Arc::downgrade(line);
    }

    /// Returns the line over which the present request goes, or went.
    pub(super) fn present(&self) -> io::Result<SharedLine> {
        let line = self.present.lock().upgrade();
        line.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Keeps `line` for the next request, if it can carry that.
    pub(super) fn keep(&self, line: SharedLine) {
        let lasts = line.lock().is_open();
        *self.idle.lock() = lasts.then_some(line);
    }

    /// Takes the line that was kept, if it can still carry a request.
    pub(super) fn take_kept(&self) -> Option<SharedLine> {
        let kept = self.idle.lock().take();
        kept.filter(|line| line.lock().is_open())
    }
}

#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream>),
}

impl Stream {
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.socket(),
        }
    }

    /// True when the server has neither sent anything nor closed the connection.
    fn is_silent(&mut self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_silent(),
            Stream::Tls(tls) => tls.is_silent(),
        }
    }
}

/// The stream of one connection, and what has become of it.
pub(super) struct Line {
    stream: Stream,
    permit: Arc<Permit>,
    patience: Duration,
    half: Half,
    /// The time when this half of the exchange began.
    began: Instant,
    failed_send: Option<io::Error>,
    ended: bool,
    /// Bytes of the body that ureq has asked for and not yet ordered to send. They were sent all the same, or
    /// given up with `failed_send`.
    ahead: usize,
    /// The buffers of the transport that has left the line to its user, with what it has read ahead.
    left: Option<LazyBuffers>,
}

/// Leaves out the buffers, which hold the head of the last request with the ticket, and the stream.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("half", &self.half)
            .field("failed_send", &self.failed_send)
            .field("ended", &self.ended)
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.permit.live.store(false, Ordering::Relaxed);
    }
}

/// The direction of the bytes in the current exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Sending,
    Receiving,
}

/// Upper bound on a whole request, and on its whole answer, as a multiple of the allowed silence. A server
/// that sends one byte at a time keeps every single read or send within its timeout.
const DRIP_FACTOR: u32 = 10;

impl Line {
    pub(super) fn new(stream: Stream, permit: Arc<Permit>) -> SharedLine {
        Arc::new(Mutex::new(Line {
            stream,
            patience: permit.usual,
            permit,
            half: Half::Receiving,
            began: Instant::now(),
            failed_send: None,
            ended: false,
            ahead: 0,
            left: None,
        }))
    }

    fn check_drip(&mut self, half: Half) -> io::Result<()> {
        if self.half != half {
            (self.half, self.began) = (half, Instant::now());
        }
        let limit = self.permit.load.limit(self.permit.patience(), self.permit.usual);
        match self.began.elapsed() > limit * DRIP_FACTOR {
            true => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the request takes too long",
            )),
            false => Ok(()),
        }
    }

    /// Sends all of `data`. When the server takes no more, this succeeds: its answer may have arrived before.
    pub(super) fn send(&mut self, data: &[u8]) -> io::Result<()> {
        if self.failed_send.is_some() {
            return Ok(());
        }
        self.check_drip(Half::Sending)?;
        let sent = match &mut self.stream {
            Stream::Plain(socket) => io::Write::write_all(socket, data),
            Stream::Tls(tls) => tls.write_all(data),
        };
        match sent {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.failed_send = Some(e);
                self.permit.cut.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    /// Sends all of `data`, a part of the present request's body, before ureq orders that.
    pub(super) fn send_ahead(&mut self, data: &[u8]) -> io::Result<()> {
        self.send(data)?;
        self.ahead += data.len();
        Ok(())
    }

    /// Takes the number of bytes that were sent ahead since the last call.
    pub(super) fn take_ahead(&mut self) -> usize {
        std::mem::take(&mut self.ahead)
    }

    /// Reads some bytes into `input`, which is not empty; returns 0 at the end of the stream.
    pub(super) fn receive(&mut self, input: &mut [u8]) -> io::Result<usize> {
        let patience = self.permit.patience();
        if patience != self.patience {
            self.stream.socket().set_timeouts(patience, self.permit.usual)?;
            self.patience = patience;
        }
        self.check_drip(Half::Receiving)?;
        let silent_since = Instant::now();
        let received = loop {
            let received = match &mut self.stream {
                Stream::Plain(socket) => socket.read(input),
                Stream::Tls(tls) => tls.read(input),
            };
            // An error number is the kernel's own: it has given up the connection.
            let is_silence =
                |e: &io::Error| e.kind() == io::ErrorKind::TimedOut && e.raw_os_error().is_none();
            if !received.as_ref().is_err_and(is_silence) {
                break received;
            }
            let left = self.permit.load.left(silent_since, patience, self.permit.usual);
            if left.is_zero() {
                break received;
            }
            self.patience = left.min(patience);
            self.stream
                .socket()
                .set_timeouts(self.patience, self.permit.usual)?;
        };
        match (received, self.failed_send.take()) {
            (Ok(n), failed) if n > 0 => {
                self.permit.heard.store(true, Ordering::Relaxed);
                self.permit.receive(n)?;
                self.failed_send = failed;
                Ok(n)
            }
            (Ok(_) | Err(_), Some(failed)) => Err(failed),
            (Ok(_), None) => {
                self.ended = true;
                Ok(0)
            }
            (Err(e), None) => Err(e),
        }
    }

    /// True when another request may be sent: the server has closed nothing, and sent nothing unasked.
    pub(super) fn is_open(&mut self) -> bool {
        let usable = self.failed_send.is_none() && !self.ended && !self.permit.left.load(Ordering::Relaxed);
        usable && self.stream.is_silent()
    }

    /// True when nobody else can read or change what is sent: over TLS, and over this host's unix socket.
    pub(super) fn is_safe(&self) -> bool {
        matches!(self.stream, Stream::Tls(_) | Stream::Plain(Socket::Unix(_)))
    }

    /// Takes the buffers of a transport that is dropped.
    pub(super) fn leave(&mut self, buffers: LazyBuffers) {
        self.left = Some(buffers);
    }

    /// Returns the buffers of the transport that was dropped.
    pub(super) fn take_left(&mut self) -> Option<LazyBuffers> {
        self.left.take()
    }

    /// Fills `parts`, one after the other, with the body of an answer whose head ureq has read. The body is
    /// as long as they are, and the transport has left the line.
    pub(super) fn read_body(&mut self, parts: &mut [&mut [u8]]) -> io::Result<()> {
        let left = self.left.take();
        let mut buffers = left.ok_or_else(|| io::Error::other("the connection is still in use"))?;
        for part in parts {
            let early = buffers.input();
            let n = early.len().min(part.len());
            let (read, mut rest) = part.split_at_mut(n);
            read.copy_from_slice(&early[..n]);
            buffers.input_consume(n);
            while !rest.is_empty() {
                match self.receive(rest)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => rest = &mut rest[n..],
                }
            }
        }
        // Nobody has asked for more: the next request would take it for its answer.
        self.ended |= !buffers.input().is_empty();
        self.left = Some(buffers);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
