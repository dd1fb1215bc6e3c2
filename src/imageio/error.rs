//! What can go wrong between us and an imageio server, and how the core classes it.

use std::io;

use thiserror::Error;

use crate::failure::{Exit, Failure};
use crate::remote::{Denial, RemoteError};
use crate::trust::CaFileError;

/// A failure on the wire. Texts name the request, the host and what the server said; a ticket is
/// replaced before a text gets here.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The transfer URL can't be used.
    #[error("the transfer URL is not usable: {why}; it looks like https://HOST:54322/images/TICKET")]
    Url {
        /// Reason.
        why: String,
    },
    /// The CA file can't be used.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The host name has no address.
    #[error("cannot connect to {host}: the name does not resolve ({why}); check the host in the URL and DNS")]
    Resolve {
        /// `scheme://host:port`.
        host: String,
        /// Reason of the resolver.
        why: String,
    },
    /// No TCP or unix connection.
    #[error("cannot connect to {host}: {why}; is ovirt-imageio running there and the port reachable?")]
    Connect {
        /// `scheme://host:port` or the socket's path.
        host: String,
        /// Reason of the system.
        why: String,
        /// The host is up, and nobody listens there.
        refused: bool,
    },
    /// The TLS handshake failed because the certificate isn't trusted.
    #[error(
        "cannot trust {host}: {why}; give the engine's CA with --cafile (--imageio-cafile where imageio has another one), \
         or --insecure to go without verification"
    )]
    Trust {
        /// `scheme://host:port`.
        host: String,
        /// Reason of the verifier.
        why: String,
    },
    /// 403.
    #[error("{what} refused by {host}: HTTP 403: {message}; {remedy}")]
    Denied {
        /// The request.
        what: String,
        /// `scheme://host:port`.
        host: String,
        /// What the refusal says about the ticket.
        denial: Denial,
        /// The server's words.
        message: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Any other status that is not success.
    #[error("{what} failed on {host}: HTTP {status}: {message}; the daemon's log there says more")]
    Status {
        /// The request.
        what: String,
        /// `scheme://host:port`.
        host: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The answer makes no sense.
    #[error("{what}: {host} sent nonsense: {why}; is this an ovirt-imageio server?")]
    Nonsense {
        /// The request.
        what: String,
        /// `scheme://host:port`.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The connection broke, or a timeout struck, in the middle of a request.
    #[error("{what}: connection to {host} lost: {why}; the daemon's log there may say why")]
    Lost {
        /// The request.
        what: String,
        /// `scheme://host:port`.
        host: String,
        /// Reason.
        why: String,
        /// The server had said something on this connection before.
        heard: bool,
        /// The connection stands and no answer came in time: the request may be performed yet.
        late: bool,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Url { .. } | Error::CaFile(_) => Exit::Usage,
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::Trust { .. }
            | Error::Lost { heard: false, .. } => Exit::Connect,
            Error::Denied { .. } | Error::Status { .. } | Error::Nonsense { .. } | Error::Lost { .. } => {
                Exit::Transfer
            }
        };
        Failure::new(exit, error)
    }
}

impl From<Error> for RemoteError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Lost { late: true, .. } => RemoteError::Late(text),
            Error::Connect { refused: true, .. } => RemoteError::Unreachable(text),
            Error::Lost { .. } | Error::Connect { .. } | Error::Resolve { .. } => RemoteError::Lost(text),
            // A gateway's: the server behind it was silent.
            Error::Status { status: 504, .. } => RemoteError::Late(text),
            Error::Status { status: 500.., .. } => RemoteError::Failed(text),
            Error::Denied { denial, .. } => RemoteError::Denied(denial, text),
            Error::Status { .. }
            | Error::Nonsense { .. }
            | Error::Trust { .. }
            | Error::Url { .. }
            | Error::CaFile(_) => RemoteError::Protocol(text),
        }
    }
}

/// An error of the transport that crosses ureq inside an [`io::Error`] and comes out again in
/// the client, where the host and the request are known.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Resolve(String),
    #[error("{0}")]
    Connect(String),
    /// The host is up, and nobody listens at the port.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Trust(String),
    #[error("more than {0} bytes in answer to one request")]
    Endless(u64),
}

impl Broken {
    /// No connection, for a reason of the system's.
    pub(super) fn connect(error: &io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Broken::Refused(error.to_string()),
            _ => Broken::Connect(error.to_string()),
        }
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        io::Error::other(broken)
    }
}
