//! Tests of the test server: if it broke its own promises, a passing test of the mount would prove nothing.

use crate::rig::{TICKET, pattern};
use crate::server::{Action, Fault, Server, Settings, Verb};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, getsockname, sendmsg};
use std::io::{BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

struct Client {
    stream: BufReader<TcpStream>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Client {
    fn new(server: &Server) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, head: &str, body: &[u8]) {
        let (method, rest) = head.split_once(' ').unwrap();
        let (target, headers) = rest.split_once(' ').unwrap_or((rest, ""));
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let headers = if headers.is_empty() {
            String::new()
        } else {
            format!("{headers}\r\n")
        };
        let text = format!("{method} /images/{TICKET}{target} HTTP/1.1\r\n{headers}{length}\r\n");
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
        self.stream.get_mut().write_all(body).unwrap();
    }

    fn receive(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap_or("0");
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, head, body })
    }

    fn ask(&mut self, head: &str, body: &[u8]) -> Answer {
        self.send(head, body);
        self.receive().unwrap()
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let last = offset + bytes.len() as u64 - 1;
        let answer = self.ask(
            &format!("PUT ?flush=n Content-Range: bytes {offset}-{last}/*"),
            bytes,
        );
        assert_eq!(answer.status, 200);
    }

    fn flush(&mut self) {
        assert_eq!(self.ask("PATCH ", br#"{"op": "flush"}"#).status, 200);
    }
}

fn server() -> Server {
    Server::start(Settings::new(SIZE, TICKET))
}

#[test]
fn a_write_is_visible_at_once_and_durable_after_a_flush_of_its_own_connection_only() {
    let server = server();
    let (mut writer, mut other) = (Client::new(&server), Client::new(&server));
    let bytes = pattern(1, 5000);
    writer.put(100, &bytes);
    other.flush();
    let got = other.ask("GET  Range: bytes=100-5099", b"");
    assert_eq!((got.status, &got.body), (206, &bytes));
    assert!(
        got.head
            .contains(&format!("content-range: bytes 100-5099/{SIZE}\r\n")),
        "{}",
        got.head
    );
    assert_eq!(server.unflushed(), [(1, 100..5100)]);
    assert_eq!(server.read_durable(100..5100), vec![0; 5000]);
    writer.flush();
    assert_eq!(server.unflushed(), []);
    assert_eq!(server.read_durable(100..5100), bytes);
}

#[test]
fn a_closed_connection_leaves_its_writes_unflushed_for_ever() {
    let server = server();
    let mut writer = Client::new(&server);
    writer.put(0, &pattern(1, 4096));
    server.cut(&[1]);
    Client::new(&server).flush();
    assert_eq!(server.unflushed(), [(1, 0..4096)]);
    assert_eq!(server.read_durable(0..4096), vec![0; 4096]);
}

#[test]
fn bytes_that_another_connection_overwrites_are_evicted_and_the_rest_stays_unflushed() {
    let server = server();
    let (mut first, mut second) = (Client::new(&server), Client::new(&server));
    let (old, new) = (pattern(1, 3000), pattern(2, 1000));
    first.put(0, &old);
    second.put(1000, &new);
    let mut unflushed = server.unflushed();
    unflushed.sort_by_key(|(_, range)| range.start);
    assert_eq!(unflushed, [(1, 0..1000), (2, 1000..2000), (1, 2000..3000)]);
    assert_eq!(server.read_durable(1000..2000), old[1000..2000]);
    first.flush();
    second.flush();
    assert_eq!(
        server.read_durable(0..3000),
        [&old[..1000], &new, &old[2000..]].concat()
    );
}

#[test]
fn two_writes_at_once_in_one_block_are_a_violation_and_in_two_blocks_are_none() {
    let server = server();
    // The second request has so much time to arrive before the first one is answered.
    server.change(|settings| settings.put_delay = Duration::from_secs(3));
    let at_once = |offsets: [u64; 2]| {
        let mut clients: Vec<Client> = offsets.iter().map(|_| Client::new(&server)).collect();
        for (client, offset) in clients.iter_mut().zip(offsets) {
            client.send(
                &format!("PUT ?flush=n Content-Range: bytes {offset}-{}/*", offset + 511),
                &[1; 512],
            );
        }
        clients
            .iter_mut()
            .for_each(|client| assert_eq!(client.receive().unwrap().status, 200));
    };
    at_once([0, 4096]);
    assert_eq!(server.violations(), Vec::<String>::new());
    assert_eq!(server.most_at_once(Verb::Put), 2);
    at_once([0, 512]);
    assert_eq!(server.violations().len(), 1);
}

#[test]
fn options_and_extents_describe_the_disk_as_imageio_does() {
    let server = server();
    server.preset(65536, &[7; 65536]);
    let mut client = Client::new(&server);
    let options: serde_json::Value = serde_json::from_slice(&client.ask("OPTIONS ", b"").body).unwrap();
    assert_eq!(
        options["features"],
        serde_json::json!(["checksum", "extents", "flush", "zero"])
    );
    assert_eq!(options["max_writers"], 8);
    let extents: serde_json::Value = serde_json::from_slice(&client.ask("GET /extents", b"").body).unwrap();
    let expected = serde_json::json!([
        {"start": 0, "length": 65536, "zero": true, "hole": true},
        {"start": 65536, "length": 65536, "zero": false, "hole": false},
        {"start": 131072, "length": SIZE - 131072, "zero": true, "hole": true},
    ]);
    assert_eq!(extents, expected);
    let zeroed = client.ask("PATCH ", br#"{"op": "zero", "offset": 65600, "size": 100}"#);
    assert_eq!(zeroed.status, 200);
    let got = client.ask("GET  Range: bytes=65599-65700", b"").body;
    assert_eq!(got, [&[7][..], &[0; 100], &[7]].concat());
}

#[test]
fn wrong_ranges_and_read_only_tickets_are_refused_as_imageio_refuses_them() {
    let server = server();
    let mut client = Client::new(&server);
    assert_eq!(
        client.ask(&format!("GET  Range: bytes=0-{SIZE}"), b"").status,
        416
    );
    assert_eq!(client.ask("GET  Range: bytes=-8", b"").status, 416);
    assert_eq!(client.ask("GET  Range: bytes=0-0", b"").status, 206);
    server.change(|settings| settings.read_only = true);
    let refused = client.ask("PATCH ", br#"{"op": "flush"}"#);
    assert_eq!(refused.status, 403);
    assert!(refused.head.contains("connection: close\r\n"), "{}", refused.head);
    assert!(client.receive().is_err());
    let mut unknown = Client::new(&server);
    server.change(|settings| settings.revoked = true);
    let refused = unknown.ask("GET  Range: bytes=0-0", b"");
    assert_eq!(refused.status, 403);
    assert!(String::from_utf8_lossy(&refused.body).contains(TICKET));
}

#[test]
fn an_early_answer_can_be_read_after_the_write_failed() {
    let server = server();
    server.change(|settings| settings.size = 64 << 20);
    server.arm(Fault::next(
        Verb::Put,
        Action::EarlyStatus(403, "the transfer was canceled"),
    ));
    let mut client = Client::new(&server);
    let length = 64 << 20;
    let text = format!("PUT /images/{TICKET}?flush=n HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    client.stream.get_mut().write_all(text.as_bytes()).unwrap();
    let sent = (0..64).try_for_each(|_| client.stream.get_mut().write_all(&vec![1; 1 << 20]));
    assert!(sent.is_err(), "the server took the whole body");
    let answer = client.receive().unwrap();
    assert_eq!(
        (answer.status, answer.body),
        (403, b"the transfer was canceled\n".to_vec())
    );
}

#[test]
fn faults_hit_the_request_they_are_armed_for() {
    let server = server();
    let mut client = Client::new(&server);
    server.arm(Fault::next(Verb::Get, Action::Status(500, "broken")).after(1));
    let get = "GET  Range: bytes=0-99";
    let statuses: Vec<u16> = (0..3).map(|_| client.ask(get, b"").status).collect();
    assert_eq!(statuses, [206, 500, 206]);

    server.arm(Fault::next(Verb::Get, Action::CloseMidBody));
    client.send(get, b"");
    assert_eq!(
        client.receive().map(|answer| answer.status).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );

    let mut client = Client::new(&server);
    server.arm(Fault::next(Verb::Put, Action::CloseBeforeReply));
    client.send("PUT ?flush=n Content-Range: bytes 0-3/*", b"kept");
    assert!(client.receive().is_err());
    assert_eq!(server.visible().read(0..4), b"kept");

    let mut client = Client::new(&server);
    server.arm(Fault::next(Verb::Get, Action::WrongContentRange).touching(50));
    assert!(
        client
            .ask("GET  Range: bytes=60-99", b"")
            .head
            .contains("content-range: bytes 60-99/")
    );
    assert!(
        client
            .ask(get, b"")
            .head
            .contains("content-range: bytes 4096-4195/")
    );
    assert_eq!(server.faults_fired(), 4);
}

#[test]
fn silent_connections_are_dropped_after_the_idle_limit() {
    let server = server();
    server.change(|settings| settings.idle_limit = Duration::from_secs(3));
    let mut client = Client::new(&server);
    assert_eq!(client.ask("OPTIONS ", b"").status, 200);
    assert_eq!(
        client.receive().map(|answer| answer.status).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(server.idle_drops(), 1);
}

/// Keeps every socket of this process with the server's port open until the returned ends are dropped, as a
/// program does that has just been started with copies of them: they are on their way in a message.
fn copies_of_sockets(port: u16) -> [UnixStream; 2] {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let fds = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let is_of_port = |address: SockaddrIn| address.port() == port;
    let ours: Vec<RawFd> = fds.filter(|fd| getsockname(*fd).is_ok_and(is_of_port)).collect();
    assert!(ours.len() >= 3, "{ours:?}");
    let (from, to) = UnixStream::pair().unwrap();
    let (text, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&ours)]);
    let sent = sendmsg::<()>(from.as_raw_fd(), &text, &rights, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(1));
    [from, to]
}

#[test]
fn a_connection_and_a_server_end_whoever_has_copies_of_their_sockets() {
    let server = server();
    server.arm(Fault::next(Verb::Options, Action::CloseBeforeReply));
    let (mut first, mut second) = (Client::new(&server), Client::new(&server));
    assert_eq!(second.ask("GET ?x Range: bytes=0-0", b"").status, 206);
    first.stream.get_mut().write_all(b"OPT").unwrap();
    let _copies = copies_of_sockets(server.port());
    let rest = format!("IONS /images/{TICKET} HTTP/1.1\r\n\r\n");
    first.stream.get_mut().write_all(rest.as_bytes()).unwrap();
    let ended = |client: &mut Client| client.receive().map(|answer| answer.head);
    assert_eq!(ended(&mut first).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let port = server.port();
    drop(server);
    assert_eq!(ended(&mut second).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let refused = TcpStream::connect(("127.0.0.1", port)).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
