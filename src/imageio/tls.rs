//! TLS to imageio: a stream whose two directions fail independently, and which moves each byte little.
//!
//! The server refuses early (403 while the body is still on its way) by answering and closing. Our next write
//! then fails although the answer is already in the receive buffer. The streams that rustls offers insist on
//! writing before they read, so [`TlsStream`] drives the two directions itself. imageio never sends
//! close_notify: its streams end with a plain EOF.
//!
//! rustls makes the handshake and hands over its keys; it goes on to take the session tickets and to derive
//! the next keys. The records are sealed and opened here (`records`), with rustls's ciphers: a record is
//! opened in the buffer that the socket was read into (`arrived`) and copied once, to where its bytes belong.
//! Through rustls each one went through two buffers more, which grew and shrank by 4 KiB for each record.
//!
//! One thread at a time has the stream (`line`), and both directions block, within the socket's timeouts.

mod arrived;
mod handshake;
mod records;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ClientConfig, ContentType, Error, HandshakeType, InvalidMessage, ProtocolVersion,
};

use self::arrived::Arrived;
#[cfg(test)]
pub(super) use self::handshake::FAR;
use self::handshake::{Agreed, refusal};
use self::records::{MAX_PLAIN_BYTES, Opener, Sealer, complete_record};
use super::error::Broken;
use super::socket::{IO_TIMEOUT, Socket};

/// Number of full records that are sealed before they are sent, with one system call. They hold all that
/// ureq asks for at once.
const RECORDS_AT_ONCE: usize = 8;

/// Upper bound on the reads of records that carry no data, between two requests.
const MAX_UNASKED_READS: u32 = 16;

/// Upper bound on a handshake message after the handshake. rustls has the same.
const MAX_MESSAGE_BYTES: usize = 0xffff;

/// The record that tells the server that the next one has a new key, which it need not do itself.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

pub(super) struct TlsStream {
    socket: Socket,
    arrived: Arrived,
    /// The place in `arrived` of bytes that were opened and not read yet.
    plain: Range<usize>,
    opener: Opener,
    sealer: Sealer,
    /// The rest of rustls's connection, which knows the next keys.
    session: KernelConnection<ClientConnectionData>,
    /// The beginning of a handshake message that more than one record has.
    message: Vec<u8>,
    /// The next record must have a new key: the server has asked for that.
    renew_sealer: bool,
    /// The server has said that it sends no more.
    closed: bool,
    /// The reason why nothing more can be read.
    unreadable: Option<Error>,
    /// A record may have been sent in part, so nothing may follow.
    cut: bool,
}

/// Leaves out keys and contents.
impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("closed", &self.closed)
            .field("unreadable", &self.unreadable)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

/// Returns `config` for a [`TlsStream`], which needs the keys.
pub(super) fn with_keys(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// The next thing in a stream.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Bytes of the server are in `plain`.
    Data,
    /// A record of TLS itself, or one without bytes, was taken in.
    Nothing,
    /// No complete record has arrived.
    Incomplete,
    /// The server sends no more.
    End,
}

