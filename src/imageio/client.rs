//! One connection to an image: how it is opened, and what every request on it begins and ends with. The
//! requests themselves are in `requests`.
//!
//! A [`Client`] owns one ureq agent and has one socket at a time. The agent owns that; between a read and the
//! next request, [`Lines`] does. The client never reconnects (see `transport`) once anything depends on its
//! connection: after [`Error::Lost`] it is useless, and the pool decides what becomes of the writes that it
//! carried. The protocol is that of ovirt-imageio 2.5.1, docs/images.md and http.py.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::{Agent, Body};

use super::TransferUrl;
use super::answers::Capabilities;
use super::diagnosis::{Diagnosis, MAX_MESSAGE_BYTES};
use super::error::Error;
use super::line::Lines;
use super::permit::Permit;
use super::transport::{NoResolver, OneShot};
use crate::page;
use crate::remote::RemoteError;

/// The number of requests from which a connection without an OPTIONS of its own counts.
const SKIPPED_OPTIONS: u64 = 1 << 32;

/// Upper bound on the body of an OPTIONS answer. imageio's has 200 bytes.
const MAX_OPTIONS_BYTES: u64 = 64 << 10;

/// Upper bound on the header of an answer. imageio's have 300 bytes; ureq accepts at most 128 lines.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// A connection that was authorised on a ticket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) agent: Agent,
    pub(super) permit: Arc<Permit>,
    pub(super) lines: Arc<Lines>,
    pub(super) url: TransferUrl,
    pub(super) epoch: u64,
    pub(super) diagnosis: Diagnosis,
    pub(super) capabilities: Capabilities,
    /// Weight of the changes that were answered and not flushed, in bytes.
    pub(super) unflushed: u64,
    /// Number of requests so far.
    pub(super) requests: u64,
    /// The next request may go over another connection: nothing depends on the present one.
    pub(super) movable: bool,
    /// Each change flushes before it is answered.
    pub(super) durable: bool,
    /// The answer to a request for the extents that nobody has read yet.
    pub(super) extents_answer: Option<Result<Response<Body>, ureq::Error>>,
}

