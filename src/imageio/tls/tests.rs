//! The stream against rustls's own server, over a socket pair.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    CipherSuiteCommon, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};

use super::*;

const HOST: &str = "host1.example.com";

/// More than one buffer of either side, and no multiple of a record.
const MANY: usize = 700_001;

/// A server's identity and who trusts it.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        Identity {
            certificate: made.cert.der().clone(),
            key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        }
    }

    fn server(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let chain = vec![self.certificate.clone()];
        let config = builder.with_no_client_auth();
        Arc::new(config.with_single_cert(chain, self.key.clone_key()).unwrap())
    }

    /// A client that trusts it and offers `suites`.
    fn client(&self, suites: &[SupportedCipherSuite]) -> Arc<ClientConfig> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites.to_vec(),
            ..ring::default_provider()
        });
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        let versions: Vec<_> = suites.iter().map(|suite| suite.version()).take(1).collect();
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let config = builder.unwrap().with_webpki_verifier(verifier.build().unwrap());
        with_keys(&config.with_no_client_auth())
    }
}

/// The server's side of a connection.
struct Server {
    session: ServerConnection,
    socket: UnixStream,
}

impl Server {
    fn accept(config: Arc<ServerConfig>, mut socket: UnixStream) -> io::Result<Server> {
        let mut session = ServerConnection::new(config).unwrap();
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut socket)?;
        }
        Ok(Server { session, socket })
    }

    fn send(&mut self, data: &[u8]) {
        rustls::Stream::new(&mut self.session, &mut self.socket)
            .write_all(data)
            .unwrap();
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket).unwrap();
        }
    }

    fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        rustls::Stream::new(&mut self.session, &mut self.socket)
            .read_exact(&mut data)
            .unwrap();
        data
    }

    /// Returns the records of `data`, which are not sent.
    fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        self.session.writer().write_all(data).unwrap();
        let mut records = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut records).unwrap();
        }
        records
    }
}

fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (TlsStream, Server) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let accepting = thread::spawn(move || Server::accept(server, theirs).unwrap());
    let stream = TlsStream::handshake(client, HOST, Socket::Unix(ours), || {}).unwrap();
    (stream, accepting.join().unwrap())
}

fn pair() -> (TlsStream, Server) {
    let identity = Identity::new();
    connect(
        identity.server(),
        identity.client(&[ring::cipher_suite::TLS13_AES_256_GCM_SHA384]),
    )
}

/// The suites for which the key of [`Identity`] is good: all of TLS 1.3, and a part of TLS 1.2.
fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let all = ring::ALL_CIPHER_SUITES.iter().copied();
    all.filter(|suite| !format!("{suite:?}").contains("_RSA_"))
}

/// `suite` with keys that are spent after `limit` records.
fn short_lived(suite: SupportedCipherSuite, limit: u64) -> SupportedCipherSuite {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: limit,
    };
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                ..*suite
            })))
        }
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                ..*suite
            })))
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn read(stream: &mut TlsStream, len: usize, at_once: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    for mut part in data.chunks_mut(at_once) {
        while !part.is_empty() {
            let n = stream.read(part).unwrap();
            assert_ne!(n, 0, "the stream has ended");
            part = &mut part[n..];
        }
    }
    data
}

#[test]
fn bytes_arrive_both_ways_in_every_suite() {
    let identity = Identity::new();
    let sent = pattern(MANY);
    let mut tried = 0;
    for suite in suites() {
        let (mut stream, mut server) = connect(identity.server(), identity.client(&[suite]));
        assert_eq!(server.session.negotiated_cipher_suite(), Some(suite));
        for at_once in [1000, 16 << 10, 100_000, MANY] {
            let back = thread::scope(|scope| {
                scope.spawn(|| {
                    let got = server.receive(MANY);
                    server.send(&got);
                });
                for part in sent.chunks(at_once) {
                    stream.write_all(part).unwrap();
                }
                read(&mut stream, MANY, at_once)
            });
            assert!(back == sent, "{suite:?}, {at_once} bytes at once");
            assert!(stream.is_silent(), "{suite:?}");
        }
        tried += 1;
    }
    assert_eq!(tried, 6);
}

/// The kernel hands out what has arrived, which ends anywhere in a record.
#[test]
fn records_may_arrive_in_any_pieces() {
    let sent = pattern(40_000);
    for piece in [1, 4, 5, 6, 1000, 16_405, 16_406, 16_407, 40_000] {
        let (mut stream, mut server) = pair();
        let records = server.seal(&sent);
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in records.chunks(piece) {
                    server.socket.write_all(piece).unwrap();
                }
            });
            assert!(read(&mut stream, sent.len(), 7777) == sent, "pieces of {piece}");
        });
    }
}

/// The server asks for a new key of ours with each one of its own.
#[test]
fn the_server_may_change_keys() {
    let (mut stream, mut server) = pair();
    for round in 0..3 {
        server.session.refresh_traffic_keys().unwrap();
        server.send(b"to you");
        assert_eq!(read(&mut stream, 6, 6), b"to you", "{round}");
        assert!(stream.renew_sealer);
        stream.write_all(b"to me").unwrap();
        assert!(!stream.renew_sealer);
        assert_eq!(server.receive(5), b"to me", "{round}");
    }
}

