//! A client and its one transport tell each other here whether a connection may be made, how long the server
//! may be silent, how much it may answer; and what became of the connection.
//!
//! The client sets it before a request, in the thread that has the lease, and the transport looks at it under
//! ureq in the same thread. Only the sums over all connections of the image ([`Load`]) and what they have in
//! common (`brief`) are shared with other threads.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::error::Broken;
use super::patience::{Load, Work};

/// Size of ureq's buffers. Heads move through them, and so do all bodies but those that pass ureq by
/// (`line`); of such a GET's, only the bytes that come with its head. ureq asks for as many bytes of a PUT at
/// once, which are sent with one system call.
pub(super) const BUFFER_BYTES: usize = match cfg!(feature = "fuzzing") {
    false => 128 * 1024,
    // Filling a large buffer with zeros takes longer than everything else in a fuzz target.
    true => 16 * 1024,
};

/// The state that a client shares with its one transport.
#[derive(Debug, Default)]
pub(super) struct Permit {
    /// A connect is allowed: set by the client, cleared by the connector.
    pub(super) connect: AtomicBool,
    /// The addresses of the TCP connection: ours, then the server's.
    pub(super) ends: OnceLock<(SocketAddr, SocketAddr)>,
    /// The server has sent something.
    pub(super) heard: AtomicBool,
    /// A send has failed: the server has not got the whole of a request.
    pub(super) cut: AtomicBool,
    /// The connection shall carry no further request.
    pub(super) left: AtomicBool,
    /// There is a connection, and it may carry another request.
    pub(super) live: AtomicBool,
    /// A connection was made.
    pub(super) made: AtomicBool,
    /// The server ends a connection with its first answer, as far as its connections tell; they share this.
    pub(super) brief: Arc<AtomicBool>,
    /// Upper bound on the server's silence, and on the stall of a send.
    pub(super) usual: Duration,
    /// Upper bound on the server's silence in the current request, in milliseconds.
    pub(super) patience: AtomicU64,
    /// Upper bound on the answer to the current request, in bytes.
    pub(super) expected: AtomicU64,
    /// The bytes of that answer that have arrived.
    pub(super) received: AtomicU64,
    /// The server's work for all connections of the image.
    pub(super) load: Arc<Load>,
}

/// Upper bound on the bytes of an answer beside its body, including those that are read ahead.
const MAX_BYTES_BESIDE_BODY: u64 = 2 * BUFFER_BYTES as u64;

impl Permit {
    /// A permit for one connection, to a server that is `brief` or not, and may be silent for `usual`, and
    /// longer under `load`.
    pub(super) fn once(usual: Duration, load: Arc<Load>, brief: Arc<AtomicBool>) -> Arc<Permit> {
        Arc::new(Permit {
            connect: AtomicBool::new(true),
            usual,
            load,
            patience: AtomicU64::new(usual.as_millis() as u64),
            brief,
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

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// True when there is no connection for another request.
    pub(super) fn is_over(&self) -> bool {
        !self.live.load(Ordering::Relaxed)
    }

    /// Notes whether the server ends a connection with its first answer.
    pub(super) fn set_brief(&self, brief: bool) {
        self.brief.store(brief, Ordering::Relaxed);
    }

    /// True when the present request has got no byte in answer.
    pub(super) fn is_unanswered(&self) -> bool {
        self.received.load(Ordering::Relaxed) == 0
    }

    /// Has the connection closed after the present answer.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Lets the server be silent for `wait` instead, until the next call.
    pub(super) fn be_patient(&self, wait: Duration) {
        self.patience.store(wait.as_millis() as u64, Ordering::Relaxed);
    }

    /// Notes that a request begins which moves about `bytes` bytes on the storage.
    pub(super) fn work(&self, bytes: u64) -> Work {
        self.load.begin(bytes)
    }

    /// Announces a request whose answer has a body of at most `body` bytes.
    pub(super) fn expect(&self, body: u64) {
        self.cut.store(false, Ordering::Relaxed);
        self.expected
            .store(body + MAX_BYTES_BESIDE_BODY, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
    }

    pub(super) fn receive(&self, bytes: usize) -> Result<(), Broken> {
        let received = self.received.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let expected = self.expected.load(Ordering::Relaxed);
        match received > expected {
            true => Err(Broken::Endless(expected)),
            false => Ok(()),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }
}
