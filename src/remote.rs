//! The seam between the core and the wire: what `pool` and `disk` ask of one connection.
//!
//! `imageio` implements it over HTTP, the tests in memory (`memory`), so the core has no HTTP type in its
//! signatures. A [`Remote`] is used by one thread at a time, the holder of a pool lease. It never reconnects
//! by itself, because a flush covers only the writes of the connection that it is sent on.

#[cfg(test)]
pub(crate) mod memory;

use std::ops::Range;
use std::time::Duration;

use thiserror::Error;

use crate::failure::{Exit, Failure};

/// A run of bytes with one allocation state, as the server reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Offset of the first byte.
    pub(crate) start: u64,
    /// Length in bytes, more than 0.
    pub(crate) length: u64,
    /// True when the run reads as zeros.
    pub(crate) zero: bool,
}

/// A block hash, as a server is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HashRequest<'a> {
    /// The name of the hash function.
    pub(crate) algorithm: &'a str,
    /// Bytes in a block.
    pub(crate) block_size: u64,
    /// Bytes of the disk, all of which the server reads.
    pub(crate) size: u64,
}

/// The server's part in a block hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HashAnswer {
    /// The hash, in lower-case hexadecimal digits.
    Hash(String),
    /// It does not compute this one, for this reason.
    NotOffered(String),
}

/// A run of bytes with its state since the checkpoint of a backup, as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirtyExtent {
    pub(crate) range: Range<u64>,
    /// It may have changed.
    pub(crate) dirty: bool,
    /// It reads as zeros.
    pub(crate) zero: bool,
}

/// The server's answer to the question what has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DirtyAnswer {
    /// All extents were reported.
    Told,
    /// It has no record of changes, for this reason.
    NotOffered(String),
}

/// One open, authorised connection to the remote disk.
pub(crate) trait Remote: Send {
    /// Returns the [`Dial::epoch`] in which this connection was dialled.
    fn epoch(&self) -> u64 {
        0
    }
    /// Fills `parts`, one after the other, with the bytes at `offset`, by one request.
    fn read(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), RemoteError>;
    /// Writes `parts`, one after the other, at `offset`, by one request. The bytes are not durable before a
    /// [`Remote::flush`] on the same connection, unless [`Remote::set_durable`] asks for that.
    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), RemoteError>;
    /// Makes `len` bytes at `offset` read as zeros; like a write, it is durable only after a flush.
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), RemoteError>;
    /// Has each change from now on, if `durable`, flush the connection before it is answered: it is durable
    /// then, together with every write that this connection has answered before.
    fn set_durable(&mut self, durable: bool);
    /// True when the connection carries no further request: the server has announced its end, or ended it.
    fn is_over(&self) -> bool {
        false
    }
    /// Makes every answered write of this connection durable.
    fn flush(&mut self) -> Result<(), RemoteError>;
    /// Sends a request that counts as activity, so that neither the connection nor the ticket idles out.
    fn touch(&mut self) -> Result<(), RemoteError>;
    /// Reports the extents of the whole disk, the first one at offset 0. A server without the feature reports
    /// none. Gaps are data; zeros begin behind all that was reported before; data may lie over earlier
    /// extents, whose place holds data then.
    fn extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), RemoteError>;
    /// Reports what has changed since the checkpoint of the backup that the image belongs to.
    fn dirty_extents(&mut self, found: &mut dyn FnMut(DirtyExtent)) -> Result<DirtyAnswer, RemoteError> {
        let _ = found;
        Ok(DirtyAnswer::NotOffered("it has no such request".to_owned()))
    }
    /// Has the server compute the block hash of the whole disk, which takes as long as reading it.
    fn block_hash(&mut self, wanted: HashRequest<'_>) -> Result<HashAnswer, RemoteError> {
        let _ = wanted;
        Ok(HashAnswer::NotOffered("it has no such request".to_owned()))
    }
}

