//! The HTTP requests of one connection: OPTIONS, GET, PUT, PATCH zero, PATCH flush and GET extents.
//!
//! A [`Client`] owns one ureq agent, and the agent owns one socket. It never reconnects (see `transport`)
//! once anything depends on its connection: after [`Error::Lost`] the client is useless, and the pool decides
//! what becomes of the writes that it carried. The protocol is that of ovirt-imageio 2.5.1, docs/images.md
//! and http.py.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::{Agent, Body, SendBody};

use super::TransferUrl;
use super::answers::{Capabilities, read_extents};
use super::diagnosis::{Diagnosis, MAX_MESSAGE_BYTES, lost_if_cut_short};
use super::error::Error;
use super::patience::{MAX_FLUSH_WEIGHT, MAX_ZERO_WEIGHT};
use super::permit::Permit;
use super::transport::{NoResolver, OneShot};
use crate::remote::{Extent, Remote, RemoteError};

/// The number of requests from which a connection without an OPTIONS of its own counts.
const SKIPPED_OPTIONS: u64 = 1 << 32;

/// Upper bound on the body of an OPTIONS answer. imageio's has 200 bytes.
const MAX_OPTIONS_BYTES: u64 = 64 << 10;

/// Upper bound on the body of an extents answer. It fits more than ten million extents; far fewer are
/// remembered.
const MAX_EXTENTS_BYTES: u64 = 1 << 30;

/// Upper bound on the header of an answer. imageio's have 300 bytes; ureq accepts at most 128 lines.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Size of the PUTs that write zeros to a server without PATCH zero.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// Upper bound on the silence after a keep-alive, which does not touch the storage.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Upper bound on the silence after an extents request: the server walks the image's whole allocation map
/// before it answers.
const EXTENTS_TIMEOUT: Duration = Duration::from_secs(300);

