//! The ceiling in the benchmark's table: what this machine and this daemon can do with nothing in between.
//!
//! N threads, each with one connection of its own and one buffer, take the next range from a counter and move it with
//! hand-written HTTP: no FUSE, no HTTP library, no copy but the socket's. `put` reads the source file and flushes every
//! connection at the end; `get` writes what it reads to the output file.
//!
//! ```text
//! ceiling put|get URL --cafile PATH|--plain [--unix SOCKET] --connections N --request BYTES
//!         --ranges FILE (lines of START LENGTH) --source FILE | --output FILE
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A smaller one makes rustls read 4 KiB at a time.
const READ_BUFFER: usize = 256 << 10;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Job {
    put: bool,
    address: String,
    path: String,
    tls: Option<Arc<ClientConfig>>,
    unix: Option<String>,
    file: File,
    requests: Vec<(u64, u64)>,
    next: AtomicUsize,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (verb, url) = (
        args.next().context("put or get?")?,
        args.next().context("which URL?")?,
    );
    let mut options = HashMap::new();
    while let Some(name) = args.next() {
        let value = if name == "--plain" {
            String::new()
        } else {
            args.next().context("an option without a value")?
        };
        options.insert(name, value);
    }
    let option = |name: &str| options.get(name).with_context(|| format!("{name} is missing"));
    let (connections, request) = (option("--connections")?.parse()?, option("--request")?.parse()?);
    let job = Job {
        put: verb == "put",
        address: url.split('/').nth(2).context("a URL without a host")?.to_owned(),
        path: url
            .splitn(4, '/')
            .nth(3)
            .context("a URL without a path")?
            .to_owned(),
        tls: options
            .get("--cafile")
            .filter(|_| url.starts_with("https"))
            .map(|path| trust(path))
            .transpose()?,
        unix: options.get("--unix").cloned(),
        file: if verb == "put" {
            File::open(option("--source")?)?
        } else {
            File::create(option("--output")?)?
        },
        requests: cut(&std::fs::read_to_string(option("--ranges")?)?, request)?,
        next: AtomicUsize::new(0),
    };
    let begun = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..connections)
            .map(|_: usize| scope.spawn(|| job.work(request)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let (seconds, bytes) = (
        begun.elapsed().as_secs_f64(),
        job.requests.iter().map(|&(_, n)| n).sum::<u64>(),
    );
    println!(
        r#"{{"bytes": {bytes}, "seconds": {seconds:.6}, "requests": {}}}"#,
        job.requests.len()
    );
    Ok(())
}

fn trust(cafile: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(cafile)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// The extents, as requests of at most `most` bytes.
fn cut(ranges: &str, most: u64) -> Result<Vec<(u64, u64)>> {
    let mut requests = Vec::new();
    for line in ranges.lines() {
        let (start, length) = line.split_once(' ').context("a range without a length")?;
        let (mut start, mut left): (u64, u64) = (start.parse()?, length.parse()?);
        while left > 0 {
            let n = left.min(most);
            requests.push((start, n));
            (start, left) = (start + n, left - n);
        }
    }
    Ok(requests)
}

impl Job {
    fn connect(&self) -> Result<BufReader<Box<dyn Stream>>> {
        let stream: Box<dyn Stream> = match (&self.unix, &self.tls) {
            (Some(path), _) => Box::new(UnixStream::connect(path)?),
            (None, None) => Box::new(self.tcp()?),
            (None, Some(config)) => {
                let host = self
                    .address
                    .rsplit_once(':')
                    .map_or(&*self.address, |(host, _)| host);
                let session = ClientConnection::new(config.clone(), ServerName::try_from(host.to_owned())?)?;
                Box::new(StreamOwned::new(
                    session,
                    Buffered(BufReader::with_capacity(READ_BUFFER, self.tcp()?)),
                ))
            }
        };
        Ok(BufReader::with_capacity(READ_BUFFER, stream))
    }

    fn tcp(&self) -> Result<TcpStream> {
        let socket = TcpStream::connect(&self.address)?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    fn work(&self, most: u64) -> Result<()> {
        let (mut connection, mut buffer) = (self.connect()?, vec![0; most as usize]);
        while let Some(&(start, n)) = self.requests.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let (buffer, last) = (&mut buffer[..n as usize], start + n - 1);
            if self.put {
                self.file.read_exact_at(buffer, start)?;
                self.send(
                    &mut connection,
                    "PUT",
                    "?flush=n",
                    &format!("content-range: bytes {start}-{last}/*\r\ncontent-length: {n}\r\n"),
                )?;
                connection.get_mut().write_all(buffer)?;
                self.answer(&mut connection, "200", 0)?;
            } else {
                self.send(
                    &mut connection,
                    "GET",
                    "",
                    &format!("range: bytes={start}-{last}\r\n"),
                )?;
                self.answer(&mut connection, "206", n)?;
                connection.read_exact(buffer)?;
                self.file.write_all_at(buffer, start)?;
            }
        }
        if self.put {
            let flush = r#"{"op": "flush"}"#;
            self.send(
                &mut connection,
                "PATCH",
                "",
                &format!("content-length: {}\r\n", flush.len()),
            )?;
            connection.get_mut().write_all(flush.as_bytes())?;
            self.answer(&mut connection, "200", 0)?;
        }
        Ok(())
    }

    fn send(
        &self,
        to: &mut BufReader<Box<dyn Stream>>,
        verb: &str,
        query: &str,
        headers: &str,
    ) -> Result<()> {
        let head = format!(
            "{verb} /{}{query} HTTP/1.1\r\nhost: ceiling\r\n{headers}\r\n",
            self.path
        );
        Ok(to.get_mut().write_all(head.as_bytes())?)
    }

    /// Reads the head of an answer, up to its body of `length` bytes.
    fn answer(&self, from: &mut BufReader<Box<dyn Stream>>, status: &str, length: u64) -> Result<()> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let got = line.split(' ').nth(1).unwrap_or_default().to_owned();
        if got != status {
            bail!("the server answers {got:?}, not {status}");
        }
        loop {
            line.clear();
            from.read_line(&mut line)?;
            if let Some(value) = line.strip_prefix("content-length:") {
                ensure!(
                    value.trim().parse() == Ok(length),
                    "another length than asked for"
                );
            }
            if line.trim().is_empty() {
                return Ok(());
            }
        }
    }
}

/// Reads through a buffer, writes past it.
struct Buffered(BufReader<TcpStream>);

impl Read for Buffered {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Buffered {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.get_mut().write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
