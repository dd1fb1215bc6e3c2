//! How ureq reaches the engine: by TCP to any address of its name, through the proxy of the environment if
//! there is one, and with TLS by this program's own verifier.
//!
//! ureq itself tries one address after the other, and takes no verifier. Its proxy connector stays: it asks
//! this chain for the connection to the proxy.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    Transport, TransportAdapter,
};
use ureq::{Agent, Error};

use crate::addresses::connect_to_any;

/// Upper bound on a connect to all addresses of the engine.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns an agent that connects as described above. IPv6 addresses of one network only are looked for at
/// the interface `scope`.
pub(super) fn agent(config: Config, tls: Arc<ClientConfig>, scope: Option<u32>) -> Agent {
    let connector = ().chain(ConnectProxyConnector::default()).chain(Tcp).chain(Tls(tls));
    let resolver = Scoped {
        resolver: DefaultResolver::default(),
        scope,
    };
    Agent::with_parts(config, connector, resolver)
}

/// Resolves names, and gives the addresses of one network only their scope.
#[derive(Debug)]
struct Scoped {
    resolver: DefaultResolver,
    scope: Option<u32>,
}

impl Resolver for Scoped {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.resolver.resolve(uri, config, timeout)?;
        if let Some(scope) = self.scope {
            for address in addresses.iter_mut() {
                match address {
                    SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.set_scope_id(scope),
                    _ => {}
                }
            }
        }
        Ok(addresses)
    }
}

/// Connects by TCP, unless there is a way through a proxy already.
#[derive(Debug)]
struct Tcp;

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Socket>;

    fn connect(&self, details: &ConnectionDetails, before: Option<In>) -> Result<Option<Self::Out>, Error> {
        if let Some(proxied) = before {
            return Ok(Some(Either::A(proxied)));
        }
        let name = details.uri.authority().map_or("", |authority| authority.as_str());
        let limit = details.timeout.not_zero().map_or(CONNECT_TIMEOUT, |limit| *limit);
        let stream = connect_to_any(name, &details.addrs, limit.min(CONNECT_TIMEOUT));
        let stream = stream.map_err(|e| match io::Error::from(e) {
            // Nothing was sent, which the kind of an I/O error would not say.
            e if e.kind() == ErrorKind::TimedOut => Error::Timeout(ureq::Timeout::Connect),
            e => e.into(),
        })?;
        stream.set_nodelay(true)?;
        let config = details.config;
        Ok(Some(Either::B(Socket {
            stream,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
        })))
    }
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = within(timeout.for_write())?;
        self.stream
            .set_write_timeout(timeout.not_zero().map(|limit| *limit))?;
        let sent = self.stream.write_all(&self.buffers.output()[..amount]);
        sent.map_err(|error| late(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = within(timeout.for_read())?;
        let limit = timeout.not_zero().map(|limit| *limit);
        let began = Instant::now();
        let input = self.buffers.input_append_buf();
        let received = loop {
            // A signal may interrupt a read with a timeout.
            let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::Timeout(timeout.reason));
            }
            self.stream.set_read_timeout(left)?;
            match self.stream.read(input) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other.map_err(|error| late(error, timeout))?,
            }
        };
        self.buffers.input_appended(received);
        Ok(received > 0)
    }

    /// A connection that the engine has closed has an end to read, and one with bytes to read is out of step.
    fn is_open(&mut self) -> bool {
        let probe = |stream: &TcpStream| -> io::Result<usize> {
            stream.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            seen
        };
        probe(&self.stream).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

fn within(timeout: NextTimeout) -> Result<NextTimeout, Error> {
    match timeout.after.is_zero() {
        true => Err(Error::Timeout(timeout.reason)),
        false => Ok(timeout),
    }
}

fn late(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

/// Encrypts the connections of https URLs.
struct Tls(Arc<ClientConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsSocket>;

    fn connect(&self, details: &ConnectionDetails, before: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(plain) = before else { return Ok(None) };
        // The connection to a proxy may have its own TLS; what goes through it is encrypted once more.
        if !details.needs_tls() || plain.is_tls() {
            return Ok(Some(Either::A(plain)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        let mut socket = TransportAdapter::new(plain.boxed(), details.current_time.clone());
        socket.set_timeout(details.timeout);
        session.complete_io(&mut socket)?;
        let config = details.config;
        Ok(Some(Either::B(TlsSocket {
            stream: StreamOwned::new(session, socket),
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
        })))
    }
}

struct TlsSocket {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    buffers: LazyBuffers,
}

impl std::fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSocket")
    }
}

impl Transport for TlsSocket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(self.stream.flush()?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let received = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(received);
        Ok(received > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
