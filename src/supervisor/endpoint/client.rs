//! One client of the endpoint: a request is read, within bounds on bytes and time, and answered once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Request, Status};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::Page;

/// The longest that one client is served.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Upper bound on the head of a request, in bytes, and on the lines in it.
const MAX_HEAD_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

/// A connection that ends at a moment, however often a byte comes.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buf)
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Answers one request.
pub(super) fn serve(stream: TcpStream, config: Arc<ServerConfig>, page: &Page) -> io::Result<()> {
    let mut socket = Timed {
        stream,
        until: Instant::now() + PATIENCE,
    };
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let asked = ask(&mut Stream::new(&mut tls, &mut socket))?;
    let (text, is_last) = {
        let state = page.state.lock();
        (state.text.clone(), state.is_last)
    };
    let (status, body, with_body) = match asked {
        Asked::Page { with_body } => ("200 OK", &*text, with_body),
        Asked::Other => ("404 Not Found", "see /metrics\n", true),
        Asked::Wrong => ("400 Bad Request", "bad request\n", true),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut client = Stream::new(&mut tls, &mut socket);
    client.write_all(head.as_bytes())?;
    if with_body {
        client.write_all(body.as_bytes())?;
    }
    client.conn.send_close_notify();
    client.flush()?;
    if let Asked::Page { .. } = asked {
        let mut state = page.state.lock();
        state.is_asked = true;
        state.is_told |= is_last;
        page.given.notify_all();
    }
    Ok(())
}

/// The request of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Page { with_body: bool },
    Other,
    Wrong,
}

/// Reads the head of a request.
fn ask(client: &mut impl Read) -> io::Result<Asked> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = client.read(&mut piece)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..count]);
        match asked(&head) {
            Some(asked) => return Ok(asked),
            None if head.len() >= MAX_HEAD_BYTES => return Ok(Asked::Wrong),
            None => {}
        }
    }
}

/// Reads what came so far; `None` where that is not all.
fn asked(head: &[u8]) -> Option<Asked> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Partial) => return None,
        Ok(Status::Complete(_)) => {}
        Err(_) => return Some(Asked::Wrong),
    }
    let path = request.path.unwrap_or_default();
    let is_page = path.split('?').next() == Some("/metrics");
    Some(match request.method {
        Some("GET") if is_page => Asked::Page { with_body: true },
        Some("HEAD") if is_page => Asked::Page { with_body: false },
        Some("GET" | "HEAD") => Asked::Other,
        _ => Asked::Wrong,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_when_its_head_is_whole() {
        for (head, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", None),
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                Some(Asked::Page { with_body: true }),
            ),
            (
                "HEAD /metrics?x=y HTTP/1.0\r\n\r\n",
                Some(Asked::Page { with_body: false }),
            ),
            ("GET /metricsx HTTP/1.1\r\n\r\n", Some(Asked::Other)),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some(Asked::Wrong)),
            ("nonsense\r\n\r\n", Some(Asked::Wrong)),
        ] {
            assert_eq!(asked(head.as_bytes()), expected, "{head}");
        }
        let endless = [
            b"GET /metrics HTTP/1.1\r\n".as_slice(),
            &[b'a'; 2 * MAX_HEAD_BYTES],
        ]
        .concat();
        assert_eq!(ask(&mut &endless[..]).unwrap(), Asked::Wrong);
        assert!(ask(&mut &b"GET /"[..]).is_err());
    }
}