impl Client {
    /// Connects through `connector` and sends OPTIONS, which authorises the connection; the server closes an
    /// unauthorised one after 60 s. With `known` capabilities it only connects.
    pub(super) fn open(
        url: &TransferUrl,
        epoch: u64,
        host: String,
        connector: OneShot,
        known: Option<Capabilities>,
    ) -> Result<Self, Error> {
        let (permit, lines) = (connector.permit.clone(), connector.lines.clone());
        let diagnosis = Diagnosis::new(host, permit.clone());
        if known.is_some() {
            connector
                .prepare()
                .map_err(|e| diagnosis.broken("connect".to_owned(), e))?;
        }
        let config = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_response_header_size(MAX_HEADER_BYTES)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(Duration::from_secs(u32::MAX.into()))
            .user_agent(concat!("rhv-mount/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        let agent = Agent::with_parts(config, connector, NoResolver);
        let mut client = Client {
            agent,
            diagnosis,
            permit,
            lines,
            url: url.clone(),
            epoch,
            capabilities: Capabilities::default(),
            unflushed: 0,
            requests: 0,
            movable: true,
            durable: false,
            extents_answer: None,
        };
        if let Some(known) = known {
            client.capabilities = known;
            client.requests = SKIPPED_OPTIONS;
            return Ok(client);
        }
        client.authorise()?;
        Ok(client)
    }

    /// Sends the OPTIONS of a connection without a request so far.
    pub(super) fn authorise(&mut self) -> Result<(), Error> {
        self.requests = 0;
        self.capabilities = self.options()?;
        // The server may close the connection after OPTIONS: an old one that has refused it, or one that
        // closes each connection after an answer. Nothing was written yet, so a second one loses no write
        // unnoticed.
        self.movable = true;
        if !self.capabilities.options {
            self.size()?;
        }
        Ok(())
    }

    /// Begins a request whose answer has a body of at most `body` bytes.
    pub(super) fn begin(&mut self, body: u64) {
        if self.requests == SKIPPED_OPTIONS + 1 && !self.permit.is_over() {
            // It has survived its first answer, so the next one can be asked for OPTIONS.
            self.permit.set_brief(false);
        }
        self.requests += 1;
        self.permit.allow(std::mem::take(&mut self.movable));
        self.permit.expect(body);
    }

    /// Learns from the failure of the first request after OPTIONS: the server may have ended the connection
    /// with the answer to that, too late to be seen before the request.
    pub(super) fn learn<T>(&self, result: Result<T, Error>) -> Result<T, RemoteError> {
        let lost = matches!(result, Err(Error::Lost { late: false, .. }));
        if lost && self.requests == 2 && self.permit.is_unanswered() {
            self.permit.set_brief(true);
        }
        Ok(result?)
    }

    /// The answer to OPTIONS from the time when the connection was opened.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The server for messages: `scheme://host:port`, or the unix socket.
    pub(crate) fn host(&self) -> &str {
        self.diagnosis.host()
    }

    /// The addresses of its first TCP connection: ours, then the server's.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.permit.ends()
    }

    pub(super) fn options(&mut self) -> Result<Capabilities, Error> {
        let what = || "OPTIONS".to_owned();
        self.begin(MAX_OPTIONS_BYTES);
        let mut response = self
            .agent
            .options(self.url.address(""))
            .call()
            .map_err(|e| self.diagnosis.broken(what(), e))?;
        match response.status().as_u16() {
            200 => {}
            204 | 405 => {
                self.drain(what(), &mut response)?;
                return Ok(Capabilities::of_old_server());
            }
            _ => return Err(self.diagnosis.refusal(what(), response)),
        }
        let allow = text_header(&response, header::ALLOW).map(str::to_owned);
        let mut body = Vec::new();
        let read = response
            .body_mut()
            .as_reader()
            .take(MAX_OPTIONS_BYTES)
            .read_to_end(&mut body);
        read.map_err(|e| self.diagnosis.lost(what(), e))?;
        Capabilities::parse(&body, allow.as_deref()).map_err(|e| self.diagnosis.nonsense(what(), e))
    }

    /// Returns the size of the disk in bytes, from the total in the Content-Range of a one-byte read.
    pub(crate) fn size(&mut self) -> Result<u64, Error> {
        let what = || "GET of the first byte".to_owned();
        self.begin(MAX_MESSAGE_BYTES);
        let mut response = self
            .agent
            .get(self.url.address(""))
            .header(header::RANGE, "bytes=0-0")
            .call()
            .map_err(|e| self.diagnosis.broken(what(), e))?;
        let status = response.status().as_u16();
        let range = text_header(&response, header::CONTENT_RANGE)
            .unwrap_or_default()
            .to_owned();
        if !matches!(status, 206 | 416) {
            return Err(self.diagnosis.refusal(what(), response));
        }
        self.drain(what(), &mut response)?;
        let prefix = if status == 206 { "bytes 0-0/" } else { "bytes */" };
        let total = range
            .strip_prefix(prefix)
            .and_then(|total| total.parse::<u64>().ok());
        match (total, status) {
            (Some(0), 416) => Ok(0),
            (Some(size), 206) if size > 0 => Ok(size),
            _ => Err(self
                .diagnosis
                .nonsense(what(), format!("status {status} with Content-Range {range:?}"))),
        }
    }

    /// Checks the answer to a PUT or PATCH: success is 200 with an empty body, or 204, after the whole
    /// request was sent. A good answer to a part of it comes from something in front of imageio, which has
    /// not got the rest either: the request counts as lost.
    ///
    /// A server may refuse before it has read the request's body, and take the rest of that for the next
    /// request. imageio closes the connection then; something in front of it may not.
    pub(super) fn expect_done(&self, what: String, mut response: Response<Body>) -> Result<(), Error> {
        match response.status().as_u16() {
            200 | 204 => {
                self.drain(what.clone(), &mut response)?;
                match self.permit.is_cut() {
                    true => {
                        let why = io::Error::other("it was answered before all of it was sent");
                        Err(self.diagnosis.lost(what, why))
                    }
                    false => Ok(()),
                }
            }
            _ => {
                self.permit.leave();
                Err(self.diagnosis.refusal(what, response))
            }
        }
    }

    /// Reads and drops the rest of a body; only then can the connection carry the next request.
    pub(super) fn drain(&self, what: String, response: &mut Response<Body>) -> Result<(), Error> {
        let mut body = Vec::new();
        let mut rest = response.body_mut().as_reader().take(MAX_MESSAGE_BYTES);
        match rest.read_to_end(&mut body) {
            // Something in front of the server may answer with a page of its own and a status that looks
            // well.
            Ok(_) if page::is_page(&body) => Err(self.diagnosis.beside_the_point(what, page::excerpt(&body))),
            Ok(_) => Ok(()),
            Err(e) => Err(self.diagnosis.lost(what, e)),
        }
    }
}

pub(super) fn text_header(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}
