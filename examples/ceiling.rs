//! The ceiling in the benchmark's table: the speed of this machine and this daemon with nothing in between.
//!
//! N threads, each with its own connection and one reused buffer, take the next request from a counter and
//! transfer it with hand-written HTTP/1.1: no FUSE, no HTTP library, no copy except the socket's (and that of
//! TLS). A mount of the disk can at best come close to this speed. `put` flushes every connection at the end.
//! Messages contain no part of the URL, because the ticket in it is a credential.
//!
//! With `--then BYTES`, the requests after the first one of each connection are so large: a server that is
//! near answers smaller ones faster, once it has the memory for large ones (src/pool/sizes.rs).
//!
//! With `--copies N`, separate threads also copy every transferred byte N times from memory to memory. The
//! result is the speed that can be reached when a byte needs as much processor time as in a client. A
//! connection waits while 64 MiB are still to be copied.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use crossbeam::channel::{Receiver, Sender, bounded};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use url::Url;

const USAGE: &str = "\
usage: ceiling put|get URL --cafile PATH|--plain [--unix SOCKET] --connections N --request BYTES
               [--then BYTES] [--copies N] --ranges FILE --source FILE (put) | [--output FILE] (get)
each line of the file for --ranges is START LENGTH, in bytes";

/// The names of the options that take a value.
const OPTIONS: &str = "cafile unix connections request then ranges source output copies";

/// Size of the buffer between rustls and the socket, from which rustls would otherwise read 4 KiB at a time.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// Bytes per copy for `--copies`: as many as one FUSE request has.
const COPY_BYTES: usize = 1 << 20;

/// Upper bound on the threads that copy.
const MAX_COPIERS: usize = 4;

/// Upper bound on the copies that wait for those threads; beyond it a connection waits.
const MAX_WAITING_COPIES: usize = 64;

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}
type Stream = Box<dyn Duplex>;

struct Args {
    put: bool,
    url: String,
    options: HashMap<&'static str, String>,
}

enum Route {
    Unix(String),
    Tcp(Vec<SocketAddr>),
    Tls(Vec<SocketAddr>, ServerName<'static>, Arc<ClientConfig>),
}

struct Job {
    route: Route,
    path: String,
    put: bool,
    file: Option<File>,
    largest: usize,
    copies: usize,
    requests: Vec<(u64, usize)>,
    next: AtomicUsize,
}

fn main() -> ExitCode {
    let args = Args::parse(std::env::args().skip(1)).context(USAGE);
    match args.and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ceiling: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let (job, connections) = (Job::new(args)?, args.number("connections")?);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let (order, orders) = bounded(MAX_WAITING_COPIES);
        for _ in 0..MAX_COPIERS.min(job.copies) {
            let orders = orders.clone();
            scope.spawn(move || copy(&orders));
        }
        drop(orders);
        let work = |order: Sender<()>| scope.spawn(|| job.work(order));
        let threads: Vec<_> = (0..connections).map(|_| work(order.clone())).collect();
        drop(order);
        let mut results = threads.into_iter().map(|t| t.join().expect("no panic"));
        results.try_for_each(|result| result)
    })?;
    let (seconds, requests) = (begun.elapsed().as_secs_f64(), job.requests.len());
    let bytes: usize = job.requests.iter().map(|&(_, n)| n).sum();
    println!(r#"{{"bytes": {bytes}, "seconds": {seconds:.6}, "requests": {requests}}}"#);
    Ok(())
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Args> {
        let (verb, url) = (words.next()?, words.next()?);
        let (mut options, mut plain) = (HashMap::new(), false);
        while let Some(word) = words.next() {
            let name = OPTIONS
                .split(' ')
                .find(|&known| word.strip_prefix("--") == Some(known));
            match word == "--plain" {
                true => plain = true,
                false => drop(options.insert(name?, words.next()?)),
            }
        }
        let put = verb == "put";
        let files = put == options.contains_key("source") && !(put && options.contains_key("output"));
        let valid = (put || verb == "get") && files && plain != options.contains_key("cafile");
        valid.then_some(Args { put, url, options })
    }

    fn text(&self, name: &str) -> Result<&String> {
        self.options.get(name).context(USAGE)
    }

    fn number(&self, name: &str) -> Result<usize> {
        let number: NonZero<usize> = self.text(name)?.parse().with_context(|| format!("--{name}"))?;
        Ok(number.get())
    }

    fn route(&self, url: &Url) -> Result<Route> {
        if let Some(path) = self.options.get("unix") {
            return Ok(Route::Unix(path.clone()));
        }
        let addresses = url.socket_addrs(|| None).context("the URL's host")?;
        match (url.scheme(), self.options.get("cafile")) {
            ("http", None) => Ok(Route::Tcp(addresses)),
            ("https", Some(cafile)) => {
                let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_owned())?;
                Ok(Route::Tls(addresses, name, trust(cafile).context("--cafile")?))
            }
            _ => bail!("https goes with --cafile, http with --plain"),
        }
    }

    fn file(&self, end: u64) -> Result<Option<File>> {
        let create = |path| File::create(path).and_then(|file| file.set_len(end).map(|()| file));
        Ok(match (self.options.get("source"), self.options.get("output")) {
            (Some(path), _) => Some(File::open(path).context("--source")?),
            (None, path) => path.map(create).transpose().context("--output")?,
        })
    }
}

