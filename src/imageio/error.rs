//! The errors of requests to an imageio server, and their classes for the core.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::addresses::NoConnection;
use crate::failure::{Exit, Failure};
use crate::remote::{Denial, RemoteError};
use crate::trust::{CaFileError, Cure, Distrust};

/// A failed request or connection. The texts name the request, the host and the server's message. Tickets in
/// these are replaced before an error is made.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("the transfer URL is not usable: {why}; it looks like https://HOST:54322/images/TICKET")]
    Url { why: String },
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    #[error("cannot connect to {host}: the name does not resolve ({why}); check the host in the URL and DNS")]
    Resolve {
        /// `scheme://host:port`, as in the other variants unless they say otherwise.
        host: String,
        /// The resolver's reason.
        why: String,
    },
    /// The TCP or unix connection could not be made, or the TLS handshake failed.
    #[error("cannot connect to {host}: {why}; is ovirt-imageio running there and the port reachable?")]
    Connect {
        /// `scheme://host:port`, or the unix socket's name.
        host: String,
        why: String,
        /// The host is up, and no process listens there.
        refused: bool,
        /// The connection was made, and ended in the middle of the TLS handshake.
        cut: bool,
    },
    /// The TLS handshake failed because the certificate is not trusted.
    #[error("cannot trust {host}: {why}; {}", remedy(why.cure))]
    Trust { host: String, why: Distrust },
    /// The server answered 403, or 404 for a ticket that it does not know.
    #[error("{what} refused by {host}: HTTP {status}: {message}; {remedy}")]
    Denied {
        /// The request, as in the variants below.
        what: String,
        host: String,
        status: u16,
        /// The state of the ticket according to the refusal.
        denial: Denial,
        /// The server's message.
        message: String,
        /// Advice for the user.
        remedy: &'static str,
    },
    /// The server answered with any other status than success.
    #[error("{what} failed on {host}: HTTP {status}: {message}; the daemon's log there says more")]
    Status {
        what: String,
        host: String,
        status: u16,
        /// The server's message.
        message: String,
        /// The time of the Retry-After header.
        retry_after: Option<Duration>,
    },
    /// The answer is invalid.
    #[error("{what}: {host} sent nonsense: {why}; is this an ovirt-imageio server?")]
    Nonsense {
        what: String,
        host: String,
        why: String,
        /// A server may answer so when only a part of the request has arrived.
        cut: bool,
    },
    /// The server had closed the connection before the request.
    #[error("{what}: connection to {host} lost: the server closed the connection before the request")]
    Over { what: String, host: String },
    /// The connection broke, or a timeout expired, during a request.
    #[error("{what}: connection to {host} lost: {why}; the daemon's log there may say why")]
    Lost {
        what: String,
        host: String,
        why: String,
        /// The server had sent bytes on this connection before.
        heard: bool,
        /// No answer came in time: the server may still perform the request.
        late: bool,
    },
}

/// The advice about a certificate of a host that is refused.
fn remedy(cure: Cure) -> &'static str {
    match cure {
        Cure::Ca => {
            "give the engine's CA with --cafile (--imageio-cafile where imageio has another one), or \
             --insecure to go without verification"
        }
        Cure::NewCertificate => {
            "enroll the host's certificate again (in the engine, with the host in maintenance: Installation, \
             Enroll Certificate), or give --insecure to go without verification"
        }
        Cure::NewCertificateOrClock => {
            "where the clock is right, enroll the host's certificate again (in the engine, with the host in \
             maintenance: Installation, Enroll Certificate)"
        }
        Cure::Name => {
            "the host has another address than the one that its certificate was made for: use that name in \
             the URL, or enroll the host's certificate again in the engine"
        }
    }
}

impl Error {
    /// Returns true if a proxy, or a server that starts, says that the server is away.
    pub(crate) fn is_unready(&self) -> bool {
        matches!(
            self,
            Error::Status {
                status: 502..=504,
                ..
            }
        )
    }

    /// Returns true if the host is up, and nobody listens there.
    pub(crate) fn is_refused_connection(&self) -> bool {
        matches!(self, Error::Connect { refused: true, .. })
    }

