//! The transport below ureq: one socket, with or without TLS, under four rules.
//!
//! 1. *No silent reconnect.* ureq replaces a dead connection inside a call, but a flush covers only the
//!    writes of its own connection. So [`OneShot`] connects only with a [`Permit`], which is given once per
//!    connection that the pool dials.
//! 2. *Early answers are read.* When a send fails because the server has closed the connection, its answer
//!    (403, 416, 500 ...) may already have arrived. A failed send is therefore remembered and reported as
//!    success, and it becomes the error only if no answer follows.
//! 3. *Answers are bounded.* The answer to a request may take a limited number of bytes, including its
//!    headers and any number of interim answers, and a limited time.
//! 4. *Interim answers are dropped* (`interim`). They are looked for only where an answer begins, so bytes of
//!    a body that look like one are never touched.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ClientConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::error::Broken;
use super::interim::Front;
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
}

impl Connector for OneShot {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
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
        }
    }

    /// Makes the connection now, and not with the first request.
    pub(super) fn prepare(&self) -> Result<(), ureq::Error> {
        *self.ready.lock() = Some(self.make()?);
        Ok(())
    }

    fn make(&self) -> Result<Wire, ureq::Error> {
        let usual = self.permit.usual;
        let socket = Socket::connect(&self.route, usual).map_err(io::Error::from)?;
        if let Some(ends) = socket.ends() {
            let _ = self.permit.ends.set(ends);
        }
        let stream = match &self.tls {
            None => Stream::Plain(socket),
            Some((config, host)) => {
                let tls = TlsStream::handshake(config.clone(), host, socket).map_err(io::Error::from)?;
                Stream::Tls(Box::new(tls))
            }
        };
        stream.socket().set_timeouts(usual, usual)?;
        self.permit.live.store(true, Ordering::Relaxed);
        if self.permit.made.swap(true, Ordering::Relaxed) {
            // The one before has ended with its first answer.
            self.permit.set_brief(true);
        }
        Ok(Wire {
            stream,
            buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES),
            permit: self.permit.clone(),
            patience: usual,
            half: Half::Receiving,
            began: Instant::now(),
            failed_send: None,
            ended: false,
            at_head: false,
        })
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn socket(&self) -> &Socket {
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

/// The transport of one connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    buffers: LazyBuffers,
    permit: Arc<Permit>,
    patience: Duration,
    half: Half,
    /// The time when this half of the exchange began.
    began: Instant,
    failed_send: Option<io::Error>,
    ended: bool,
    /// Everything in the input buffer comes before the answer itself, or may do so.
    at_head: bool,
}

impl Drop for Wire {
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

impl Wire {
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
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.at_head = true;
        if self.failed_send.is_some() {
            return Ok(());
        }
        self.check_drip(Half::Sending)?;
        let data = &self.buffers.output()[..amount];
        let sent = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(data),
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
            other => Ok(other?),
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

    /// Asked after each answer, and again before the next request. A connection that has ended between the
    /// two is found out by one system call, and then nothing of the request was sent. So are bytes that
    /// nobody has asked for, which would be taken for the answer to the next request (a gateway's 408 on an
    /// idle connection).
    fn is_open(&mut self) -> bool {
        let usable = self.failed_send.is_none() && !self.ended && !self.permit.left.load(Ordering::Relaxed);
        usable && self.stream.is_silent()
    }

    /// ureq demands TLS for an https URL; this host's unix socket is as safe.
    fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_) | Stream::Plain(Socket::Unix(_)))
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
        let patience = self.permit.patience();
        if patience != self.patience {
            self.stream.socket().set_timeouts(patience, self.permit.usual)?;
            self.patience = patience;
        }
        self.check_drip(Half::Receiving)?;
        let input = self.buffers.input_append_buf();
        let silent_since = Instant::now();
        let received = loop {
            let received = match &mut self.stream {
                Stream::Plain(socket) => io::Read::read(socket, input),
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
                self.permit.receive(n).map_err(io::Error::from)?;
                self.buffers.input_appended(n);
                self.failed_send = failed;
                Ok(true)
            }
            (Ok(_) | Err(_), Some(failed)) => Err(failed.into()),
            (Ok(_), None) => {
                self.ended = true;
                Ok(false)
            }
            (Err(e), None) => Err(e.into()),
        }
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
