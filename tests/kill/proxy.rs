//! A TCP proxy between a mount and imageio that fails on purpose. It does not interpret the bytes: TLS passes
//! as any other stream does, and the server's certificate is valid for every port of this host. The kill
//! tests use it in-process; `examples/cutting_proxy.rs` is its command line, for `scripts/soak`.
//!
//! One thread accepts connections. Each connection has two more threads, one per direction, that copy bytes
//! and apply the connection's [`Fault`]s. A fault strikes after a number of bytes; the next one counts from
//! there. Faults come from the plan for new connections ([`Proxy::plan`]), or are given to all open
//! connections ([`Proxy::arm`]). A stalled connection stays stalled until [`Proxy::heal`] cuts it; the
//! connections made after that pass unharmed.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::{Condvar, Mutex};
use url::Url;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Both sides see the end of the stream.
    Cut,
    /// Both sides see ECONNRESET.
    Reset,
    /// Nothing passes any more in either direction, and neither side sees an end.
    Stall,
    /// This direction stands still for that long, then goes on.
    Pause(Duration),
    /// The receiver sees the end of the stream, and later bytes for it are discarded; the other direction
    /// goes on.
    HalfClose,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) effect: Effect,
    /// The direction whose bytes count; `None` counts both together.
    pub(crate) direction: Option<Direction>,
    /// Bytes that pass before the fault strikes.
    pub(crate) after: u64,
}

/// The faults of one connection, in order. Each is taken when the one before it strikes.
type Faults = Box<dyn Iterator<Item = Fault> + Send>;

/// Gives a new connection its faults, from the number of faults that have struck so far.
type Plan = Box<dyn FnMut(u64) -> Faults + Send>;

struct Pending {
    next: Option<Fault>,
    later: Faults,
}

impl Pending {
    fn new(mut faults: Faults) -> Self {
        Self {
            next: faults.next(),
            later: faults,
        }
    }
}

struct Link {
    client: TcpStream,
    server: TcpStream,
    faults: Mutex<Pending>,
    stalled: AtomicBool,
    ended: AtomicBool,
}

