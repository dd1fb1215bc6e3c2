//! Images on a server of these tests, over TCP with and without TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use parking_lot::Mutex;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::imageio::tls::FAR;
use crate::remote::Extent;

/// Upper bound on all waits, far beyond what a busy machine needs.
const LONG: Duration = Duration::from_secs(60);

/// Answers on `stream` as imageio does for disks whose size in bytes is the name of their ticket, after
/// `allowed` for each OPTIONS. Returns the requests when the stream has ended in any way.
fn serve(stream: &mut (impl Read + Write), more: &str, allowed: impl Fn()) -> Vec<&'static str> {
    let mut requests = Vec::new();
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return requests;
            }
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (kind, answer) = match path.split('/').nth(3) {
            Some(_) => {
                let body = r#"[{"start": 0, "length": 4096, "zero": false}]"#;
                ("extents", answer("200 OK", "", body))
            }
            None if request.starts_with("OPTIONS") => {
                allowed();
                let body = format!(r#"{{"features": ["extents", "zero", "flush"]{more}}}"#);
                (
                    "OPTIONS",
                    answer("200 OK", "Allow: OPTIONS,GET,PUT,PATCH\r\n", &body),
                )
            }
            None => {
                let size = path.rsplit('/').next().unwrap_or_default();
                let range = format!("Content-Range: bytes 0-0/{size}\r\n");
                ("size", answer("206 Partial Content", &range, "x"))
            }
        };
        requests.push(kind);
        if stream.write_all(answer.as_bytes()).is_err() {
            return requests;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

fn endpoint(url: TransferUrl, connections: usize) -> Endpoint {
    Endpoint {
        url,
        trust: Trust::Insecure,
        unix_socket: false,
        timeout: LONG,
        connections,
        read_only: true,
        extents: true,
    }
}

#[test]
fn another_size_after_a_renewal_is_another_disk() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || serve(&mut stream, "", || {}));
        }
    });
    let url = move |size: u64| TransferUrl::parse(&format!("http://127.0.0.1:{port}/images/{size}")).unwrap();
    let open = |renewed: u64| {
        let (image, _) = Image::open(&endpoint(url(4096), 1)).unwrap();
        image.renew_with(move |_, _| Some(url(renewed)));
        let lost = RemoteError::Denied(Denial::UnknownTicket, "no such ticket".into());
        assert!(image.renew(0, &lost, Duration::from_secs(60)));
        image
    };
    assert!(open(4096).dial().is_ok());
    for size in [512, 8192] {
        let refused = open(size).dial().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.contains("instead of 4096"), "{size}: {refused}");
    }
}

/// The way in which a server far away treats the connections after the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Serve,
    HangUp,
}

/// The requests of each connection that has ended.
type Ends = Receiver<Vec<&'static str>>;

/// A server over TLS whose first answer takes far longer than [`FAR`], so that a client which waits for the
/// processor sees that, too. It answers the first OPTIONS when `wait` connections have arrived.
fn far_server(more: &'static str, wait: usize, others: Others) -> (TransferUrl, Ends) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ended, ends) = channel();
    let (arrived, arrivals) = channel();
    let arrivals = Arc::new(Mutex::new(arrivals));
    thread::spawn(move || {
        for (number, socket) in listener.incoming().flatten().enumerate() {
            arrived.send(()).unwrap();
            if number > 0 && others == Others::HangUp {
                continue;
            }
            let (config, ended, arrivals) = (config.clone(), ended.clone(), arrivals.clone());
            thread::spawn(move || {
                if number == 0 {
                    thread::sleep(100 * FAR);
                }
                let allowed = || {
                    if number == 0 {
                        (0..wait).for_each(|_| arrivals.lock().recv_timeout(LONG).unwrap());
                    }
                };
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
                let requests = serve(&mut stream, more, allowed);
                let _ = ended.send(requests);
            });
        }
    });
    let url = format!("https://localhost:{port}/images/4096");
    (TransferUrl::parse(&url).unwrap(), ends)
}

fn extents(image: &Image) -> Vec<Extent> {
    let mut found = Vec::new();
    let mut remote = image.dial_to_walk().unwrap();
    remote.extents(&mut |extent| found.push(extent)).unwrap();
    found
}

/// The next `count` connections that end, sorted by their requests.
fn next_ends(ends: &Ends, count: usize) -> Vec<Vec<&'static str>> {
    let mut all: Vec<_> = (0..count).map(|_| ends.recv_timeout(LONG).unwrap()).collect();
    all.sort();
    all
}

/// The server answers the first OPTIONS only when all of them have arrived.
#[test]
fn all_connections_are_begun_with_the_first_one_to_a_server_far_away() {
    let (url, ends) = far_server(r#", "max_readers": 8"#, 5, Others::Serve);
    let (image, client) = Image::open(&endpoint(url, 4)).unwrap();
    let pool: Vec<_> = (0..3).map(|_| image.dial().unwrap()).collect();
    assert_eq!(extents(&image).len(), 1);
    drop((pool, client));
    let (options, first) = (vec!["OPTIONS"], vec!["OPTIONS", "size"]);
    let expected = [
        options.clone(),
        options.clone(),
        options.clone(),
        first,
        vec!["extents"],
    ];
    assert_eq!(next_ends(&ends, 5), expected);
    drop(image.dial().unwrap());
    assert_eq!(
        next_ends(&ends, 1),
        [options],
        "one more is dialled when it is wanted"
    );
}

#[test]
fn connections_that_the_server_does_not_want_end_without_a_request() {
    let (url, ends) = far_server(r#", "max_readers": 1"#, 5, Others::Serve);
    let (_image, _client) = Image::open(&endpoint(url, 4)).unwrap();
    assert_eq!(next_ends(&ends, 4), vec![Vec::<&str>::new(); 4]);
    // This one has no place for the extents, and one for another connection of the pool.
    let (url, ends) = far_server(r#", "max_readers": 2"#, 5, Others::Serve);
    let (image, _client) = Image::open(&endpoint(url, 4)).unwrap();
    assert_eq!(next_ends(&ends, 3), vec![Vec::<&str>::new(); 3]);
    drop(image.dial().unwrap());
    assert_eq!(next_ends(&ends, 1), [["OPTIONS"]]);
}

#[test]
fn a_user_who_wants_one_connection_gets_one_until_the_server_allows_more() {
    let (url, ends) = far_server("", 1, Others::Serve);
    let (_image, client) = Image::open(&endpoint(url, 1)).unwrap();
    drop(client);
    assert_eq!(next_ends(&ends, 1), [["OPTIONS", "size"]]);
    assert!(ends.try_recv().is_err());
}

/// A server that refuses them lets the first one work.
#[test]
fn further_connections_that_fail_do_not_fail_the_first() {
    let (url, _ends) = far_server(r#", "max_readers": 8"#, 5, Others::HangUp);
    let (image, mut client) = Image::open(&endpoint(url, 4)).unwrap();
    assert!(
        image.dial_to_walk().is_err() && image.dial().is_err(),
        "they were tried again"
    );
    assert_eq!(client.size().unwrap(), 4096);
}