/// A key that seals more than 2^24 records is less safe: TLS 1.3 goes on with a new one, TLS 1.2 cannot.
#[test]
fn no_key_seals_more_than_is_safe() {
    let identity = Identity::new();
    let sent = pattern(MANY);
    let client = |suite| identity.client(&[short_lived(suite, 5)]);
    let tls13 = client(ring::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let (mut stream, mut server) = connect(identity.server(), tls13);
    let got = thread::scope(|scope| {
        let receiving = scope.spawn(|| server.receive(MANY));
        stream.write_all(&sent).unwrap();
        receiving.join().unwrap()
    });
    assert!(got == sent);
    assert!(stream.sealer.next() <= 5, "{}", stream.sealer.next());
    server.send(b"thanks");
    assert_eq!(read(&mut stream, 6, 6), b"thanks");
    let tls12 = client(ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    let (mut stream, _server) = connect(identity.server(), tls12);
    stream.write_all(b"some").unwrap();
    assert!(stream.write_all(&sent[..100_000]).is_err());
    assert!(stream.write_all(b"more").is_err(), "a part may be missing");
}

#[test]
fn an_answer_is_read_though_the_server_takes_no_more() {
    let (mut stream, mut server) = pair();
    server.send(b"HTTP/1.1 403");
    server.socket.shutdown(Shutdown::Read).unwrap();
    let error = stream.write_all(&pattern(MANY)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(read(&mut stream, 12, 12), b"HTTP/1.1 403");
}

/// Session tickets follow the handshake, and nobody has asked for them.
#[test]
fn a_stream_is_silent_until_data_or_its_end_arrive() {
    let identity = Identity::new();
    let suite = ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
    let connect = || connect(identity.server(), identity.client(&[suite]));
    let (mut stream, mut server) = connect();
    assert!(!stream.socket().is_silent(), "there are tickets");
    assert!(stream.is_silent() && stream.socket().is_silent());
    server.session.refresh_traffic_keys().unwrap();
    server.send(b"");
    assert!(!stream.socket().is_silent() && stream.is_silent());
    server.send(b"unasked");
    assert!(!stream.is_silent() && !stream.is_silent(), "it stays so");
    assert_eq!(read(&mut stream, 7, 3), b"unasked");
    assert!(stream.is_silent());
    drop(server);
    assert!(!stream.is_silent());
    let (mut stream, mut server) = connect();
    server.session.send_close_notify();
    server.send(b"");
    assert!(!stream.is_silent() && !stream.is_silent(), "it stays so");
}

#[test]
fn tickets_resume_a_session() {
    let identity = Identity::new();
    let (server, client) = (
        identity.server(),
        identity.client(&[ring::cipher_suite::TLS13_AES_256_GCM_SHA384]),
    );
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (mut stream, end) = connect(server.clone(), client.clone());
        assert!(stream.is_silent());
        assert_eq!(end.session.handshake_kind(), Some(kind));
    }
}

#[test]
fn a_stream_ends_with_and_without_close_notify() {
    for announced in [false, true] {
        let (mut stream, mut server) = pair();
        server.send(b"last");
        if announced {
            server.session.send_close_notify();
            server.send(b"");
        } else {
            // A part of a record is no data.
            let records = server.seal(b"cut");
            server.socket.write_all(&records[..10]).unwrap();
            drop(server);
        }
        let mut buf = [0; 9];
        assert_eq!(stream.read(&mut buf).unwrap(), 4);
        assert_eq!(
            (stream.read(&mut buf).unwrap(), stream.read(&mut buf).unwrap()),
            (0, 0)
        );
    }
}

/// The bytes before the damage are good, and nothing behind it is.
#[test]
fn a_damaged_record_ends_what_is_read() {
    for place in [0, 1, 3, 5, 20] {
        let (mut stream, mut server) = pair();
        let good = server.seal(b"good");
        let mut bad = server.seal(b"and damaged");
        bad[place] ^= 0x80;
        let more = server.seal(b"more");
        server.socket.write_all(&[good, bad, more].concat()).unwrap();
        drop(server);
        assert_eq!(read(&mut stream, 4, 4), b"good", "{place}");
        for _ in 0..2 {
            let read = stream.read(&mut [0; 20]);
            // A longer record than there are bytes is one that ends early.
            assert!(matches!(read, Err(_) | Ok(0)), "{place}: {read:?}");
        }
    }
}

/// An earlier record with the right key is no less wrong than one of somebody else.
#[test]
fn a_repeated_record_is_refused() {
    let (mut stream, mut server) = pair();
    let record = server.seal(b"once");
    server
        .socket
        .write_all(&[record.clone(), record].concat())
        .unwrap();
    assert_eq!(read(&mut stream, 4, 4), b"once");
    let error = stream.read(&mut [0; 4]).unwrap_err();
    assert!(error.to_string().contains("decrypt"), "{error}");
    assert!(!stream.is_silent());
}

#[test]
fn the_server_learns_why_it_is_not_trusted() {
    let (theirs, other) = (Identity::new(), Identity::new());
    let client = other.client(&[ring::cipher_suite::TLS13_AES_256_GCM_SHA384]);
    let (ours, socket) = UnixStream::pair().unwrap();
    let config = theirs.server();
    let accepting = thread::spawn(move || Server::accept(config, socket).map(drop));
    assert!(TlsStream::handshake(client, HOST, Socket::Unix(ours), || {}).is_err());
    let error = accepting.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("received fatal alert"), "{error}");
}

#[test]
fn a_server_that_hangs_up_in_the_handshake_is_no_server() {
    let identity = Identity::new();
    let client = identity.client(&[ring::cipher_suite::TLS13_AES_256_GCM_SHA384]);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let hanging_up = thread::spawn(move || theirs.read(&mut [0; 1000]).unwrap());
    let error = TlsStream::handshake(client, HOST, Socket::Unix(ours), || {}).unwrap_err();
    assert!(
        format!("{error:?}").contains("closed in the TLS handshake"),
        "{error:?}"
    );
    hanging_up.join().unwrap();
}