impl Link {
    /// Returns how many of `length` bytes may pass, and the effect that strikes then.
    fn pass(&self, direction: Direction, length: usize) -> (usize, Option<Effect>) {
        let mut faults = self.faults.lock();
        let counts = |fault: &&mut Fault| fault.direction.is_none_or(|one| one == direction);
        let Some(fault) = faults.next.as_mut().filter(counts) else {
            return (length, None);
        };
        if fault.after > length as u64 {
            fault.after -= length as u64;
            return (length, None);
        }
        let struck = (fault.after as usize, Some(fault.effect));
        faults.next = faults.later.next();
        struck
    }

    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// Ends the connection as `effect` says, unless the other direction has done so already.
    fn end(&self, effect: Effect) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        if effect != Effect::Reset {
            return self.cut();
        }
        // This wakes both threads and sends nothing: the reset goes out when the last of them closes the
        // sockets.
        for stream in [&self.client, &self.server] {
            reset_on_close(stream);
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

fn reset_on_close(stream: &TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(stream, sockopt::Linger, &at_once);
}

/// Totals since the start of the proxy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    /// Connections that were reset because no server listened.
    pub(crate) refused: u64,
    pub(crate) faults: u64,
    pub(crate) bytes: u64,
}

struct State {
    plan: Plan,
    links: BTreeMap<u64, Arc<Link>>,
    /// Connections that were accepted and are never answered.
    silent: Vec<TcpStream>,
    counts: Counts,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// Starts a faultless proxy on a free port. `target` gives the server's port on this host, for each
    /// connection.
    pub(crate) fn start(target: impl Fn() -> io::Result<u16> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("its own address").port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                plan: no_faults(),
                links: BTreeMap::new(),
                silent: Vec::new(),
                counts: Counts::default(),
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || accept(&listener, &accepting, target));
        Self { shared, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL `direct` with the proxy's port in place of the server's.
    pub(crate) fn url(&self, direct: &str) -> String {
        let mut url = Url::parse(direct).expect("a URL");
        url.set_port(Some(self.port)).expect("a URL with a host");
        url.into()
    }

    /// Replaces the plan: `plan` gives each new connection its faults, from the number that have struck so
    /// far.
    pub(crate) fn plan<F>(&self, mut plan: impl FnMut(u64) -> F + Send + 'static)
    where
        F: IntoIterator<Item = Fault, IntoIter: Send + 'static>,
    {
        self.shared.state.lock().plan = Box::new(move |struck| Box::new(plan(struck).into_iter()));
    }

    /// Gives `fault` to all open connections, counted from here.
    pub(crate) fn arm(&self, fault: Fault) {
        for link in self.shared.state.lock().links.values() {
            *link.faults.lock() = Pending::new(Box::new([fault].into_iter()));
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }

    /// Removes all faults, and cuts the stalled connections.
    pub(crate) fn heal(&self) {
        let mut state = self.shared.state.lock();
        state.plan = no_faults();
        for link in state.links.values() {
            *link.faults.lock() = Pending::new(Box::new(std::iter::empty()));
            if link.stalled.swap(false, Ordering::Relaxed) {
                link.cut();
            }
        }
        state.silent.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

fn no_faults() -> Plan {
    Box::new(|_| Box::new(std::iter::empty()))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
        for link in self.shared.state.lock().links.values() {
            link.cut();
        }
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, target: impl Fn() -> io::Result<u16>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let mut state = shared.state.lock();
        if state.ended {
            return;
        }
        let struck = state.counts.faults;
        let faults = Pending::new((state.plan)(struck));
        if let Some(Fault {
            effect: Effect::Stall,
            after: 0,
            ..
        }) = faults.next
        {
            // imageio accepts and shakes hands in one thread, so a silent connection to it would block all
            // others.
            state.counts.connections += 1;
            state.counts.faults += 1;
            state.silent.push(client);
            continue;
        }
        let Ok(server) = target().and_then(|port| TcpStream::connect(("127.0.0.1", port))) else {
            state.counts.refused += 1;
            reset_on_close(&client);
            continue;
        };
        state.counts.connections += 1;
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let link = Arc::new(Link {
            client,
            server,
            faults: Mutex::new(faults),
            stalled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let number = state.counts.connections;
        state.links.insert(number, link.clone());
        drop(state);
        for direction in [Direction::ToServer, Direction::ToClient] {
            let (link, shared) = (link.clone(), shared.clone());
            std::thread::spawn(move || {
                link.end(copy(&link, &shared, direction));
                shared.state.lock().links.remove(&number);
            });
        }
    }
}

/// Copies one direction until the connection ends; returns the effect that ends it, `Cut` where a peer did.
fn copy(link: &Link, shared: &Shared, direction: Direction) -> Effect {
    let (mut from, mut to) = match direction {
        Direction::ToServer => (&link.client, &link.server),
        Direction::ToClient => (&link.server, &link.client),
    };
    let mut buffer = vec![0; 64 << 10];
    let mut discarding = false;
    loop {
        let got = from.read(&mut buffer);
        // A stall also hides from one side that the other has gone.
        wait_while_stalled(link, shared);
        let mut left = match got {
            Ok(length) if length > 0 && !link.ended.load(Ordering::Relaxed) => &buffer[..length],
            _ => return Effect::Cut,
        };
        shared.state.lock().counts.bytes += left.len() as u64;
        while !left.is_empty() && !discarding {
            let (length, effect) = link.pass(direction, left.len());
            if to.write_all(&left[..length]).is_err() {
                return Effect::Cut;
            }
            left = &left[length..];
            let Some(effect) = effect else { continue };
            let mut state = shared.state.lock();
            state.counts.faults += 1;
            match effect {
                Effect::Cut | Effect::Reset => return effect,
                Effect::Stall => {
                    link.stalled.store(true, Ordering::Relaxed);
                    drop(state);
                    wait_while_stalled(link, shared);
                    return Effect::Cut;
                }
                Effect::Pause(time) => {
                    drop(state);
                    std::thread::sleep(time);
                }
                Effect::HalfClose => {
                    let _ = to.shutdown(Shutdown::Write);
                    discarding = true;
                }
            }
        }
    }
}

fn wait_while_stalled(link: &Link, shared: &Shared) {
    let mut state = shared.state.lock();
    while link.stalled.load(Ordering::Relaxed) && !state.ended {
        shared.changed.wait(&mut state);
    }
}
