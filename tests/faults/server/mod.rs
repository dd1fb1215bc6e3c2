//! An imageio server for the tests: plain HTTP/1.1 on loopback, or on a unix socket as well; a disk in
//! memory, faults on demand.
//!
//! One thread per listening socket accepts connections, and one thread serves each of them; dropping the
//! `Server` cuts all sockets and joins all threads. There are two locks, never held together: `settings` (how
//! the server behaves) and `state` (disk, request log, armed faults). The disk keeps a write cache per
//! connection (`storage`), so that tests can check a client's fsync promise.

mod connection;
mod cousin;
mod faults;
mod http;
mod image;
mod ledger;
mod operation;
mod settings;
mod storage;

pub use faults::{Action, Fault};
pub use image::Image;
pub use ledger::{Record, Verb};
pub use settings::Settings;

use connection::Connection;
pub use connection::checksum;
use faults::Faults;
use ledger::Ledger;
use nix::sys::socket;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::Storage;

pub struct State {
    pub storage: Storage,
    pub ledger: Ledger,
    pub faults: Faults,
}

pub struct Shared {
    state: Mutex<State>,
    settings: Mutex<Settings>,
    sockets: Mutex<BTreeMap<u64, TcpStream>>,
    stopping: AtomicBool,
    /// While true, new connections are closed immediately.
    away: AtomicBool,
    /// When the storage has done what it was asked for so far.
    busy_until: Mutex<Instant>,
}

/// Work that a slow storage does for one connection before it turns to the next one, in bytes.
const TURN_BYTES: u64 = 256 * 1024;

