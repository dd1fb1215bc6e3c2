//! The seam between the core and the wire: what `pool` and `disk` ask of one connection.
//!
//! `imageio` implements it with HTTP; tests implement it in memory. The core therefore has no
//! HTTP type in its signatures. A [`Remote`] is used by one thread at a time (the holder of a
//! pool lease); it never reconnects by itself, because a flush speaks only for the connection
//! that it travels on.

#[cfg(test)]
pub(crate) mod memory;

use thiserror::Error;

use crate::failure::{Exit, Failure};

/// One run of bytes with the same allocation state, as the server reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First byte.
    pub(crate) start: u64,
    /// Bytes in the run, more than 0.
    pub(crate) length: u64,
    /// True when the run reads as zeros.
    pub(crate) zero: bool,
}

/// One open, authorised connection to the remote disk.
pub(crate) trait Remote: Send {
    /// The [`Dial::epoch`] that this connection was dialled in.
    fn epoch(&self) -> u64 {
        0
    }
    /// Fills `parts`, one after the other, with the bytes at `offset`: one request.
    fn read(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), RemoteError>;
    /// Writes `parts`, one after the other, at `offset`: one request. Not durable before [`Remote::flush`] on the same
    /// connection.
    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), RemoteError>;
    /// Makes `len` bytes at `offset` read as zeros; durable like a write.
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), RemoteError>;
    /// Makes every answered write of this connection durable.
    fn flush(&mut self) -> Result<(), RemoteError>;
    /// Counts as activity, so that neither the connection nor the ticket idles out.
    fn touch(&mut self) -> Result<(), RemoteError>;
    /// Reports the extents of the whole disk in ascending order. A server without the
    /// feature reports nothing.
    fn extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), RemoteError>;
}

/// Opens connections to the remote disk. Called from many threads.
pub(crate) trait Dial: Send + Sync {
    /// Connects, finishes the TLS handshake and authorises the connection on the ticket.
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError>;

    /// Which right to the image a connection dialled now would use; it grows with every renewal.
    fn epoch(&self) -> u64 {
        0
    }

    /// `why` says that the right of `epoch` has ended, or may have: gets a new one where that is possible and safe. True
    /// when a new connection is worth a try. May block as long as that takes, minutes.
    fn renew(&self, epoch: u64, why: &RemoteError) -> bool {
        let _ = (epoch, why);
        false
    }
}

/// What a refusal says about the ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The server does not know it: the server has restarted, or the ticket was taken away.
    UnknownTicket,
    /// The server refuses it otherwise: it has expired, or was cancelled.
    EndedTicket,
    /// The ticket is good and does not allow this request.
    Forbidden,
}

/// Why a request failed, in the classes that decide what may be done next. Each text is whole:
/// it names the request, the range, the host and what the server said, and never the ticket.
#[derive(Debug, Clone, Error)]
pub(crate) enum RemoteError {
    /// The connection broke; whether the request was performed is not known.
    #[error("{0}")]
    Lost(String),
    /// No answer in time. The server may be at work on the request still, and perform it at any later
    /// moment, after whatever is sent on another connection meanwhile.
    #[error("{0}")]
    Late(String),
    /// The server answered that it failed (5xx): the storage behind it has a problem. After
    /// such an answer the connection may be poisoned (an NBD backend that went away stays away).
    #[error("{0}")]
    Failed(String),
    /// Nobody listens at the server's address, on a host that is up: nothing was sent. The server may have
    /// come back in another place.
    #[error("{0}")]
    Unreachable(String),
    /// The server refuses the ticket (403). The request is repeated only with a new right, see [`Dial::renew`].
    #[error("{1}")]
    Denied(Denial, String),
    /// Anything else the server said or sent that makes no sense for the request.
    #[error("{0}")]
    Protocol(String),
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        let exit = match &error {
            RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_) => Exit::Connect,
            RemoteError::Failed(_) | RemoteError::Denied(..) | RemoteError::Protocol(_) => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}
