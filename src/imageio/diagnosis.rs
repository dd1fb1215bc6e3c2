//! How a failed request becomes an [`Error`]: from the server's refusal, its nonsense, or the broken connection.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::Body;
use ureq::http::Response;

use super::error::{Broken, Error};
use super::transport::Permit;
use crate::logging::plain;
use crate::remote::Denial;
use crate::secret::clean;

/// Longest error text read from a server, bytes.
pub(super) const MAX_MESSAGE_BYTES: u64 = 1024;

/// Makes the errors of one connection.
#[derive(Debug)]
pub(super) struct Diagnosis {
    /// For messages: `scheme://host:port`, or the unix socket's name.
    host: String,
    permit: Arc<Permit>,
}

impl Diagnosis {
    pub(super) fn new(host: String, permit: Arc<Permit>) -> Self {
        Diagnosis { host, permit }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The error of a PUT whose bytes were all sent: if the server says that fewer arrived, something between us has
    /// closed the connection in that direction.
    pub(super) fn of_put(&self, error: Error) -> Error {
        match error {
            Error::Status {
                what,
                host,
                status: 400,
                message,
            } if is_short_body(&message) => Error::Lost {
                what,
                host,
                why: format!("not every byte has arrived: {message}"),
                heard: true,
                late: false,
            },
            other => other,
        }
    }

    /// The error in a status that is not success, with the server's own words.
    pub(super) fn refusal(&self, what: String, mut response: Response<Body>) -> Error {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        // Whatever arrives of the words is better than none; the status stands in any case.
        let _ = response
            .body_mut()
            .as_reader()
            .take(MAX_MESSAGE_BYTES)
            .read_to_end(&mut body);
        let words = plain(&String::from_utf8_lossy(&body));
        let message = match clean(words.trim()).into_owned() {
            empty if empty.is_empty() => "no message".to_owned(),
            words => words,
        };
        let host = self.host.clone();
        if status != 403 {
            return Error::Status {
                what,
                host,
                status,
                message,
            };
        }
        // The words are those of imageio's auth.py.
        let denial = match &message {
            words if words.contains("No such ticket") => Denial::UnknownTicket,
            words if words.contains("forbids") => Denial::Forbidden,
            _ => Denial::EndedTicket,
        };
        let remedy = match message.contains("forbids write") {
            true => "the ticket is read-only: mount with --read-only, or start an upload transfer",
            false => "the transfer has ended, expired or never was: start a new one and take its URL",
        };
        Error::Denied {
            what,
            host,
            denial,
            message,
            remedy,
        }
    }

    pub(super) fn nonsense(&self, what: String, why: String) -> Error {
        Error::Nonsense {
            what,
            host: self.host.clone(),
            why: plain(&clean(&why)),
        }
    }

    pub(super) fn lost(&self, what: String, error: io::Error) -> Error {
        if let Some(endless @ Broken::Endless(_)) = error.get_ref().and_then(|e| e.downcast_ref()) {
            return self.nonsense(what, endless.to_string());
        }
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => clean(&error.to_string()).into_owned(),
        };
        Error::Lost {
            what,
            host: self.host.clone(),
            why,
            heard: self.permit.heard(),
            // A host that can't be reached is silent; what it was asked for it may do all the same.
            late: matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            ),
        }
    }

    /// The error in a request that got no answer.
    pub(super) fn broken(&self, what: String, error: ureq::Error) -> Error {
        let host = self.host.clone();
        match error {
            ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<Broken>()) {
                Some(Broken::Resolve(why)) => Error::Resolve {
                    host,
                    why: why.clone(),
                },
                Some(broken @ (Broken::Connect(why) | Broken::Refused(why))) => Error::Connect {
                    host,
                    why: why.clone(),
                    refused: matches!(broken, Broken::Refused(_)),
                },
                Some(Broken::Trust(why)) => Error::Trust {
                    host,
                    why: why.clone(),
                },
                Some(Broken::Endless(_)) | None => self.lost(what, e),
            },
            ureq::Error::Protocol(e) => self.nonsense(what, e.to_string()),
            e @ ureq::Error::LargeResponseHeader(..) => self.nonsense(what, e.to_string()),
            other => self.lost(what, io::Error::other(other.to_string())),
        }
    }
}

/// imageio's words for a body that ended early: `Requested 8388608 bytes, available 65536 bytes`.
fn is_short_body(message: &str) -> bool {
    message.starts_with("Requested ") && message.contains(" bytes, available ")
}