/// A connection that was authorised on a ticket.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    permit: Arc<Permit>,
    url: TransferUrl,
    epoch: u64,
    diagnosis: Diagnosis,
    capabilities: Capabilities,
    /// Weight of the changes that were answered and not flushed, in bytes.
    unflushed: u64,
    /// Number of requests so far.
    requests: u64,
    /// The next request may go over another connection: nothing depends on the present one.
    movable: bool,
    /// Each change flushes before it is answered.
    durable: bool,
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
        let permit = connector.permit.clone();
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
            url: url.clone(),
            epoch,
            capabilities: Capabilities::default(),
            unflushed: 0,
            requests: 0,
            movable: true,
            durable: false,
        };
        if let Some(known) = known {
            client.capabilities = known;
            client.requests = SKIPPED_OPTIONS;
            return Ok(client);
        }
        client.capabilities = client.options()?;
        // The server may close the connection after OPTIONS: an old one that has refused it, or one that
        // closes each connection after an answer. Nothing was written yet, so a second one loses no write
        // unnoticed.
        client.movable = true;
        if !client.capabilities.options {
            client.size()?;
        }
        Ok(client)
    }

    /// Begins a request whose answer has a body of at most `body` bytes.
    fn begin(&mut self, body: u64) {
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
    fn learn<T>(&self, result: Result<T, Error>) -> Result<T, RemoteError> {
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

    fn options(&mut self) -> Result<Capabilities, Error> {
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

    fn get(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), Error> {
        let len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let last = offset + len - 1;
        let what = || format!("GET of bytes {offset}-{last}");
        self.begin(len + MAX_MESSAGE_BYTES);
        let work = self.permit.work(len);
        let mut response = self
            .agent
            .get(self.url.address(""))
            .header(header::RANGE, format!("bytes={offset}-{last}"))
            .call()
            .map_err(|e| self.diagnosis.broken(what(), e))?;
        if response.status() != 206 {
            return match response.status().as_u16() {
                // Only a 206 says which range of the disk the bytes are from.
                200 => Err(self
                    .diagnosis
                    .beside_the_point(what(), "the whole image instead of the range".into())),
                _ => Err(self.diagnosis.refusal(what(), response)),
            };
        }
        let range = text_header(&response, header::CONTENT_RANGE).unwrap_or_default();
        if !range.starts_with(&format!("bytes {offset}-{last}/")) {
            let why = format!("Content-Range {range:?}");
            return Err(self.diagnosis.beside_the_point(what(), why));
        }
        // Chunks, and a body that lasts until the connection closes, have no length. Content-Range has it,
        // too.
        let length = text_header(&response, header::CONTENT_LENGTH).map(str::to_owned);
        let fits = |length: &String| length.parse() == Ok(len);
        if !length.as_ref().is_none_or(fits) {
            let why = format!("Content-Length {length:?}");
            return Err(self.diagnosis.beside_the_point(what(), why));
        }
        let mut body = response.body_mut().as_reader();
        let read = parts.iter_mut().try_for_each(|part| body.read_exact(part));
        match read.and_then(|()| body.read(&mut [0])) {
            Ok(0) => {
                work.done();
                Ok(())
            }
            Ok(_) => Err(self.diagnosis.nonsense(what(), format!("more than {len} bytes"))),
            Err(e) => Err(self.diagnosis.lost(what(), e)),
        }
    }

    fn put(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), Error> {
        let len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let last = offset + len - 1;
        let what = || format!("PUT of bytes {offset}-{last}");
        self.begin(MAX_MESSAGE_BYTES);
        let work = self.permit.work(len);
        // imageio flushes after a PUT unless it is told not to.
        let address = self.url.address(match self.flushes_each_change() {
            true => "",
            false => "?flush=n",
        });
        let response = self
            .agent
            .put(address)
            .header(header::CONTENT_RANGE, format!("bytes {offset}-{last}/*"))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            // Without a length ureq sends chunks, which imageio refuses.
            .header(header::CONTENT_LENGTH, len)
            .send(SendBody::from_reader(&mut Parts {
                current: &[],
                rest: parts,
            }))
            .map_err(|e| self.diagnosis.broken(what(), e))?;
        self.expect_done(what(), response).map_err(lost_if_cut_short)?;
        work.done();
        self.changed(len);
        Ok(())
    }

    /// Sends a PATCH that moves about `weight` bytes on the storage.
    fn patch(
        &mut self,
        what: impl Fn() -> String,
        message: serde_json::Value,
        weight: u64,
    ) -> Result<(), Error> {
        self.begin(MAX_MESSAGE_BYTES);
        let work = self.permit.work(weight);
        let response = self
            .agent
            .patch(self.url.address(""))
            .header(header::CONTENT_TYPE, "application/json")
            .send(message.to_string())
            .map_err(|e| self.diagnosis.broken(what(), e))?;
        self.expect_done(what(), response)?;
        work.done();
        Ok(())
    }

    fn patch_zero(&mut self, offset: u64, len: u64) -> Result<(), Error> {
        let what = || format!("PATCH zero of {len} bytes at {offset}");
        let flush = self.flushes_each_change();
        let message = serde_json::json!({"op": "zero", "offset": offset, "size": len, "flush": flush});
        let weight = len.min(MAX_ZERO_WEIGHT);
        self.patch(what, message, weight)?;
        self.changed(weight);
        Ok(())
    }

    /// Zeroes a range by as many requests as it takes.
    fn zero_in_pieces(&mut self, offset: u64, len: u64) -> Result<(), Error> {
        if self.capabilities.zero {
            return self.patch_zero(offset, len);
        }
        let zeros = vec![0; ZERO_PIECE_BYTES.min(len as usize)];
        let end = offset + len;
        for start in (offset..end).step_by(ZERO_PIECE_BYTES) {
            let n = (end - start).min(ZERO_PIECE_BYTES as u64) as usize;
            self.movable |= start > offset && self.flushes_each_change();
            self.put(start, &[&zeros[..n]])?;
        }
        Ok(())
    }

    /// Counts a change of `weight` bytes that was answered, for the next flush.
    fn changed(&mut self, weight: u64) {
        self.unflushed = match self.flushes_each_change() {
            true => 0,
            false => self.unflushed + weight,
        };
    }

    /// True when each change is durable when it is answered.
    fn flushes_each_change(&self) -> bool {
        self.durable || !self.capabilities.flush
    }

    fn get_extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), Error> {
        let what = || "GET of the extents".to_owned();
        self.begin(MAX_EXTENTS_BYTES);
        let answer = self.agent.get(self.url.address("/extents?context=zero")).call();
        let mut response = answer.map_err(|e| self.diagnosis.broken(what(), e))?;
        if response.status() != 200 {
            return Err(self.diagnosis.refusal(what(), response));
        }
        read_extents(response.body_mut().as_reader(), found).map_err(|e| match e.is_io() {
            true => self.diagnosis.lost(what(), e.into()),
            false => self.diagnosis.nonsense(what(), e.to_string()),
        })
    }

    /// Checks the answer to a PUT or PATCH: success is 200 with an empty body, or 204.
    ///
    /// A server may refuse before it has read the request's body, and take the rest of that for the next
    /// request. imageio closes the connection then; something in front of it may not.
    fn expect_done(&self, what: String, mut response: Response<Body>) -> Result<(), Error> {
        match response.status().as_u16() {
            200 | 204 => self.drain(what, &mut response),
            _ => {
                self.permit.leave();
                Err(self.diagnosis.refusal(what, response))
            }
        }
    }

    /// Reads and drops the rest of a body; only then can the connection carry the next request.
    fn drain(&self, what: String, response: &mut Response<Body>) -> Result<(), Error> {
        let mut body = response.body_mut().as_reader().take(MAX_MESSAGE_BYTES);
        io::copy(&mut body, &mut io::sink()).map_err(|e| self.diagnosis.lost(what, e))?;
        Ok(())
    }
}

/// A request body that reads several buffers one after the other.
struct Parts<'a> {
    current: &'a [u8],
    rest: &'a [&'a [u8]],
}

