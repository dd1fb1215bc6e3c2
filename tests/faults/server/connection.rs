//! One client connection: it answers requests one after another as imageio does, unless a fault changes the
//! answer.
//!
//! A connection runs on its own thread until the peer closes it, a fault or a protocol error ends it, the
//! idle limit passes, or the server stops. The server's lock is held only to read or change state, never
//! across socket I/O or a sleep. A write counts as in flight from its header until just before its answer is
//! sent.

use super::Shared;
use super::cousin;
use super::faults::Action;
use super::http::{Request, Response};
use super::image::{Extent, Image};
use super::ledger::Verb;
use super::operation::Operation;
use super::settings::Settings;
use blake2::Blake2b;
use blake2::digest::Digest;
use blake2::digest::consts::U32;
use serde_json::json;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

/// The answer to a change or a flush that is done.
fn done(operation: &Operation, settings: &Settings) -> Response {
    let range = operation.range();
    match settings.cousin {
        true => cousin::done(range.end - range.start),
        false => Response::empty(settings.done),
    }
}

pub struct Connection<'a> {
    shared: &'a Shared,
    id: u64,
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    answers: u32,
}

/// The answer to a request, which also decides whether the connection stays open.
enum Answer {
    Whole(Response),
    /// The header promises the whole body, but the connection closes after half of it.
    Half(Response),
    Garbage,
    Raw(&'static str, bool),
    Nothing,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, id: u64, stream: TcpStream) -> io::Result<Connection<'a>> {
        // A unix socket has no such delay.
        let _ = stream.set_nodelay(true);
        let reader = BufReader::with_capacity(256 * 1024, stream.try_clone()?);
        Ok(Connection {
            shared,
            id,
            reader,
            writer: stream,
            answers: 0,
        })
    }

    pub fn serve(mut self) {
        while self.next_request().unwrap_or(false) {}
        let mut state = self.shared.state();
        state.storage.closed(self.id);
        state.ledger.closed(self.id);
    }

    fn next_request(&mut self) -> io::Result<bool> {
        let idle_limit = self.shared.settings().idle_limit;
        self.writer.set_read_timeout(Some(idle_limit))?;
        let request = match Request::read(&mut self.reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(false),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.shared.state().ledger.idle_drop();
                return Ok(false);
            }
            Err(error) => {
                if error.kind() == ErrorKind::InvalidData {
                    self.shared
                        .state()
                        .storage
                        .violation(format!("connection {}: {error}", self.id));
                }
                return Ok(false);
            }
        };
        let keep = self.answer(&request)?;
        Ok(keep && !request.wants_close())
    }

    fn answer(&mut self, request: &Request) -> io::Result<bool> {
        let settings = self.shared.settings();
        let patch = if request.method == "PATCH" {
            match self.take_patch(request.content_length())? {
                Some(body) => body,
                None => return Ok(false),
            }
        } else {
            Vec::new()
        };
        let body_unread = request.method == "PUT" && request.content_length() != Some(0);
        let operation = match Operation::parse(request, &patch, &settings) {
            Ok(operation) if operation.needs_write() && settings.read_only => {
                return self.refuse(Response::text(403, "Ticket forbids write").closing(), request);
            }
            Ok(operation) => operation,
            Err(response) if body_unread => return self.refuse(response.closing(), request),
            Err(response) => return self.refuse(response, request),
        };
        let (record, fault) = {
            let mut state = self.shared.state();
            let record = state.ledger.begin(self.id, operation.verb(), operation.range());
            if matches!(
                operation,
                Operation::Put { flush: true, .. } | Operation::Zero { flush: true, .. }
            ) {
                state.ledger.flushes(record);
            }
            if operation.changes_data() {
                state.storage.begin(self.id, operation.range());
            }
            (record, state.faults.pick(operation.verb(), &operation.range()))
        };
        if let Some((gated, wanted)) = &settings.company {
            let range = operation.range();
            let within = gated.start <= range.start && range.end <= gated.end;
            if within && matches!(operation.verb(), Verb::Get | Verb::Put) {
                self.shared.wait_for_company(record, *wanted);
            }
        }
        let answer = self.perform(&operation, fault, &settings);
        {
            let mut state = self.shared.state();
            state.storage.end(self.id);
            if let Ok(Answer::Whole(response) | Answer::Half(response)) = &answer {
                state.ledger.finish(record, response.status);
            }
        }
        self.send(answer?)
    }

    fn refuse(&mut self, response: Response, request: &Request) -> io::Result<bool> {
        let mut state = self.shared.state();
        let record = state.ledger.begin(self.id, Verb::Other, 0..0);
        state.ledger.finish(record, response.status);
        if response.status == 400 {
            let wrong = format!("connection {}: {} was answered 400", self.id, request.method);
            state.storage.violation(wrong);
        }
        drop(state);
        self.send(Answer::Whole(response))
    }

    fn send(&mut self, answer: Answer) -> io::Result<bool> {
        match answer {
            Answer::Whole(response) => {
                let settings = self.shared.settings();
                self.answers += 1;
                let last = self.answers >= settings.lifetime;
                let response = Response {
                    close: response.close || last && settings.announces,
                    ..response
                };
                let mut bytes = settings.interim.as_bytes().to_vec();
                bytes.extend(response.bytes(settings.version, settings.chunked));
                bytes.extend(settings.trailing.as_bytes());
                // A cousin sends head and body apart.
                let head = bytes
                    .windows(4)
                    .position(|w| w == b"\r\n\r\n")
                    .filter(|_| settings.cousin);
                let (head, body) = bytes.split_at(head.map_or(bytes.len(), |at| at + 4));
                self.writer.write_all(head)?;
                self.writer.write_all(body)?;
                Ok(!response.close && !last && settings.version == "HTTP/1.1")
            }
            Answer::Raw(bytes, keep) => self.writer.write_all(bytes.as_bytes()).map(|()| keep),
            Answer::Half(response) => {
                self.writer
                    .write_all(response.head("HTTP/1.1", false).as_bytes())?;
                self.writer.write_all(&response.body[..response.body.len() / 2])?;
                Ok(false)
            }
            Answer::Garbage => self
                .writer
                .write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n")
                .map(|()| false),
            Answer::Nothing => Ok(false),
        }
    }

    fn perform(
        &mut self,
        operation: &Operation,
        fault: Option<Action>,
        settings: &Settings,
    ) -> io::Result<Answer> {
        match fault {
            Some(Action::EarlyStatusKept(status, text)) => {
                return Ok(Answer::Whole(Response::text(status, text)));
            }
            Some(Action::EarlyStatus(status, text)) => {
                return Ok(Answer::Whole(Response::text(status, text).closing()));
            }
            Some(Action::CloseBeforeBody) => return Ok(Answer::Nothing),
            Some(Action::CloseMidBody) if matches!(operation, Operation::Put { .. }) => {
                let range = operation.range();
                let half = self.take_body(Some((range.end - range.start) / 2))?;
                self.shared.state().storage.write(self.id, range.start, &half);
                return Ok(Answer::Nothing);
            }
            _ => {}
        }
        let body = match operation {
            Operation::Put { range, .. } => self.take_body(Some(range.end - range.start))?,
            _ => Vec::new(),
        };
        self.shared.sleep(settings.delay);
        match fault {
            Some(Action::Status(status, text)) => return Ok(Answer::Whole(Response::text(status, text))),
            Some(Action::Reply(status, body)) => {
                return Ok(Answer::Whole(
                    Response::empty(status).body(body.as_bytes().to_vec()),
                ));
            }
            Some(Action::Garbage) => return Ok(Answer::Garbage),
            Some(Action::Raw(bytes)) => return Ok(Answer::Raw(bytes, true)),
            Some(Action::RawAndClose(bytes)) => return Ok(Answer::Raw(bytes, false)),
            _ => {}
        }
        let response = self.execute(operation, &body, settings);
        Ok(match fault {
            Some(Action::CloseMidBody) => Answer::Half(response),
            Some(Action::CloseBeforeReply) => Answer::Nothing,
            Some(Action::WithoutLength) => Answer::Whole(Response {
                without_length: true,
                close: true,
                ..response
            }),
            Some(Action::Stall(time)) => {
                self.shared.sleep(time);
                Answer::Whole(response)
            }
            Some(Action::Hold) => {
                self.shared.sleep_while_armed();
                Answer::Whole(response)
            }
            Some(Action::ShortLength) => {
                let half = response.body[..response.body.len() / 2].to_vec();
                Answer::Whole(response.body(half))
            }
            Some(Action::WrongContentRange) => {
                let length = response.body.len() as u64;
                let wrong = format!("bytes 4096-{}/{}", 4095 + length, settings.size);
                Answer::Whole(Response {
                    headers: vec![("content-range", wrong)],
                    ..response
                })
            }
            _ => Answer::Whole(response),
        })
    }

    /// Executes the operation and returns the answer; takes the lock once, after the delays.
    fn execute(&mut self, operation: &Operation, body: &[u8], settings: &Settings) -> Response {
        match operation {
            Operation::Put { .. } => self.shared.sleep(settings.put_delay),
            Operation::Flush => self.shared.sleep(settings.flush_delay),
            _ => {}
        }
        if let Some(speed) = settings.speed {
            self.shared.work(self.bytes_to_write(operation), speed);
        }
        let mut state = self.shared.state();
        match operation {
            Operation::Options => {
                let allow = if settings.read_only {
                    "OPTIONS,GET"
                } else {
                    "OPTIONS,GET,PUT,PATCH"
                };
                let mut answer = json!({"features": settings.features(),
                    "max_readers": settings.max_readers, "max_writers": settings.max_writers});
                if let Some(path) = &settings.unix_socket {
                    answer["unix_socket"] = json!(path);
                }
                Response::json(answer.to_string()).with("allow", allow.to_string())
            }
            Operation::Get { range, whole } => {
                let length = range.end - range.start;
                let last = (range.start + length) as i64 - 1;
                let content_range = format!("bytes {}-{last}/{}", range.start, settings.size);
                Response::empty(if *whole { 200 } else { 206 })
                    .with("content-type", "application/octet-stream".to_string())
                    .with("content-range", content_range)
                    .body(state.storage.visible().read(range.clone()))
            }
            Operation::Put { range, flush } => {
                state.storage.write(self.id, range.start, body);
                if *flush {
                    state.storage.flush(self.id);
                }
                done(operation, settings)
            }
            Operation::Zero { range, flush } => {
                state.storage.zero(self.id, range.clone());
                if *flush {
                    state.storage.flush(self.id);
                }
                done(operation, settings)
            }
            Operation::Flush => {
                state.storage.flush(self.id);
                if let Some(offset) = settings.decays {
                    state.storage.preset(offset, &[0xee]);
                }
                done(operation, settings)
            }
            Operation::Checksum { block_size } => {
                let answer = json!({"algorithm": "blake2b", "block_size": block_size,
                    "checksum": checksum(state.storage.durable(), *block_size)});
                Response::json(answer.to_string())
            }
            Operation::Extents if settings.one_extent => {
                let one = json!([{"start": 0, "length": settings.size, "zero": false, "hole": false}]);
                Response::json(one.to_string())
            }
            Operation::Extents => {
                let mut extents = state.storage.visible().extents();
                if settings.cousin {
                    extents = cousin::told_in_pieces(&extents, settings.size);
                }
                let list: Vec<_> = extents
                    .iter()
                    .map(|e| json!({"start": e.start, "length": e.length, "zero": e.zero, "hole": e.zero}))
                    .collect();
                Response::json(json!(list).to_string())
            }
        }
    }

    /// Returns how many bytes the storage has to write for `operation`; a flush writes what it makes durable.
    fn bytes_to_write(&self, operation: &Operation) -> u64 {
        match operation {
            Operation::Put { .. } | Operation::Zero { .. } if self.shared.settings().lazy => 0,
            Operation::Put { range, .. } | Operation::Zero { range, .. } => range.end - range.start,
            Operation::Flush if self.shared.settings().lazy => {
                let unflushed = self.shared.state().storage.unflushed();
                let mine = unflushed.iter().filter(|(connection, _)| *connection == self.id);
                mine.map(|(_, range)| range.end - range.start).sum()
            }
            _ => 0,
        }
    }

    /// Returns the body of a PATCH, or None when only the head has arrived and a fault has answered that.
    fn take_patch(&mut self, length: Option<u64>) -> io::Result<Option<Vec<u8>>> {
        let fault = self.shared.state().faults.pick(Verb::Patch, &(0..0));
        let Some(Action::StatusToHead(status)) = fault else {
            return self.take_body(length).map(Some);
        };
        self.writer.shutdown(Shutdown::Read)?;
        if let Ok(body) = self.take_body(length) {
            return Ok(Some(body));
        }
        let mut state = self.shared.state();
        let record = state.ledger.begin(self.id, Verb::Patch, 0..0);
        state.ledger.finish(record, status);
        drop(state);
        self.send(Answer::Whole(Response::empty(status)))?;
        Ok(None)
    }

    fn take_body(&mut self, length: Option<u64>) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length.unwrap_or(0) as usize];
        self.reader.read_exact(&mut body)?;
        Ok(body)
    }
}

/// The block hash of imageio, of what is on the storage.
pub fn checksum(image: &Image, block_size: u64) -> String {
    let mut outer = Blake2b::<U32>::new();
    let extents = image.extents();
    let zeros = Blake2b::<U32>::digest(vec![0; block_size as usize]);
    for start in (0..image.size()).step_by(block_size as usize) {
        let end = (start + block_size).min(image.size());
        let is_hole = |extent: &Extent| {
            extent.zero && extent.start <= start && start + block_size <= extent.start + extent.length
        };
        match extents.iter().any(is_hole) {
            true => outer.update(zeros),
            false => outer.update(Blake2b::<U32>::digest(image.read(start..end))),
        }
    }
    outer
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
