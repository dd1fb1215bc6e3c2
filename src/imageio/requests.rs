//! The requests of a connection that move or change data: GET, PUT, PATCH zero, PATCH flush and GET extents.
//!
//! The pool calls them as [`Remote`], from the thread that has the lease. Each blocks until the server has
//! answered, for as long as `patience` allows. A change is durable after the next flush on the same
//! connection, or, where the pool asks for that ([`Remote::set_durable`]), when it is answered.

use std::io::{self, Read};
use std::time::Duration;

use ureq::http::{HeaderValue, Response, Version, header};
use ureq::{Body, SendBody};

use super::answers::read_extents;
use super::client::{Client, text_header};
use super::diagnosis::{MAX_MESSAGE_BYTES, lost_if_cut_short};
use super::error::Error;
use super::line::Lines;
use super::patience::{MAX_FLUSH_WEIGHT, MAX_ZERO_WEIGHT};
use crate::remote::{DirtyAnswer, DirtyExtent, Extent, HashAnswer, HashRequest, Remote, RemoteError};

/// Upper bound on the body of an extents answer. It fits more than ten million extents; far fewer are
/// remembered.
pub(super) const MAX_EXTENTS_BYTES: u64 = 1 << 30;

/// Upper bound on one PATCH zero. imageio cuts what is too long for its storage; a server that passes it on
/// to NBD, whose lengths have 32 bits, fails (Apache CloudStack's). A multiple of any cluster size of qcow2.
const MAX_ZERO_BYTES: u64 = (4 << 30) - (2 << 20);

/// Size of the PUTs that write zeros to a server without PATCH zero.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// Upper bound on the silence after a keep-alive, which does not touch the storage.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Upper bound on the silence after an extents request: the server walks the image's whole allocation map
/// before it answers.
pub(super) const EXTENTS_TIMEOUT: Duration = Duration::from_secs(300);

impl Client {
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
        let read = match length.is_some() && goes_on(&response) {
            true => self.read_past_ureq(response, parts),
            false => read_exactly(response.body_mut().as_reader(), parts),
        };
        match read {
            Ok(true) => {
                work.done();
                Ok(())
            }
            Ok(false) => Err(self.diagnosis.nonsense(what(), format!("more than {len} bytes"))),
            Err(e) => Err(self.diagnosis.lost(what(), e)),
        }
    }

    /// Reads the body of `response`, which is as long as `parts`, into these without a copy in between, and
    /// keeps the connection for the next request if it can carry that.
    fn read_past_ureq(&self, response: Response<Body>, parts: &mut [&mut [u8]]) -> io::Result<bool> {
        let line = self.lines.present()?;
        // ureq leaves the line, with everything that has arrived behind the head.
        drop(response);
        line.lock().read_body(parts)?;
        self.lines.keep(line);
        Ok(true)
    }

    fn put(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), Error> {
        let len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let last = offset + len - 1;
        let what = || format!("PUT of bytes {offset}-{last}");
        self.begin(MAX_MESSAGE_BYTES);
        let work = self.permit.work(len);
        // Without a word imageio flushes after a PUT, and other servers with its API do not. A server that
        // offers no flush gets none, as ever.
        let address = self.url.address(match (self.capabilities.flush, self.durable) {
            (true, true) => "?flush=y",
            (true, false) => "?flush=n",
            (false, _) => "",
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
                lines: &self.lines,
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
        let has_zero = self.capabilities.zero;
        let piece = if has_zero {
            MAX_ZERO_BYTES
        } else {
            ZERO_PIECE_BYTES
        };
        let zeros = vec![0; if has_zero { 0 } else { piece.min(len) as usize }];
        let end = offset + len;
        for start in (offset..end).step_by(piece as usize) {
            let n = (end - start).min(piece);
            self.movable |= start > offset && self.flushes_each_change();
            match has_zero {
                true => self.patch_zero(start, n)?,
                false => self.put(start, &[&zeros[..n as usize]])?,
            }
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

    /// Asks for the extents before somebody wants them; [`Remote::extents`] has to be the next request, and
    /// reads the answer. Blocks until its head has arrived.
    pub(super) fn ask_extents_ahead(&mut self) {
        self.extents_answer = Some(self.ask_extents());
    }

    fn ask_extents(&mut self) -> Result<Response<Body>, ureq::Error> {
        self.permit.be_patient(EXTENTS_TIMEOUT);
        self.begin(MAX_EXTENTS_BYTES);
        self.agent.get(self.url.address("/extents?context=zero")).call()
    }

    fn get_extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), Error> {
        let what = || "GET of the extents".to_owned();
        let answer = match self.extents_answer.take() {
            Some(answer) => answer,
            None => self.ask_extents(),
        };
        let mut response = answer.map_err(|e| self.diagnosis.broken(what(), e))?;
        if response.status() != 200 {
            return Err(self.diagnosis.refusal(what(), response));
        }
        read_extents(response.body_mut().as_reader(), found).map_err(|e| match e.is_io() {
            true => self.diagnosis.lost(what(), e.into()),
            false => self.diagnosis.nonsense(what(), e.to_string()),
        })
    }
}

/// True when the connection of `response`, whose body has a length, carries the next request behind that
/// body.
fn goes_on(response: &Response<Body>) -> bool {
    let lasts = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    response.version() == Version::HTTP_11
        && !response.headers().contains_key(header::TRANSFER_ENCODING)
        && response.headers().get_all(header::CONNECTION).iter().all(lasts)
}

/// Fills `parts`, one after the other; returns false when there is more.
fn read_exactly(mut body: impl Read, parts: &mut [&mut [u8]]) -> io::Result<bool> {
    parts.iter_mut().try_for_each(|part| body.read_exact(part))?;
    Ok(body.read(&mut [0])? == 0)
}

/// A request body of several buffers, one after the other, that sends itself. ureq, which asks for its bytes,
/// gets only their number.
struct Parts<'a> {
    current: &'a [u8],
    rest: &'a [&'a [u8]],
    lines: &'a Lines,
}

