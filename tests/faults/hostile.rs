//! A hostile server: it answers every request as a test specifies, also with an answer that never ends.

use crate::rig::TICKET;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Bytes that the server sends of an endless answer at most: far more than a client may accept, but no burden
/// for the machine.
const MAX_ENDLESS_BYTES: usize = 3 << 30;

/// The answer to one request.
#[derive(Clone)]
pub enum Answer {
    /// The first text once, then the second one again and again.
    Endless(String, String),
    Once(Vec<u8>),
}

pub fn once(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Once(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into())
}

pub fn endless(head: &str, rest: &str) -> Answer {
    let many = 65536usize.div_ceil(rest.len().max(1));
    Answer::Endless(head.to_owned(), rest.repeat(many))
}

/// A server that passes each request line to `answer` and sends the result.
pub struct Hostile {
    pub port: u16,
    stopping: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    connections: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

impl Hostile {
    pub fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stopping = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (stop, all, count) = (stopping.clone(), streams.clone(), connections.clone());
        let answer = Arc::new(answer);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                all.lock().unwrap().push(stream.try_clone().unwrap());
                let answer = answer.clone();
                thread::spawn(move || serve(stream, &*answer));
            }
        });
        Hostile {
            port,
            stopping,
            streams,
            connections,
            accepting: Some(accepting),
        }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn image(&self) -> String {
        format!("http://127.0.0.1:{}/images/{TICKET}", self.port)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = self.accepting.take().unwrap().join();
    }
}

fn serve(stream: TcpStream, answer: &impl Fn(&str) -> Answer) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let (mut request, mut length) = (String::new(), 0);
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let sent = match answer(request.trim()) {
            Answer::Once(bytes) => writer.write_all(&bytes),
            Answer::Endless(head, rest) => writer.write_all(head.as_bytes()).and_then(|()| {
                let times = MAX_ENDLESS_BYTES / rest.len();
                (0..times).try_for_each(|_| writer.write_all(rest.as_bytes()))
            }),
        };
        if sent.is_err() {
            return;
        }
    }
}