fn trust(cafile: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(cafile)? {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

/// Returns the ranges in the file at `path` as requests (start, length): the first `count` of at most `first`
/// bytes, the others of at most `then`.
fn cut(path: &str, (count, first): (usize, usize), then: usize) -> Result<Vec<(u64, usize)>> {
    let mut requests = Vec::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let (start, length) = line.split_once(' ').context("a line is not START LENGTH")?;
        let (start, length): (u64, u64) = (start.parse()?, length.parse()?);
        let end = start.checked_add(length).context("a range has no end")?;
        let mut at = start;
        while at < end {
            let most = if requests.len() < count { first } else { then };
            let length = usize::try_from(end - at)?.min(most);
            requests.push((at, length));
            at += length as u64;
        }
    }
    Ok(requests)
}

/// Makes one copy per order until the channel closes. The 8 MiB buffers keep the memory out of the
/// processor's cache.
fn copy(orders: &Receiver<()>) {
    let (from, mut to) = (vec![1u8; 8 * COPY_BYTES], vec![0u8; 8 * COPY_BYTES]);
    for (_, at) in orders.iter().zip((0..8 * COPY_BYTES).step_by(COPY_BYTES).cycle()) {
        to[at..at + COPY_BYTES].copy_from_slice(&from[at..at + COPY_BYTES]);
        std::hint::black_box(&mut to);
    }
}

impl Route {
    fn connect(&self) -> Result<Stream> {
        Ok(match self {
            Route::Unix(path) => Box::new(UnixStream::connect(path)?),
            Route::Tcp(addresses) => Box::new(tcp(addresses)?),
            Route::Tls(addresses, name, config) => {
                let session = ClientConnection::new(config.clone(), name.clone())?;
                let socket = BufReader::with_capacity(READ_BUFFER_BYTES, tcp(addresses)?);
                let mut stream = StreamOwned::new(session, ReadBuffered(socket));
                // Do the handshake now, because the daemon accepts no other connection before it.
                stream.flush()?;
                Box::new(stream)
            }
        })
    }
}

fn tcp(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(addresses)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

struct ReadBuffered(BufReader<TcpStream>);

impl Read for ReadBuffered {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for ReadBuffered {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(buf)
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Job {
    fn new(args: &Args) -> Result<Job> {
        let url = Url::parse(&args.url).context("the URL")?;
        let (connections, first) = (args.number("connections")?, args.number("request")?);
        let then = match args.options.contains_key("then") {
            true => args.number("then")?,
            false => first,
        };
        let requests = cut(args.text("ranges")?, (connections, first), then).context("--ranges")?;
        let end = requests.iter().map(|&(start, n)| start + n as u64).max();
        Ok(Job {
            route: args.route(&url)?,
            path: url.path().to_owned(),
            put: args.put,
            file: args.file(end.unwrap_or(0))?,
            largest: first.max(then),
            copies: match args.options.contains_key("copies") {
                true => args.number("copies")?,
                false => 0,
            },
            requests,
            next: AtomicUsize::new(0),
        })
    }

    /// Transfers requests over one connection until none is left. After a failure the other threads find
    /// none.
    fn work(&self, order: Sender<()>) -> Result<()> {
        let stream = self.route.connect().context("connect");
        let result = stream.and_then(|stream| self.serve(stream, &order));
        if result.is_err() {
            self.next.store(self.requests.len(), Ordering::Relaxed);
        }
        result
    }

    fn serve(&self, mut stream: Stream, order: &Sender<()>) -> Result<()> {
        let mut buffer = vec![0; self.largest];
        while let Some(&(start, n)) = self.requests.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.transfer(&mut stream, start, &mut buffer[..n])?;
            for _ in 0..n.div_ceil(COPY_BYTES) * self.copies {
                order.send(()).context("copy")?;
            }
        }
        if self.put {
            self.send(&mut stream, "PATCH", "", br#"{"op": "flush"}"#)?;
            answer(&mut stream, 200, &mut []).context("PATCH")?;
        }
        Ok(())
    }

    fn transfer(&self, stream: &mut Stream, start: u64, buffer: &mut [u8]) -> Result<()> {
        let last = start + buffer.len() as u64 - 1;
        match (&self.file, self.put) {
            (Some(source), true) => {
                source.read_exact_at(buffer, start).context("--source")?;
                let range = format!("content-range: bytes {start}-{last}/*\r\n");
                self.send(stream, "PUT", &range, buffer)?;
                answer(stream, 200, &mut []).context("PUT")
            }
            (output, _) => {
                self.send(stream, "GET", &format!("range: bytes={start}-{last}\r\n"), &[])?;
                answer(stream, 206, buffer).context("GET")?;
                let write = |file: &File| file.write_all_at(buffer, start);
                output.as_ref().map_or(Ok(()), write).context("--output")
            }
        }
    }

    fn send(&self, stream: &mut Stream, verb: &str, fields: &str, body: &[u8]) -> Result<()> {
        let query = if verb == "PUT" { "?flush=n" } else { "" };
        let (path, n) = (&self.path, body.len());
        let line = format!("{verb} {path}{query} HTTP/1.1\r\n");
        let head = format!("{line}host: ceiling\r\n{fields}content-length: {n}\r\n\r\n");
        stream.write_all(head.as_bytes()).context("send")?;
        stream.write_all(body).context("send")
    }
}

/// Reads an answer with `status` and a body as long as `body`; only the bytes that arrive with the head are
/// copied.
fn answer(stream: &mut Stream, status: u16, body: &mut [u8]) -> Result<()> {
    let (mut head, mut filled) = ([0; 4096], 0);
    let end = loop {
        if let Some(at) = head[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let n = stream.read(&mut head[filled..]).context("receive")?;
        ensure!(n > 0, "the answer ends in its head");
        filled += n;
    };
    let (text, early) = (std::str::from_utf8(&head[..end])?, &head[end..filled]);
    let got: u16 = text.split(' ').nth(1).context("no status")?.parse()?;
    ensure!(got == status, "answered with status {got}, not {status}");
    let mut lengths = text
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: "));
    let length = lengths.next().and_then(|digits| digits.parse().ok());
    let fits = length == Some(body.len()) && early.len() <= body.len();
    ensure!(fits, "answered with a body of another length");
    body[..early.len()].copy_from_slice(early);
    stream.read_exact(&mut body[early.len()..]).context("receive")
}