impl Read for Parts<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let [next, rest @ ..] = self.rest else { break };
            (self.current, self.rest) = (next, rest);
        }
        let (now, later) = self.current.split_at(self.current.len().min(buf.len()));
        self.lines.present()?.lock().send_ahead(now)?;
        self.current = later;
        Ok(now.len())
    }
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
        let got = self.get_extents(found);
        self.permit.be_patient(self.permit.usual);
        self.learn(got)
    }

    fn dirty_extents(&mut self, found: &mut dyn FnMut(DirtyExtent)) -> Result<DirtyAnswer, RemoteError> {
        self.get_dirty(found)
    }

    fn block_hash(&mut self, wanted: HashRequest<'_>) -> Result<HashAnswer, RemoteError> {
        self.checksum(wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::TransferUrl;
    use super::super::answers::Capabilities;
    use super::super::permit::Permit;
    use super::super::script::Script;
    use super::super::socket::{IO_TIMEOUT, Route};
    use super::super::transport::OneShot;
    use super::*;

    /// A client of a server that takes `sends` sends and answers by `answer`, whatever it has got.
    fn client_of(answer: &[u8], sends: usize) -> Client {
        let route = Route::Script(Script::new(answer, usize::MAX, true).taking(sends));
        let url = TransferUrl::parse("http://127.0.0.1/images/some-ticket").unwrap();
        let permit = Permit::once(IO_TIMEOUT, Arc::default(), Arc::default());
        let connector = OneShot::new(route, None, permit);
        let known = Capabilities {
            write: true,
            zero: true,
            flush: true,
            ..Capabilities::default()
        };
        Client::open(&url, 0, url.host(), connector, Some(known)).unwrap()
    }

    /// A PATCH is two sends, its head and its body; a PUT is at least two. A gateway that answers before the
    /// last one has not passed the request on, and such a flush has made nothing durable.
    #[test]
    fn a_change_or_flush_that_is_answered_well_before_its_body_has_gone_was_not_done() {
        type Request = fn(&mut Client) -> Result<(), RemoteError>;
        let requests: [(&str, Request); 3] = [
            ("PUT", |client| client.write(0, &[b"some", b"bytes"])),
            ("zero", |client| client.zero(0, 4096)),
            ("flush", |client| client.flush()),
        ];
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ] {
            for (name, request) in requests {
                for sends in 0..2 {
                    let mut client = client_of(answer.as_bytes(), sends);
                    client.unflushed = 7;
                    let outcome = request(&mut client);
                    assert!(
                        matches!(&outcome, Err(RemoteError::Lost(why)) if why.contains("before all of it")),
                        "{name} after {sends} sends: {outcome:?}"
                    );
                    assert_eq!(client.unflushed, 7, "{name} after {sends} sends");
                }
                request(&mut client_of(answer.as_bytes(), usize::MAX)).unwrap();
            }
        }
    }

    /// The buffers of a connection hold the head of its last request, with the ticket.
    #[test]
    fn a_client_in_a_message_does_not_tell_its_ticket() {
        let answer = b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-2/9\r\n\
            content-length: 3\r\n\r\n012";
        let mut client = client_of(answer, usize::MAX);
        client.read(0, &mut [&mut [0; 3]]).unwrap();
        let shown = format!("{client:?}");
        let bytes = format!("{:?}", b"some-ticket");
        assert!(!shown.contains("some-ticket") && !shown.contains(bytes.trim_matches(['[', ']'])));
    }

    /// Only ureq knows what else an answer may say about the end of its body and of its connection.
    #[test]
    fn a_body_passes_ureq_by_only_where_its_length_alone_says_where_it_ends() {
        let answer = |version, headers: &[(header::HeaderName, &'static str)]| {
            let mut answer = Response::new(Body::builder().data("bytes"));
            *answer.version_mut() = version;
            for (name, value) in headers {
                answer.headers_mut().append(name, HeaderValue::from_static(value));
            }
            goes_on(&answer)
        };
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        assert!(answer(new, &[]));
        assert!(answer(new, &[(header::CONNECTION, "Keep-Alive")]));
        assert!(!answer(old, &[]));
        assert!(!answer(old, &[(header::CONNECTION, "keep-alive")]));
        assert!(!answer(new, &[(header::CONNECTION, "close")]));
        assert!(!answer(new, &[(header::CONNECTION, "keep-alive, close")]));
        assert!(!answer(
            new,
            &[(header::CONNECTION, "keep-alive"), (header::CONNECTION, "close")]
        ));
        assert!(!answer(new, &[(header::TRANSFER_ENCODING, "chunked")]));
    }
}
