//! The subset of HTTP/1.1 that imageio speaks: requests with a content-length body, answers with lower-case
//! header names. Bodies are left in the stream; the handler of a request decides whether to read its body.

use std::io::{self, BufRead, ErrorKind, Read};

const HEADER_LIMIT: usize = 64 * 1024;

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads the head of a request; returns None when the peer closed the connection between requests.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut budget = HEADER_LIMIT;
        let line = match read_line(stream, &mut budget)? {
            Some(line) => line,
            None => return Ok(None),
        };
        let mut words = line.split(' ');
        let (method, target) = match (words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some("HTTP/1.1")) => (method.to_string(), target.to_string()),
            _ => return Err(bad(format!("request line {line:?}"))),
        };
        let mut headers = Vec::new();
        loop {
            let line = read_line(stream, &mut budget)?.ok_or_else(|| bad("end in the header".into()))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| bad(format!("header {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_string(), pairs(query)),
            None => (target, Vec::new()),
        };
        Ok(Some(Request {
            method,
            path,
            query,
            headers,
        }))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub fn wants_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Returns the range header `bytes=A-B` or `bytes=A-` as (A, B).
    pub fn range(&self) -> Option<Result<(u64, Option<u64>), ()>> {
        let value = self.header("range")?;
        let parse = || {
            let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
            let first: u64 = first.parse().ok()?;
            let last = if last.is_empty() {
                None
            } else {
                Some(last.parse::<u64>().ok()?)
            };
            last.is_none_or(|last| last >= first).then_some((first, last))
        };
        Some(parse().ok_or(()))
    }

    /// Returns the A of the content-range header `bytes A-B/*`; B only has to be well-formed, as in imageio.
    pub fn content_range_start(&self) -> Result<u64, ()> {
        let Some(value) = self.header("content-range") else {
            return Ok(0);
        };
        let parse = || {
            let (range, _total) = value.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            (last >= first).then_some(first)
        };
        parse().ok_or(())
    }
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub close: bool,
    /// The body ends with the connection.
    pub without_length: bool,
}

impl Response {
    pub fn empty(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            close: false,
            without_length: false,
        }
    }

    pub fn text(status: u16, text: &str) -> Response {
        Response::empty(status)
            .with("content-type", "text/plain; charset=UTF-8".to_string())
            .body(format!("{text}\n").into_bytes())
    }

    pub fn json(body: String) -> Response {
        Response::empty(200)
            .with("content-type", "application/json".to_string())
            .body(body.into_bytes())
    }

    pub fn with(mut self, name: &'static str, value: String) -> Response {
        self.headers.push((name, value));
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Response {
        self.body = body;
        self
    }

    pub fn closing(mut self) -> Response {
        self.close = true;
        self
    }

    pub fn head(&self, version: &str, chunked: bool) -> String {
        let mut head = format!(
            "{version} {} {}\r\nserver: imageio/2.5.1\r\n",
            self.status,
            reason(self.status)
        );
        head += "date: Mon, 23 Nov 2026 01:47:01 GMT\r\n";
        if chunked {
            head += "transfer-encoding: chunked\r\n";
        } else if self.status != 204 && !self.without_length {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.close {
            head += "connection: close\r\n";
        }
        head + "\r\n"
    }

    /// Returns the whole answer, with the body in one piece or in chunks of at most 1000 bytes.
    pub fn bytes(&self, version: &str, chunked: bool) -> Vec<u8> {
        let mut bytes = self.head(version, chunked).into_bytes();
        if !chunked {
            bytes.extend(&self.body);
            return bytes;
        }
        for chunk in self.body.chunks(1000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Requested Range Not Satisfiable",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

fn read_line(stream: &mut impl BufRead, budget: &mut usize) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    stream.take(*budget as u64).read_until(b'\n', &mut line)?;
    *budget -= line.len();
    if line.is_empty() {
        return Ok(None);
    }
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or_else(|| bad("line without its end".into()))?;
    String::from_utf8(line.to_vec())
        .map(Some)
        .map_err(|_| bad("header is not text".into()))
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let split = |pair: &str| {
        pair.split_once('=')
            .map(|(name, value)| (name.to_string(), value.to_string()))
    };
    query.split('&').filter_map(split).collect()
}

fn bad(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}