    /// Returns true if the server does not know the ticket: it has restarted, or the ticket was removed.
    pub(crate) fn is_unknown_ticket(&self) -> bool {
        matches!(
            self,
            Error::Denied {
                denial: Denial::UnknownTicket,
                ..
            }
        )
    }

    /// Returns true if a connection that was made ended before the server had said anything on it.
    pub(crate) fn is_cut_at_once(&self) -> bool {
        matches!(
            self,
            Error::Connect { cut: true, .. }
                | Error::Lost {
                    heard: false,
                    late: false,
                    ..
                }
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Url { .. } | Error::CaFile(_) => Exit::Usage,
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::Trust { .. }
            | Error::Lost { heard: false, .. } => Exit::Connect,
            Error::Denied { .. }
            | Error::Status { .. }
            | Error::Nonsense { .. }
            | Error::Over { .. }
            | Error::Lost { .. } => Exit::Transfer,
        };
        Failure::new(exit, error)
    }
}

impl From<Error> for RemoteError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Over { .. } => RemoteError::Over(text),
            Error::Lost { late: true, .. } => RemoteError::Late(text),
            Error::Connect { refused: true, .. } => RemoteError::Unreachable(text),
            Error::Lost { .. } | Error::Connect { .. } | Error::Resolve { .. } => RemoteError::Lost(text),
            // The clock of this machine, or of the one that made the certificate, may have jumped.
            Error::Trust { why, .. } if why.is_passing() => RemoteError::Lost(text),
            // A gateway answers 504 when the server behind it was silent.
            Error::Status { status: 504, .. } => RemoteError::Late(text),
            // RFC 9110 and 6585 allow to send a request again after these, on another connection: nothing, or
            // not all of it, was performed.
            Error::Status {
                status: 408 | 421 | 425 | 429,
                retry_after,
                ..
            }
            | Error::Status {
                status: 503,
                retry_after: retry_after @ Some(_),
                ..
            } => RemoteError::Busy(retry_after, text),
            Error::Status { status: 500.., .. } => RemoteError::Failed(text),
            // Apache CloudStack's image server answers 400 with the error number of its storage.
            Error::Status {
                status: 400, message, ..
            } if message.contains("[Errno ") => RemoteError::Failed(text),
            Error::Status {
                status: 400 | 411 | 416,
                ..
            }
            | Error::Nonsense { cut: true, .. } => RemoteError::Garbled(text),
            Error::Denied { denial, .. } => RemoteError::Denied(denial, text),
            Error::Status { .. }
            | Error::Nonsense { .. }
            | Error::Trust { .. }
            | Error::Url { .. }
            | Error::CaFile(_) => RemoteError::Protocol(text),
        }
    }
}

/// An error of the transport. It crosses ureq inside an [`io::Error`]; `diagnosis`, which knows the host and
/// the request, takes it out again.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Resolve(String),
    #[error("{0}")]
    Connect(String),
    /// The host is up, and no process listens at the port.
    #[error("{0}")]
    Refused(String),
    /// The connection was made, and ended in the TLS handshake.
    #[error("{0}")]
    Cut(String),
    #[error("{0}")]
    Trust(Distrust),
    #[error("more than {0} bytes in answer to one request")]
    Endless(u64),
    /// The connection had ended before the request.
    #[error("the server closed the connection")]
    Over,
}

impl Broken {
    /// The error for a connect to all addresses of a host.
    pub(super) fn no_connection(error: &NoConnection) -> Broken {
        match error.is_refused() {
            true => Broken::Refused(error.to_string()),
            false => Broken::Connect(error.to_string()),
        }
    }

    /// The error for a failed connect.
    pub(super) fn connect(error: &io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Broken::Refused(error.to_string()),
            _ => Broken::Connect(error.to_string()),
        }
    }

    /// The error for a TLS handshake whose connection failed.
    pub(super) fn handshake(error: &io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Broken::Cut(error.to_string()),
            _ => Broken::Connect(error.to_string()),
        }
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        io::Error::other(broken)
    }
}
