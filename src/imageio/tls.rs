//! TLS to imageio: a stream whose two directions fail independently.
//!
//! The server refuses early (403 while the body is still on its way) by answering and closing. Our next write
//! then fails although the answer is already in the receive buffer. The stream that rustls offers insists on
//! writing before it reads, so [`TlsStream`] drives the two directions itself. imageio never sends
//! close_notify: its streams end with a plain EOF.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::error::Broken;
use super::socket::{IO_TIMEOUT, Socket};
use crate::trust::Distrust;

/// Size of one read from the socket. rustls alone reads 4 KiB at a time (measured: 1.85 GiB/s with this
/// buffer, 1.44 GiB/s without).
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Upper bound on the bytes that are encrypted before they are sent. It fits all that ureq asks for at
/// once, so these go out in one system call instead of one per 16 KiB record.
const WRITE_BUFFER_BYTES: usize = 160 * 1024;

/// Upper bound on the reads of records that carry no data, between two requests.
const MAX_UNASKED_READS: u32 = 16;

/// Upper bound on a whole handshake. It takes a few packets, and each read of one is bounded by
/// [`CONNECT_TIMEOUT`](super::socket::CONNECT_TIMEOUT).
const MAX_HANDSHAKE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct TlsStream {
    session: ClientConnection,
    socket: BufReader<Socket>,
}

impl TlsStream {
    /// Completes the handshake. `host` is checked against the certificate. The handshake must not be delayed:
    /// imageio does it inside its accept loop, and serves nobody else meanwhile.
    pub(super) fn handshake(config: Arc<ClientConfig>, host: &str, socket: Socket) -> Result<Self, Broken> {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|e| Broken::Connect(e.to_string()))?;
        let mut session = ClientConnection::new(config, name).map_err(|e| Broken::Connect(e.to_string()))?;
        let mut socket = BufReader::with_capacity(READ_BUFFER_BYTES, socket);
        let began = Instant::now();
        while session.is_handshaking() {
            if began.elapsed() > MAX_HANDSHAKE_TIME {
                return Err(Broken::Connect("the TLS handshake takes too long".to_owned()));
            }
            let step = if session.wants_write() {
                session.write_tls(socket.get_mut()).map(|_| ())
            } else {
                session.read_tls(&mut socket).and_then(|n| match n {
                    0 => Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "closed in the TLS handshake",
                    )),
                    _ => Ok(()),
                })
            };
            step.map_err(|e| Broken::handshake(&e))?;
            session.process_new_packets().map_err(|e| {
                // The alert tells the server the reason; nothing depends on that.
                let _ = session.write_tls(socket.get_mut());
                match Distrust::in_error(&e) {
                    Some(distrust) => Broken::Trust(distrust),
                    None => Broken::Connect(format!("TLS: {e}")),
                }
            })?;
        }
        session.set_buffer_limit(Some(WRITE_BUFFER_BYTES));
        let mut stream = TlsStream { session, socket };
        stream
            .send_pending()
            .map_err(|e| Broken::Connect(e.to_string()))?;
        Ok(stream)
    }

    pub(super) fn socket(&self) -> &Socket {
        self.socket.get_ref()
    }

    /// True when no data has arrived that was not read, and neither the end of the stream. Records of TLS
    /// itself (session tickets follow a handshake) are taken in.
    pub(super) fn is_silent(&mut self) -> bool {
        for _ in 0..MAX_UNASKED_READS {
            match self.session.process_new_packets() {
                Ok(state) if !state.peer_has_closed() && state.plaintext_bytes_to_read() == 0 => {}
                _ => return false,
            }
            if self.socket.buffer().is_empty() && self.socket.get_ref().is_silent() {
                return true;
            }
            // Something is there, so this does not block.
            if !matches!(self.session.read_tls(&mut self.socket), Ok(1..)) {
                return false;
            }
        }
        false
    }

    fn send_pending(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(self.socket.get_mut())?;
        }
        Ok(())
    }

    /// Encrypts and sends all of `data`.
    pub(super) fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let taken = self.session.writer().write(data)?;
            self.send_pending()?;
            data = &data[taken..];
        }
        Ok(())
    }

    /// Reads at least one byte; returns 0 at the end of the stream.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut began = None;
        loop {
            match self.session.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            self.session.process_new_packets().map_err(io::Error::other)?;
            // rustls would accept records without data, or bytes that never complete a record, for ever.
            if began.get_or_insert_with(Instant::now).elapsed() > IO_TIMEOUT {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
        }
    }
}
