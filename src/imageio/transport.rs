//! The transport below ureq: one socket, with or without TLS, under four rules.
//!
//! 1. *No silent reconnect.* ureq replaces a dead connection inside a call, but a flush covers only the
//!    writes of its own connection. So [`OneShot`] connects only with a [`Permit`], which is given once per
//!    connection that the pool dials. Without one it returns at most the connection that a read past ureq has
//!    kept ([`Lines::keep`]).
//! 2. *Early answers are read.* When a send fails because the server has closed the connection, its answer
//!    (403, 416, 500 ...) may already have arrived. A failed send is therefore remembered and reported as
//!    success, and it becomes the error only if no answer follows.
//! 3. *Answers are bounded.* The answer to a request may take a limited number of bytes, including its
//!    headers and any number of interim answers, and a limited time.
//! 4. *Interim answers are dropped* (`interim`). They are looked for only where an answer begins, so bytes of
//!    a body that look like one are never touched.
//!
//! The bytes of the disk go over the same socket past ureq; `line` keeps rules 2 and 3 for both ways.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rustls::ClientConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::error::Broken;
use super::interim::Front;
use super::line::{Line, Lines, SharedLine, Stream};
use super::permit::{BUFFER_BYTES, Permit};
use super::socket::{Route, Socket};
use super::tls::TlsStream;

/// Makes one connection along one route.
#[derive(Debug)]
pub(super) struct OneShot {
    route: Route,
    tls: Option<(Arc<ClientConfig>, String)>,
    pub(super) permit: Arc<Permit>,
    /// A connection that was made before the first request.
    ready: Mutex<Option<Wire>>,
    /// Called once, when the server proves to be far away.
    far: Mutex<Option<Far>>,
    pub(super) lines: Arc<Lines>,
}

/// A call when the server's first answer to a TLS handshake takes [`FAR`](super::tls::FAR) or longer. It
/// returns one for the time when the connection is made.
pub(super) struct Far(pub(super) Box<dyn FnOnce() -> Made + Send>);

/// A call when a connection is made.
pub(super) type Made = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Far")
    }
}

impl Connector for OneShot {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        // It is no new connection, but the one that ureq has left for the body of the last answer.
        if let Some(line) = self.lines.take_kept() {
            return Ok(Some(self.over(line)));
        }
        if !self.permit.connect.swap(false, Ordering::Relaxed) {
            return Err(io::Error::from(Broken::Over).into());
        }
        if let Some(ready) = self.ready.lock().take() {
            return Ok(Some(ready));
        }
        Ok(Some(self.make()?))
    }
}

impl OneShot {
    pub(super) fn new(route: Route, tls: Option<(Arc<ClientConfig>, String)>, permit: Arc<Permit>) -> Self {
        OneShot {
            route,
            tls,
            permit,
            ready: Mutex::new(None),
            far: Mutex::new(None),
            lines: Arc::default(),
        }
    }

    /// Has `far` called while the first connection is being made.
    pub(super) fn when_far(self, far: Far) -> Self {
        *self.far.lock() = Some(far);
        self
    }

    /// Makes the connection now, and not with the first request.
    pub(super) fn prepare(&self) -> Result<(), ureq::Error> {
        *self.ready.lock() = Some(self.make()?);
        Ok(())
    }

    fn make(&self) -> Result<Wire, ureq::Error> {
        let usual = self.permit.usual;
        let mut made = None;
        let socket = Socket::connect(&self.route, usual).map_err(io::Error::from)?;
        if let Some(ends) = socket.ends() {
            let _ = self.permit.ends.set(ends);
        }
        let stream = match &self.tls {
            None => Stream::Plain(socket),
            Some((config, host)) => {
                let call = self.far.lock().take();
                let far = || made = call.map(|call| (call.0)());
                let tls = TlsStream::handshake(config.clone(), host, socket, far);
                Stream::Tls(Box::new(tls.map_err(io::Error::from)?))
            }
        };
        if let Some(made) = made {
            made();
        }
        stream.socket().set_timeouts(usual, usual)?;
        self.permit.live.store(true, Ordering::Relaxed);
        if self.permit.made.swap(true, Ordering::Relaxed) {
            // The one before has ended with its first answer.
            self.permit.set_brief(true);
        }
        Ok(self.over(Line::new(stream, self.permit.clone())))
    }

