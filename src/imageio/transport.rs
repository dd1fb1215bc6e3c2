//! What ureq sends and receives through: one socket, TLS or not, with rules of ours.
//!
//! 1. *No silent reconnect.* ureq replaces a dead connection inside a call, but a flush speaks only
//!    for the connection that carried the writes. [`OneShot`] therefore connects only when
//!    [`Permit`] was given, once for each connection that the pool dialled on purpose.
//! 2. *The server is heard out.* When a send fails because the server has closed, its answer (403,
//!    416, 500 ...) may already be here. A failed send is remembered and reported as success, the
//!    response is awaited, and only when there is none the failed send is the error.
//!
//! And the server is not heard for ever: each request has a number of bytes that its answer may take, whatever they
//! are (headers, interim answers without end, a body), and a time.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::error::Broken;
use super::socket::{Route, Socket};
use super::tls::TlsStream;

/// ureq moves a body through a buffer of this many bytes, one system call each.
const BUFFER_BYTES: usize = match cfg!(feature = "fuzzing") {
    false => 128 * 1024,
    // To fill it with zeros takes longer than all else that a fuzz target does.
    true => 16 * 1024,
};

/// What the client and its one transport share.
#[derive(Debug, Default)]
pub(super) struct Permit {
    /// Set by the client before its first request, cleared by the connector.
    connect: AtomicBool,
    /// The addresses of the TCP connection, ours first.
    ends: OnceLock<(SocketAddr, SocketAddr)>,
    /// The server has said something.
    heard: AtomicBool,
    /// Longest silence of the server, and longest stall of a send.
    pub(super) usual: Duration,
    /// Longest wait for an answer, milliseconds.
    patience: AtomicU64,
    /// Bytes that the answer to the current request may have.
    expected: AtomicU64,
    /// Bytes of it that are here.
    received: AtomicU64,
}

/// What an answer may have beside its body, and what may be read ahead of it, bytes.
const MAX_BYTES_BESIDE_BODY: u64 = 2 * BUFFER_BYTES as u64;

impl Permit {
    /// For one connection to a server that may be silent for `usual`.
    pub(super) fn once(usual: Duration) -> Arc<Permit> {
        Arc::new(Permit {
            connect: AtomicBool::new(true),
            usual,
            patience: AtomicU64::new(usual.as_millis() as u64),
            ..Permit::default()
        })
    }

    /// Allows the next connect, or forbids it again.
    pub(super) fn allow(&self, connect: bool) {
        self.connect.store(connect, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends.get().copied()
    }

    pub(super) fn heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// From now on the server may be silent for `wait`, instead of the usual time.
    pub(super) fn be_patient(&self, wait: Duration) {
        self.patience.store(wait.as_millis() as u64, Ordering::Relaxed);
    }

    /// A request is about to be sent, whose answer has a body of at most `body` bytes.
    pub(super) fn expect(&self, body: u64) {
        self.expected
            .store(body + MAX_BYTES_BESIDE_BODY, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
    }

    fn receive(&self, bytes: usize) -> Result<(), Broken> {
        let received = self.received.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let expected = self.expected.load(Ordering::Relaxed);
        match received > expected {
            true => Err(Broken::Endless(expected)),
            false => Ok(()),
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }
}

/// Connects once, to one place.
#[derive(Debug)]
pub(super) struct OneShot {
    pub(super) route: Route,
    pub(super) tls: Option<(Arc<ClientConfig>, String)>,
    pub(super) permit: Arc<Permit>,
}

impl Connector for OneShot {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        if !self.permit.connect.swap(false, Ordering::Relaxed) {
            let gone = io::Error::new(io::ErrorKind::NotConnected, "the server closed the connection");
            return Err(gone.into());
        }
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
        Ok(Some(Wire {
            stream,
            buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES),
            permit: self.permit.clone(),
            patience: usual,
            half: Half::Receiving,
            began: Instant::now(),
            failed_send: None,
            ended: false,
        }))
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
}

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    buffers: LazyBuffers,
    permit: Arc<Permit>,
    patience: Duration,
    half: Half,
    /// When this half of the exchange began.
    began: Instant,
    failed_send: Option<io::Error>,
    ended: bool,
}

/// Which way the bytes of the current request go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Sending,
    Receiving,
}

/// A server that drips keeps every single read or send within its timeout; the whole request, and then the
/// whole answer, must be through within this many times the patience.
const DRIP_FACTOR: u32 = 10;

impl Wire {
    fn check_drip(&mut self, half: Half) -> io::Result<()> {
        if self.half != half {
            (self.half, self.began) = (half, Instant::now());
        }
        match self.began.elapsed() > self.patience * DRIP_FACTOR {
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
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let patience = self.permit.patience();
        if patience != self.patience {
            self.stream.socket().set_timeouts(patience, self.permit.usual)?;
            self.patience = patience;
        }
        self.check_drip(Half::Receiving)?;
        let input = self.buffers.input_append_buf();
        let received = match &mut self.stream {
            Stream::Plain(socket) => io::Read::read(socket, input),
            Stream::Tls(tls) => tls.read(input),
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

    /// No probe: a connection that died while idle fails its next request, and the pool knows
    /// what may be repeated then. Three system calls a request are saved.
    fn is_open(&mut self) -> bool {
        self.failed_send.is_none() && !self.ended
    }

    /// What ureq wants of an https URL. The unix socket of this host is as good as TLS.
    fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_) | Stream::Plain(Socket::Unix(_)))
    }
}

/// ureq wants addresses before it connects; [`OneShot`] knows its own.
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