impl TlsStream {
    /// Completes the handshake, with a configuration [`with_keys`]. `host` is checked against the
    /// certificate. `far` is called if the server's first bytes take [`FAR`](handshake::FAR) or longer. The
    /// handshake must not be delayed: imageio does it inside its accept loop, and serves nobody else
    /// meanwhile.
    pub(super) fn handshake(
        config: Arc<ClientConfig>,
        host: &str,
        mut socket: Socket,
        far: impl FnOnce(),
    ) -> Result<Self, Broken> {
        let Agreed {
            arrived,
            keys,
            session,
        } = handshake::complete(config, host, &mut socket, far)?;
        let suite = session.negotiated_cipher_suite();
        Ok(TlsStream {
            socket,
            arrived,
            plain: 0..0,
            opener: Opener::new(suite, keys.rx).map_err(refusal)?,
            sealer: Sealer::new(suite, keys.tx).map_err(refusal)?,
            session,
            message: Vec::new(),
            renew_sealer: false,
            closed: false,
            unreadable: None,
            cut: false,
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// True when no data has arrived that was not read, and neither the end of the stream. Records of TLS
    /// itself (session tickets follow a handshake) are taken in.
    pub(super) fn is_silent(&mut self) -> bool {
        for _ in 0..MAX_UNASKED_READS {
            loop {
                match self.next() {
                    Ok(Next::Nothing) => {}
                    Ok(Next::Incomplete) => break,
                    Ok(Next::Data | Next::End) | Err(_) => return false,
                }
            }
            if self.socket.is_silent() {
                return true;
            }
            // Something is there, so this does not block.
            if !matches!(self.arrived.fill(&mut self.socket), Ok(1..)) {
                return false;
            }
        }
        false
    }

    /// Seals and sends all of `data`.
    pub(super) fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        for some in data.chunks(RECORDS_AT_ONCE * MAX_PLAIN_BYTES) {
            if std::mem::replace(&mut self.cut, true) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let mut records = Vec::with_capacity(RECORDS_AT_ONCE + 1);
            for plain in some.chunks(MAX_PLAIN_BYTES) {
                if self.renew_sealer || self.sealer.is_spent() {
                    records.push(self.update_sealer().map_err(io::Error::other)?);
                }
                let record = self.sealer.seal(ContentType::ApplicationData, plain);
                records.push(record.map_err(io::Error::other)?);
            }
            self.send(&records)?;
            self.cut = false;
        }
        Ok(())
    }

    fn send(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let mut slices: Vec<_> = records.iter().map(|record| IoSlice::new(record)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match self.socket.write_vectored(left)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => IoSlice::advance_slices(&mut left, n),
            }
        }
        Ok(())
    }

    /// Takes a new key for what is sent; returns the record that says so, under the old one. TLS 1.2 has no
    /// such thing: it is an error there, and the connection ends.
    fn update_sealer(&mut self) -> Result<Vec<u8>, Error> {
        let keys = self.session.update_tx_secret()?;
        let record = self.sealer.seal(ContentType::Handshake, &KEY_UPDATE)?;
        self.sealer = Sealer::new(self.session.negotiated_cipher_suite(), keys)?;
        self.renew_sealer = false;
        Ok(record)
    }

    /// Reads at least one byte, and as many as have arrived; returns 0 at the end of the stream.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut began = None;
        let mut filled = 0;
        loop {
            match self.next() {
                Ok(Next::Data) => {
                    let n = self.plain.len().min(buf.len() - filled);
                    let from = self.plain.start;
                    buf[filled..filled + n].copy_from_slice(&self.arrived.whole()[from..from + n]);
                    self.plain.start += n;
                    filled += n;
                    if filled == buf.len() {
                        return Ok(filled);
                    }
                    continue;
                }
                // The next read finds again what stands in the way now.
                _ if filled > 0 => return Ok(filled),
                Ok(Next::Nothing) => {}
                Ok(Next::Incomplete) => {
                    if self.arrived.fill(&mut self.socket)? == 0 {
                        return Ok(0);
                    }
                }
                Ok(Next::End) => return Ok(0),
                Err(e) => return Err(io::Error::other(e)),
            }
            // The server could send records without data, or bytes that never complete a record, for ever.
            if began.get_or_insert_with(Instant::now).elapsed() > IO_TIMEOUT {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
        }
    }

    /// Returns what comes next, opening at most one record, and never blocks.
    fn next(&mut self) -> Result<Next, Error> {
        if !self.plain.is_empty() {
            return Ok(Next::Data);
        }
        if let Some(e) = &self.unreadable {
            return Err(e.clone());
        }
        if self.closed {
            return Ok(Next::End);
        }
        self.open_next()
            .inspect_err(|e| self.unreadable = Some(e.clone()))
    }

    fn open_next(&mut self) -> Result<Next, Error> {
        let Some(len) = complete_record(self.arrived.unused())? else {
            return Ok(Next::Incomplete);
        };
        let at = self.arrived.start();
        let (kind, place) = self.opener.open(&mut self.arrived.unused()[..len])?;
        self.arrived.use_up(len);
        let place = at + place.start..at + place.end;
        match kind {
            ContentType::ApplicationData if self.message.is_empty() => self.plain = place,
            ContentType::Handshake => {
                self.message.extend_from_slice(&self.arrived.whole()[place]);
                self.take_messages()?;
            }
            ContentType::Alert => self.take_alert(place)?,
            other => return Err(unexpected(other)),
        }
        match (self.plain.is_empty(), self.closed) {
            (false, _) => Ok(Next::Data),
            (true, true) => Ok(Next::End),
            (true, false) => Ok(Next::Nothing),
        }
    }

    /// Takes in the complete messages of the server's TLS after the handshake.
    fn take_messages(&mut self) -> Result<(), Error> {
        let message = std::mem::take(&mut self.message);
        let mut rest = &message[..];
        while let [kind, a, b, c, after @ ..] = rest {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if len > MAX_MESSAGE_BYTES {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some((body, after)) = after.split_at_checked(len) else {
                break;
            };
            rest = after;
            let is_tls13 = self.session.protocol_version() == ProtocolVersion::TLSv1_3;
            match HandshakeType::from(*kind) {
                HandshakeType::NewSessionTicket if is_tls13 => {
                    self.session.handle_new_session_ticket(body)?;
                }
                // It has new keys from the next record on, so it must be the last message of this one.
                HandshakeType::KeyUpdate if is_tls13 && rest.is_empty() => {
                    self.renew_sealer |= match body {
                        [0] => false,
                        [1] => true,
                        _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                    };
                    let keys = self.session.update_rx_secret()?;
                    self.opener = Opener::new(self.session.negotiated_cipher_suite(), keys)?;
                }
                _ => return Err(unexpected(ContentType::Handshake)),
            }
        }
        self.message = rest.to_vec();
        Ok(())
    }

    fn take_alert(&mut self, place: Range<usize>) -> Result<(), Error> {
        let [level, reason] = self.arrived.whole()[place] else {
            return Err(InvalidMessage::MissingData("alert").into());
        };
        let is_warning = level == 1;
        match AlertDescription::from(reason) {
            AlertDescription::CloseNotify => self.closed = true,
            AlertDescription::UserCanceled if is_warning => {}
            _ if is_warning && self.session.protocol_version() == ProtocolVersion::TLSv1_2 => {}
            other => return Err(Error::AlertReceived(other)),
        }
        Ok(())
    }
}

fn unexpected(got: ContentType) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: got,
    }
}