impl Read for Parts<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let [next, rest @ ..] = self.rest else { break };
            (self.current, self.rest) = (next, rest);
        }
        self.current.read(buf)
    }
}

fn text_header(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

impl Remote for Client {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn read(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), RemoteError> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(());
        }
        let got = self.get(offset, parts);
        self.learn(got)
    }

    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), RemoteError> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(());
        }
        let put = self.put(offset, parts);
        self.learn(put)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), RemoteError> {
        let zeroed = self.zero_in_pieces(offset, len);
        self.learn(zeroed)
    }

    fn set_durable(&mut self, durable: bool) {
        self.durable = durable;
    }

    fn is_over(&self) -> bool {
        !self.movable && self.permit.is_over()
    }

    fn flush(&mut self) -> Result<(), RemoteError> {
        if !self.capabilities.flush {
            return Ok(());
        }
        let weight = self.unflushed.min(MAX_FLUSH_WEIGHT);
        self.patch(
            || "PATCH flush".to_owned(),
            serde_json::json!({"op": "flush"}),
            weight,
        )?;
        self.unflushed = 0;
        Ok(())
    }

    fn touch(&mut self) -> Result<(), RemoteError> {
        self.permit.be_patient(TOUCH_TIMEOUT.min(self.permit.usual));
        let touched = match self.capabilities.options {
            true => self.options().map(drop),
            false => self.size().map(drop),
        };
        self.permit.be_patient(self.permit.usual);
        Ok(touched?)
    }

    fn extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), RemoteError> {
        if !self.capabilities.extents {
            return Ok(());
        }
        self.permit.be_patient(EXTENTS_TIMEOUT);
        let got = self.get_extents(found);
        self.permit.be_patient(self.permit.usual);
        self.learn(got)
    }
}
