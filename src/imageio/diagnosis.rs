//! Turns a failed request into an [`Error`]: a refusal, an invalid answer, or a connection without an answer.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::Body;
use ureq::http::{Response, header};

use super::error::{Broken, Error};
use super::permit::Permit;
use crate::logging::plain;
use crate::page;
use crate::remote::Denial;
use crate::secret::clean;

/// Upper bound on the error text that is read from a server.
pub(super) const MAX_MESSAGE_BYTES: u64 = 1024;

/// Makes the errors of one connection.
#[derive(Debug)]
pub(super) struct Diagnosis {
    /// The server for messages: `scheme://host:port`, or the unix socket's name.
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

    /// The error for a status other than success, with the server's message.
    pub(super) fn refusal(&self, what: String, mut response: Response<Body>) -> Error {
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        let mut body = Vec::new();
        // A message that breaks off is kept as far as it arrived: the status alone makes the error.
        let _ = response
            .body_mut()
            .as_reader()
            .take(MAX_MESSAGE_BYTES)
            .read_to_end(&mut body);
        let message = match page::excerpt(&body) {
            empty if empty.is_empty() => "no message".to_owned(),
            words => words,
        };
        let host = self.host.clone();
        // A page is not from imageio, which alone knows tickets. Other servers with its API answer 404 for a
        // ticket that they do not know.
        let unknown = status == 404 && names_an_image(&message);
        if !(status == 403 || unknown) || page::is_page(&body) {
            return Error::Status {
                what,
                host,
                status,
                message,
                retry_after,
            };
        }
        // These phrases are from imageio's auth.py.
        let denial = match &message {
            words if unknown || words.contains("No such ticket") => Denial::UnknownTicket,
            words if words.contains("forbids") => Denial::Forbidden,
            _ => Denial::EndedTicket,
        };
        let remedy = match message.contains("forbids write") {
            true => "the ticket is read-only: mount with --read-only, or start an upload transfer",
            false => "the transfer has ended or expired, or never existed: start a new one and take its URL",
        };
        Error::Denied {
            what,
            host,
            status,
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
            cut: false,
        }
    }

    /// The error for an answer that fits another request, as if only a part of ours had arrived.
    pub(super) fn beside_the_point(&self, what: String, why: String) -> Error {
        Error::Nonsense {
            what,
            host: self.host.clone(),
            why: plain(&clean(&why)),
            cut: true,
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
            // An unreachable host may still perform the request.
            late: matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            ),
        }
    }

    /// The error of a request without an answer.
    pub(super) fn broken(&self, what: String, error: ureq::Error) -> Error {
        let host = self.host.clone();
        match error {
            ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<Broken>()) {
                Some(Broken::Resolve(why)) => Error::Resolve {
                    host,
                    why: why.clone(),
                },
                Some(broken @ (Broken::Connect(why) | Broken::Refused(why) | Broken::Cut(why))) => {
                    Error::Connect {
                        host,
                        why: why.clone(),
                        refused: matches!(broken, Broken::Refused(_)),
                        cut: matches!(broken, Broken::Cut(_)),
                    }
                }
                Some(Broken::Trust(why)) => Error::Trust {
                    host,
                    why: why.clone(),
                },
                Some(Broken::Over) => Error::Over { what, host },
                Some(Broken::Endless(_)) | None => self.lost(what, e),
            },
            // imageio answers without a status line when it has got only a part of the request line.
            ureq::Error::Protocol(e) => self.beside_the_point(what, e.to_string()),
            e @ ureq::Error::LargeResponseHeader(..) => self.nonsense(what, e.to_string()),
            other => self.lost(what, io::Error::other(other.to_string())),
        }
    }
}

/// Matches what servers other than imageio say of a ticket that they do not know: Apache CloudStack's has
/// `{"error": "unknown image_id"}`. imageio, and what stands in front of it, repeat the path of a request
/// that they have no place for, and that says nothing about a ticket.
fn names_an_image(message: &str) -> bool {
    let words = message.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    says(&["unknown", "no such", "not found"])
        && says(&["image", "ticket", "transfer"])
        && !words.contains("/images")
}

/// Returns the time of a Retry-After header. Its other form, a date, is rare and counts as no time.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.trim().parse::<u64>();
    Some(Duration::from_secs(seconds.unwrap_or(0)))
}

/// The error of a refused PUT. The client sent the whole body, so if the server received less, something in
/// between has closed this direction of the connection: that is a lost connection, and no refusal.
pub(super) fn lost_if_cut_short(error: Error) -> Error {
    match error {
        Error::Status {
            what,
            host,
            status: 400,
            message,
            ..
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

/// Matches imageio's message for a body that ended early: `Requested 8388608 bytes, available 65536 bytes`.
fn is_short_body(message: &str) -> bool {
    message.starts_with("Requested ") && message.contains(" bytes, available ")
}
