//! The handshake, through rustls, and the keys that come out of it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, ContentType, Error, ExtractedSecrets};

use super::super::error::Broken;
use super::super::socket::Socket;
use super::arrived::Arrived;
use super::unexpected;
use crate::trust::Distrust;

/// Upper bound on a whole handshake. It takes a few packets, and each read of one is bounded by
/// [`CONNECT_TIMEOUT`](super::super::socket::CONNECT_TIMEOUT).
const MAX_HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// The time that a server far away takes for its first answer at least. A server that is nearer loses less by
/// one handshake after the other than by connections that it may not want.
pub(in super::super) const FAR: Duration = Duration::from_millis(10);

/// The outcome of a handshake.
pub(super) struct Agreed {
    /// The bytes that have arrived behind it.
    pub(super) arrived: Arrived,
    pub(super) keys: ExtractedSecrets,
    /// The rest of rustls's connection, which knows the next keys and takes tickets.
    pub(super) session: KernelConnection<ClientConnectionData>,
}

/// Completes the handshake on `socket`; see [`TlsStream::handshake`](super::TlsStream::handshake).
pub(super) fn complete(
    config: Arc<ClientConfig>,
    host: &str,
    socket: &mut Socket,
    far: impl FnOnce(),
) -> Result<Agreed, Broken> {
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|e| Broken::Connect(e.to_string()))?;
    let mut session =
        UnbufferedClientConnection::new(config, name).map_err(|e| Broken::Connect(e.to_string()))?;
    let mut arrived = Arrived::new();
    let mut outgoing = Vec::new();
    let mut far = Some(far);
    let began = Instant::now();
    loop {
        if began.elapsed() > MAX_HANDSHAKE_TIME {
            return Err(Broken::Connect("the TLS handshake takes too long".to_owned()));
        }
        let UnbufferedStatus { discard, state } = session.process_tls_records(arrived.unused());
        let mut is_blocked = false;
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(record)) => encode(record, &mut outgoing),
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                socket.write_all(&std::mem::take(&mut outgoing))
            }
            Ok(ConnectionState::BlockedHandshake) => {
                is_blocked = true;
                Ok(())
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                arrived.use_up(discard);
                break;
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(closed_early()),
            Ok(_) => return Err(refusal(unexpected(ContentType::ApplicationData))),
            Err(e) => {
                arrived.use_up(discard);
                // The alert tells the server the reason; nothing depends on that.
                let alert = session.process_tls_records(arrived.unused()).state;
                if let Ok(ConnectionState::EncodeTlsData(record)) = alert {
                    let _ = encode(record, &mut outgoing).and_then(|()| socket.write_all(&outgoing));
                }
                return Err(refusal(e));
            }
        };
        arrived.use_up(discard);
        if let Some(far) = far.take_if(|_| is_blocked)
            && !socket.is_readable_within(FAR)
        {
            far();
        }
        let step = step.and_then(|()| match is_blocked && arrived.fill(socket)? == 0 {
            true => Err(closed_early()),
            false => Ok(()),
        });
        step.map_err(|e| Broken::handshake(&e))?;
    }
    let (keys, session) = session.dangerous_into_kernel_connection().map_err(refusal)?;
    Ok(Agreed {
        arrived,
        keys,
        session,
    })
}

/// The error of a handshake that failed with `e`.
pub(super) fn refusal(e: Error) -> Broken {
    match Distrust::in_error(&e) {
        Some(distrust) => Broken::Trust(distrust),
        None => Broken::Connect(format!("TLS: {e}")),
    }
}

/// Puts `record` behind what is in `outgoing`.
fn encode(mut record: EncodeTlsData<'_, ClientConnectionData>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let before = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(before + room, 0);
        match record.encode(&mut outgoing[before..]) {
            Ok(len) => {
                outgoing.truncate(before + len);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(e) => return Err(io::Error::other(e)),
        }
    }
}

fn closed_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed in the TLS handshake")
}