/// Longest wait of a request for others to run beside it: a client on a busy machine sends them in this
/// time.
const PATIENCE: Duration = Duration::from_secs(20);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Settings {
        self.settings.lock().unwrap().clone()
    }

    /// Works on `bytes` bytes at `speed` bytes per second, in turns with all other connections.
    fn work(&self, bytes: u64, speed: u64) {
        for turn in (0..bytes).step_by(TURN_BYTES as usize) {
            let bytes = TURN_BYTES.min(bytes - turn);
            let time = Duration::from_secs_f64(bytes as f64 / speed as f64);
            let done = {
                let mut busy = self.busy_until.lock().unwrap();
                *busy = (*busy).max(Instant::now()) + time;
                *busy
            };
            self.sleep(done.saturating_duration_since(Instant::now()));
        }
    }

    /// Sleeps for `time`, or until the server stops.
    fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stopping.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Sleeps until so many requests of the same kind as that of `record` have run beside it, itself
    /// included, or until the server stops. A request that gets no company goes on after a while.
    fn wait_for_company(&self, record: usize, wanted: usize) {
        let end = Instant::now() + PATIENCE;
        let is_alone = || self.state().ledger.records()[record].at_once < wanted;
        while is_alone() && Instant::now() < end && !self.stopping.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sleeps until no fault is armed, or until the server stops.
    fn sleep_while_armed(&self) {
        while !self.stopping.load(Ordering::Relaxed) && self.state().faults.are_armed() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub struct Server {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
    local: Option<(PathBuf, JoinHandle<()>)>,
}

impl Server {
    pub fn start(settings: Settings) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on loopback");
        let port = listener.local_addr().expect("own address").port();
        let state = State {
            storage: Storage::new(settings.size),
            ledger: Ledger::new(),
            faults: Faults::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            settings: Mutex::new(settings),
            sockets: Mutex::new(BTreeMap::new()),
            stopping: AtomicBool::new(false),
            away: AtomicBool::new(false),
            busy_until: Mutex::new(Instant::now()),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                accept(listener.incoming().flatten(), &shared);
                hang_up(&listener);
            })
        };
        Server {
            shared,
            port,
            acceptor: Some(acceptor),
            local: None,
        }
    }

    /// Also serves the disk on a unix socket at `path`, and advertises that.
    pub fn listen_at(mut self, path: &Path) -> Server {
        let listener = UnixListener::bind(path).expect("listen on the unix socket");
        let shared = Arc::clone(&self.shared);
        // All that a connection does with its stream works on both kinds of socket.
        let stream = |stream| TcpStream::from(OwnedFd::from(stream));
        let acceptor = std::thread::spawn(move || {
            accept(listener.incoming().flatten().map(stream), &shared);
            hang_up(&listener);
        });
        self.change(|settings| settings.unix_socket = path.to_str().map(str::to_owned));
        self.local = Some((path.to_owned(), acceptor));
        self
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!(
            "http://127.0.0.1:{}/images/{}",
            self.port,
            self.shared.settings().ticket
        )
    }

    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.settings.lock().unwrap());
    }

    pub fn arm(&self, fault: Fault) {
        self.shared.state().faults.arm(fault);
    }

    pub fn disarm(&self) {
        self.shared.state().faults.disarm();
    }

    pub fn disarm_verb(&self, verb: Verb) {
        self.shared.state().faults.disarm_verb(verb);
    }

    pub fn faults_fired(&self) -> usize {
        self.shared.state().faults.fired()
    }

    /// Fills part of the disk before any client connects; the bytes are visible and durable.
    pub fn preset(&self, offset: u64, bytes: &[u8]) {
        self.shared.state().storage.preset(offset, bytes);
    }

    pub fn visible(&self) -> Image {
        self.shared.state().storage.visible().clone()
    }

    pub fn durable(&self) -> Image {
        self.shared.state().storage.durable().clone()
    }

    pub fn read_durable(&self, range: Range<u64>) -> Vec<u8> {
        self.shared.state().storage.durable().read(range)
    }

    pub fn unflushed(&self) -> Vec<(u64, Range<u64>)> {
        self.shared.state().storage.unflushed()
    }

    pub fn violations(&self) -> Vec<String> {
        self.shared.state().storage.violations().to_vec()
    }

    pub fn records(&self) -> Vec<Record> {
        self.shared.state().ledger.records().to_vec()
    }

    pub fn records_of(&self, verb: Verb) -> Vec<Record> {
        self.records()
            .into_iter()
            .filter(|record| record.verb == verb)
            .collect()
    }

    pub fn count(&self, verb: Verb) -> usize {
        self.records_of(verb).len()
    }

    pub fn most_at_once(&self, verb: Verb) -> usize {
        self.shared.state().ledger.most_at_once(verb)
    }

    pub fn most_writes_at_once(&self) -> usize {
        self.shared.state().ledger.most_writes()
    }

    pub fn most_requests_at_once(&self) -> usize {
        self.shared.state().ledger.most_requests()
    }

    pub fn connections_opened(&self) -> u64 {
        self.shared.state().ledger.connections_opened()
    }

    pub fn connections_alive(&self) -> Vec<u64> {
        self.shared.state().ledger.connections_alive()
    }

    pub fn idle_drops(&self) -> usize {
        self.shared.state().ledger.idle_drops()
    }

    pub fn requests_running(&self) -> usize {
        self.shared.state().ledger.running().len()
    }

    /// Cuts these connections and waits until their threads have noticed.
    pub fn cut(&self, connections: &[u64]) {
        for connection in connections {
            self.shared.state().storage.cut(*connection);
        }
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut alive = self.connections_alive();
            alive.retain(|connection| connections.contains(connection));
            if alive.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "connections {connections:?} did not end");
            for connection in alive {
                // The socket of a connection that was just accepted is added in a moment.
                if let Some(socket) = self.shared.sockets.lock().unwrap().get(&connection) {
                    hang_up(socket);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Server {
    /// Simulates a crash and an immediate restart: every connection is cut, and unflushed bytes are lost.
    pub fn restart(&self) {
        self.shared.away.store(true, Ordering::SeqCst);
        loop {
            let alive = self.connections_alive();
            if alive.is_empty() {
                break;
            }
            self.cut(&alive);
        }
        self.shared.state().storage.restart();
        self.shared.away.store(false, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        if let Some((path, acceptor)) = self.local.take() {
            let _ = UnixStream::connect(path);
            let _ = acceptor.join();
        }
    }
}

/// Ends a connection, or the listening for connections, whoever else has the socket.
///
/// A program that another test starts has a copy of each socket and file of this process, until its exec
/// closes them one after the other. Closing a file on a mount waits for the answers to its writes. With a
/// socket that was closed here only, that mount's client would see no end of the connection meanwhile, or
/// connect to a server that is gone, and each would wait for the other until the client's patience, a minute,
/// is over.
fn hang_up(socket: &impl AsRawFd) {
    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Both);
}

fn accept(streams: impl Iterator<Item = TcpStream>, shared: &Arc<Shared>) {
    let (mut threads, mut left) = (Vec::new(), Vec::new());
    for stream in streams {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let settings = shared.settings();
        if shared.sockets.lock().unwrap().len() >= settings.most_connections {
            match settings.leaves_surplus {
                true => left.push(stream),
                false => hang_up(&stream),
            }
            continue;
        }
        let id = {
            let mut state = shared.state();
            if shared.away.load(Ordering::SeqCst) {
                hang_up(&stream);
                continue;
            }
            state.ledger.opened()
        };
        if let Ok(clone) = stream.try_clone() {
            shared.sockets.lock().unwrap().insert(id, clone);
        }
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            if let Ok(connection) = Connection::new(&shared, id, stream) {
                connection.serve();
            }
            if let Some(socket) = shared.sockets.lock().unwrap().remove(&id) {
                hang_up(&socket);
            }
        }));
    }
    shared.sockets.lock().unwrap().values().for_each(hang_up);
    left.iter().for_each(hang_up);
    for thread in threads {
        let _ = thread.join();
    }
}