/// Opens connections to the remote disk. Called from many threads.
pub(crate) trait Dial: Send + Sync {
    /// Connects, finishes the TLS handshake and authorises the connection on the ticket.
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError>;

    /// Returns a connection for the extents, beside those of the pool; it may have been made before.
    fn dial_to_walk(&self) -> Result<Box<dyn Remote>, RemoteError> {
        self.dial()
    }

    /// Returns the number of the right to the image that a connection dialled now would use; each renewal
    /// increases it.
    fn epoch(&self) -> u64 {
        0
    }

    /// Returns the number below which the rights have ended for good, with every request made with them: none
    /// of those can be performed any more. A right that was only prolonged has not ended.
    fn retired(&self) -> u64 {
        0
    }

    /// Ends the right of `epoch`, and so every request that was made with it or an older one, by getting
    /// another one; false where that can't be had. Blocks for `wait` at most.
    fn retire(&self, epoch: u64, wait: Duration) -> bool {
        let _ = (epoch, wait);
        false
    }

    /// Gets a new right where that is possible and safe, because `why` says that the right of `epoch` has, or
    /// may have, ended. Returns true when a new connection is worth a try. Blocks for `wait` at most; what
    /// has begun goes on afterwards, and a later call may find it done.
    fn renew(&self, epoch: u64, why: &RemoteError, wait: Duration) -> bool {
        let _ = (epoch, why, wait);
        false
    }
}

/// The state of the ticket according to a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The server does not know the ticket: the server has restarted, or the ticket was removed.
    UnknownTicket,
    /// The ticket has expired or was cancelled.
    EndedTicket,
    /// The ticket is valid but does not allow this request.
    Forbidden,
}

/// Why a request failed, in the classes that decide what may be done next. Each text is complete: it names
/// the request, the range, the host and the server's message, and never the ticket.
#[derive(Debug, Clone, Error)]
pub(crate) enum RemoteError {
    /// The connection had ended before the request, of which nothing was sent.
    #[error("{0}")]
    Over(String),
    /// The connection broke, or could not be made; a request may or may not have been performed.
    #[error("{0}")]
    Lost(String),
    /// The server did not answer in time. It may still be working on the request and perform it at any later
    /// moment, even after requests that are sent on other connections meanwhile.
    #[error("{0}")]
    Late(String),
    /// The server, or something in front of it, asks for the request to be sent again (408, 421, 425, 429,
    /// and 503 with Retry-After), not before this time has passed where it gives one.
    #[error("{1}")]
    Busy(Option<Duration>, String),
    /// The answer is that to a request that has no sense, as a server gives it when only a part of the
    /// request has arrived (400, 411 and 416, the wrong range, no HTTP at all). Ours are right, so another
    /// attempt succeeds unless the two sides do not understand each other.
    #[error("{0}")]
    Garbled(String),
    /// The server answered another 5xx (but for 504, which is [`Self::Late`]): the storage behind it has a
    /// problem.
    /// After such an answer the connection may be poisoned (an NBD backend that went away stays away).
    #[error("{0}")]
    Failed(String),
    /// Nothing listens at the server's address although the host is up; no request was sent. The server may
    /// have come back at another address.
    #[error("{0}")]
    Unreachable(String),
    /// The server refuses the ticket (403). The request is repeated only with a new right; see
    /// [`Dial::renew`].
    #[error("{1}")]
    Denied(Denial, String),
    /// Anything else: another refusal, an answer that makes no sense, a certificate that is not trusted (but
    /// for one out of its time, which is [`Self::Lost`]). Repeating the request does not help.
    #[error("{0}")]
    Protocol(String),
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        let exit = match &error {
            RemoteError::Over(_)
            | RemoteError::Lost(_)
            | RemoteError::Unreachable(_)
            | RemoteError::Late(_) => Exit::Connect,
            RemoteError::Busy(..)
            | RemoteError::Garbled(_)
            | RemoteError::Failed(_)
            | RemoteError::Denied(..)
            | RemoteError::Protocol(_) => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}
