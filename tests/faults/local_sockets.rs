//! Unix sockets that a server advertises: rhv-mount uses a socket only when it belongs to the server's own
//! process. Any other process that listens there receives nothing, whether the server lies or is really on
//! another host behind a forwarded port of this one.

use crate::rig::{MIB, TICKET, settings};
use crate::server::{Server, Settings};
use crate::support::mount::{Mount, Mounting};
use crate::support::run::{scratch, text, top, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Another process with one listening socket, which records the received bytes or forwards them to a port.
struct OtherProcess {
    child: Child,
    received: PathBuf,
}

const LISTENER: &str = r#"
import os, socket, sys
received = open(sys.argv[2], "wb", buffering=0)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
while True:
    peer, _ = listener.accept()
    received.write(b"connection\n")
    while data := peer.recv(4096):
        received.write(data)
"#;

const FORWARDER: &str = r#"
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def copy(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
while True:
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"#;

impl OtherProcess {
    fn start(program: &str, args: &[&str], dir: &Path) -> (OtherProcess, String) {
        let mut child = Command::new(top().join("target/venv/bin/python"))
            .args(["-c", program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let received = dir.join("received");
        (OtherProcess { child, received }, line.trim().to_owned())
    }

    fn listener(socket: &Path, dir: &Path) -> OtherProcess {
        let received = dir.join("received");
        let args = [socket.to_str().unwrap(), received.to_str().unwrap()];
        let (other, ready) = OtherProcess::start(LISTENER, &args, dir);
        assert_eq!(ready, "ready");
        other
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server_naming(socket: &str) -> Server {
    Server::start(Settings {
        unix_socket: Some(socket.to_owned()),
        read_only: true,
        extents: false,
        checksum: false,
        ..settings(4 * MIB)
    })
}

fn mount(url: &str) -> Mount {
    Mounting::new(url).arg("--read-only").start()
}

#[track_caller]
pub fn assert_transport(mount: &Mount, expected: &str) {
    let status = mount.status(&["-o", "json"]).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["transport"], expected, "{}", mount.log_end());
}

#[test]
fn a_socket_of_another_process_receives_nothing() {
    let dir = scratch();
    let socket = dir.path().join("docker.sock");
    let other = OtherProcess::listener(&socket, dir.path());
    let server = server_naming(socket.to_str().unwrap());
    let mount = mount(&server.url());
    assert_eq!(std::fs::read(mount.file()).unwrap().len() as u64, 4 * MIB);
    assert_transport(&mount, "http");
    mount.umount().ok();
    // rhv-mount did connect to examine the socket; otherwise this test would prove nothing.
    wait_until("the other process has taken it", 60, || {
        text(&other.received) == "connection\n"
    });
}

#[test]
fn a_server_behind_a_forwarded_port_of_this_host_is_another_host() {
    let dir = scratch();
    let (ours, received) = (dir.path().join("local.sock"), Arc::new(Mutex::new(Vec::new())));
    let _listener = Listener::start(&ours, received.clone(), SocketAnswers::default());
    let server = server_naming(ours.to_str().unwrap());
    let (_forwarder, port) = OtherProcess::start(FORWARDER, &[&server.port().to_string()], dir.path());
    let mount = mount(&format!("http://127.0.0.1:{port}/images/{TICKET}"));
    assert_transport(&mount, "http");
    mount.umount().ok();
    assert_eq!(*received.lock().unwrap(), Vec::<String>::new());
}

/// The answers on the socket of the server's own process; the defaults equal the server's answers over TCP.
#[derive(Clone)]
struct SocketAnswers {
    status: &'static str,
    features: &'static str,
    name: Option<&'static str>,
    size: u64,
}

impl Default for SocketAnswers {
    fn default() -> SocketAnswers {
        SocketAnswers {
            status: "200 OK",
            features: "[]",
            name: None,
            size: 4 * MIB,
        }
    }
}

/// A unix socket of this process, which also serves the server's TCP port.
struct Listener {
    stop: Arc<AtomicUsize>,
    path: PathBuf,
}

impl Listener {
    fn start(path: &Path, received: Arc<Mutex<Vec<String>>>, answers: SocketAnswers) -> Listener {
        let listener = UnixListener::bind(path).unwrap();
        let stop = Arc::new(AtomicUsize::new(0));
        let (stopping, name) = (stop.clone(), path.to_str().unwrap().to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopping.load(Ordering::SeqCst) != 0 {
                    return;
                }
                let (received, answers, name) = (received.clone(), answers.clone(), name.clone());
                thread::spawn(move || answer(stream, &received, &answers, &name));
            }
        });
        Listener {
            stop,
            path: path.to_owned(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
    }
}

fn answer(stream: UnixStream, received: &Mutex<Vec<String>>, answers: &SocketAnswers, name: &str) {
    let mut writer = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        lines.by_ref().find(|line| line.is_empty());
        received.lock().unwrap().push(request.clone());
        let reply = if request.starts_with("OPTIONS") {
            let body = format!(
                "{{\"features\": {}, \"max_readers\": 8, \"max_writers\": 8, \"unix_socket\": \"{}\"}}",
                answers.features,
                answers.name.unwrap_or(name)
            );
            format!(
                "HTTP/1.1 {}\r\nAllow: OPTIONS,GET\r\nContent-Length: {}\r\n\r\n{body}",
                answers.status,
                body.len()
            )
        } else {
            let size = answers.size;
            format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/{size}\r\nContent-Length: 1\r\n\r\nx")
        };
        if writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

#[track_caller]
fn assert_used(answers: SocketAnswers, expected: &str) {
    let dir = scratch();
    let socket = dir.path().join("local.sock");
    let received = Arc::new(Mutex::new(Vec::new()));
    let _listener = Listener::start(&socket, received.clone(), answers);
    let server = server_naming(socket.to_str().unwrap());
    let mount = mount(&server.url());
    assert_transport(&mount, expected);
    mount.umount().ok();
    assert!(!received.lock().unwrap().is_empty());
}

#[test]
fn the_servers_own_socket_is_used_when_it_reports_the_same_for_the_ticket() {
    assert_used(SocketAnswers::default(), "unix");
}

#[test]
fn a_socket_that_does_not_know_the_ticket_or_reports_something_else_for_it_is_not_used() {
    for status in ["403 Forbidden", "405 Method Not Allowed", "204 No Content"] {
        let answers = SocketAnswers {
            status,
            ..SocketAnswers::default()
        };
        assert_used(answers, "http");
    }
    let features = SocketAnswers {
        features: "[\"extents\"]",
        ..SocketAnswers::default()
    };
    assert_used(features, "http");
    let name = SocketAnswers {
        name: Some("/run/other"),
        ..SocketAnswers::default()
    };
    assert_used(name, "http");
    let size = SocketAnswers {
        size: 8 * MIB,
        ..SocketAnswers::default()
    };
    assert_used(size, "http");
}

/// No server listens under such names, and rhv-mount does not even try to connect.
#[test]
fn a_socket_name_that_is_not_a_plain_absolute_path_is_not_tried() {
    let dir = scratch();
    let real = dir.path().join("local.sock");
    let received = Arc::new(Mutex::new(Vec::new()));
    let _listener = Listener::start(&real, received.clone(), SocketAnswers::default());
    let detour = format!("{}/x/../local.sock", dir.path().display());
    std::fs::create_dir(dir.path().join("x")).unwrap();
    for name in [
        detour.as_str(),
        "local.sock",
        "\0",
        "/\u{1b}[2J",
        &format!("/{}", "x".repeat(200)),
    ] {
        let mount = mount(&server_naming(name).url());
        assert_transport(&mount, "http");
        let log = mount.log();
        assert!(
            log.contains("neither a plain absolute path"),
            "{name:?}: {}",
            mount.log_end()
        );
        mount.umount().ok();
    }
    assert!(received.lock().unwrap().is_empty());
}