    fn over(&self, line: SharedLine) -> Wire {
        let left = line.lock().take_left();
        Wire {
            line,
            buffers: left.unwrap_or_else(new_buffers),
            lines: self.lines.clone(),
            at_head: false,
        }
    }
}

/// The transport of one connection.
pub(super) struct Wire {
    line: SharedLine,
    buffers: LazyBuffers,
    lines: Arc<Lines>,
    /// Everything in the input buffer comes before the answer itself, or may do so.
    at_head: bool,
}

/// Returns buffers for ureq, which have no memory yet.
fn new_buffers() -> LazyBuffers {
    LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES)
}

/// Leaves out the buffers, which hold the head of the last request with the ticket.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let buffers = std::mem::replace(&mut self.buffers, new_buffers());
        self.line.lock().leave(buffers);
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.at_head = true;
        let mut line = self.line.lock();
        match line.take_ahead() {
            0 => {
                self.lines.use_now(&self.line);
                Ok(line.send(&self.buffers.output()[..amount])?)
            }
            sent if sent == amount => Ok(()),
            // The buffer does not have those bytes.
            _ => Err(io::Error::other("a request lost its place").into()),
        }
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        while self.receive()? {
            self.drop_interim_answers();
            if !self.buffers.input().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// ureq asks after each answer that it reads to the end, and again before the next request; after a read
    /// past it, [`Lines::keep`] and [`Lines::take_kept`] ask the same. A connection that has ended between
    /// the two is found out by one system call, and then nothing of the request was sent. So are bytes that
    /// nobody has asked for, which would be taken for the answer to the next request (a gateway's 408 on an
    /// idle connection).
    fn is_open(&mut self) -> bool {
        self.line.lock().is_open()
    }

    /// ureq demands TLS for an https URL; this host's unix socket is as safe.
    fn is_tls(&self) -> bool {
        self.line.lock().is_safe()
    }
}

impl Wire {
    /// Drops what has arrived before the answer itself, as far as it is complete.
    fn drop_interim_answers(&mut self) {
        while self.at_head {
            match Front::of(self.buffers.input()) {
                Front::Interim(bytes) => self.buffers.input_consume(bytes),
                Front::Unclear => return,
                Front::Final => self.at_head = false,
            }
        }
    }

    /// Reads some bytes into the input buffer; returns false at the end of the stream.
    fn receive(&mut self) -> Result<bool, ureq::Error> {
        let n = self.line.lock().receive(self.buffers.input_append_buf())?;
        self.buffers.input_appended(n);
        Ok(n > 0)
    }
}

/// Resolves nothing: ureq asks for addresses before it connects, but [`OneShot`] has its own route.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use ureq::Timeout;
    use ureq::unversioned::transport::time::Duration as UreqDuration;

    use super::super::socket::IO_TIMEOUT;
    use super::*;

    const NO_TIMEOUT: NextTimeout = NextTimeout {
        after: UreqDuration::NotHappening,
        reason: Timeout::Global,
        per_read: None,
        per_write: None,
    };

    /// The output buffer has none of the bytes that a body has sent itself, so they must never be sent from
    /// it.
    #[test]
    fn what_a_body_has_sent_is_not_sent_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let permit = Permit::once(IO_TIMEOUT, Arc::default(), Arc::default());
        let lines = Arc::new(Lines::default());
        let mut wire = Wire {
            line: Line::new(Stream::Plain(Socket::Unix(ours)), permit.clone()),
            buffers: new_buffers(),
            lines: lines.clone(),
            at_head: false,
        };
        wire.buffers.output()[..4].copy_from_slice(b"head");
        wire.transmit_output(4, NO_TIMEOUT).unwrap();
        let body = lines.present().unwrap();
        body.lock().send_ahead(b"body").unwrap();
        wire.transmit_output(4, NO_TIMEOUT).unwrap();
        body.lock().send_ahead(b"rest").unwrap();
        wire.transmit_output(3, NO_TIMEOUT).unwrap_err();
        drop((wire, body));
        let mut sent = String::new();
        io::Read::read_to_string(&mut theirs, &mut sent).unwrap();
        assert_eq!(sent, "headbodyrest");
        assert!(lines.present().is_err() && permit.is_over());
    }
}
