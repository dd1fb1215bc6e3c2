//! A TCP proxy between a mount and imageio that fails on purpose. It need not understand what passes: TLS is bytes too,
//! and the certificate is good for any port of this host.
//!
//! One thread takes connections; each has two more, one for each direction, that copy what they get. What is wrong with a
//! connection is its [`Fault`]: it is met when so many bytes have passed in one direction. A fault comes from the plan
//! that new connections get theirs from ([`Proxy::plan`]), or is given to all that are open ([`Proxy::arm`]). One that
//! is stalled stays so; [`Proxy::heal`] lets the next ones pass and ends those.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::support::content::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Both sides lose the connection.
    Cut,
    /// Nothing passes any more, either way, and nobody is told.
    Stall,
    /// The receiver sees an end, and what still comes for it is thrown away; the other direction goes on.
    HalfClose,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) effect: Effect,
    pub(crate) direction: Direction,
    /// Bytes that pass before.
    pub(crate) after: u64,
}

/// What is wrong with the next new connection, if anything; it is told how many faults were met.
type Plan = Box<dyn FnMut(u64) -> Option<Fault> + Send>;

#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    fault: Mutex<Option<Fault>>,
    stalled: AtomicBool,
}

impl Link {
    /// How many of `length` bytes may pass, and what is met then.
    fn meet(&self, direction: Direction, length: u64) -> (u64, Option<Effect>) {
        let mut fault = self.fault.lock().expect("no thread has failed");
        match &mut *fault {
            Some(one) if one.direction == direction && one.after <= length => {
                let met = (one.after, Some(one.effect));
                *fault = None;
                met
            }
            Some(one) if one.direction == direction => {
                one.after -= length;
                (length, None)
            }
            _ => (length, None),
        }
    }

    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

struct State {
    plan: Plan,
    links: BTreeMap<u64, Arc<Link>>,
    /// Accepted, and never answered.
    silent: Vec<TcpStream>,
    taken: u64,
    met: u64,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    target: u16,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread has failed")
    }
}

pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// In front of `target` on this host; nothing is wrong yet.
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("its own address").port();
        let state = State {
            plan: Box::new(|_| None),
            links: BTreeMap::new(),
            silent: Vec::new(),
            taken: 0,
            met: 0,
            ended: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            target,
        });
        let taking = shared.clone();
        std::thread::spawn(move || take(&listener, &taking));
        Self { shared, port }
    }

    /// `HOST:PORT`
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same transfer through the proxy.
    pub(crate) fn url(&self, direct: &str) -> String {
        direct.replace(
            &format!("127.0.0.1:{}", self.shared.target),
            &format!("127.0.0.1:{}", self.port),
        )
    }

    /// From now on each new connection gets what `plan` says.
    pub(crate) fn plan(&self, plan: impl FnMut(u64) -> Option<Fault> + Send + 'static) {
        self.shared.lock().plan = Box::new(plan);
    }

    /// New connections are cut, until that has happened `times` times, each after a random number of bytes up to `most`,
    /// or, one in four, in the other direction up to `most_answers`: what comes from the server may be answers without
    /// a body.
    pub(crate) fn cut_at_random(&self, seed: u64, times: u64, most: u64, most_answers: u64) {
        let mut random = Random::new(seed);
        self.plan(move |met| {
            let (direction, most) = match random.below(4) {
                0 => (Direction::ToClient, most_answers),
                _ => (Direction::ToServer, most),
            };
            (met < times).then_some(Fault {
                effect: Effect::Cut,
                direction,
                after: random.below(most) + 1,
            })
        });
    }

    /// All connections that are open get `fault`, counted from now on.
    pub(crate) fn arm(&self, fault: Fault) {
        for link in self.shared.lock().links.values() {
            *link.fault.lock().expect("no thread has failed") = Some(fault);
        }
    }

    /// Faults that were met.
    pub(crate) fn met(&self) -> u64 {
        self.shared.lock().met
    }

    /// Connections that were made.
    pub(crate) fn taken(&self) -> u64 {
        self.shared.lock().taken
    }

    /// No fault any more; what is stalled is cut.
    pub(crate) fn heal(&self) {
        let mut state = self.shared.lock();
        state.plan = Box::new(|_| None);
        for link in state.links.values() {
            *link.fault.lock().expect("no thread has failed") = None;
            if link.stalled.swap(false, Ordering::Relaxed) {
                link.cut();
            }
        }
        state.silent.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        for link in self.shared.lock().links.values() {
            link.cut();
        }
        // Wakes the thread that takes connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn take(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let mut state = shared.lock();
        if state.ended {
            return;
        }
        state.taken += 1;
        let number = state.taken;
        let fault = {
            let met = state.met;
            (state.plan)(met)
        };
        if let Some(Fault {
            effect: Effect::Stall,
            after: 0,
            ..
        }) = fault
        {
            // A silent client of its own would keep imageio from all others: it accepts and shakes hands in one thread.
            state.met += 1;
            state.silent.push(client);
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.target)) else {
            continue;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let link = Arc::new(Link {
            client,
            server,
            fault: Mutex::new(fault),
            stalled: AtomicBool::new(false),
        });
        state.links.insert(number, link.clone());
        drop(state);
        for direction in [Direction::ToServer, Direction::ToClient] {
            let (link, shared) = (link.clone(), shared.clone());
            std::thread::spawn(move || {
                copy(&link, &shared, direction);
                shared.lock().links.remove(&number);
            });
        }
    }
}

/// Copies what comes in this direction until the connection ends, or its fault does it.
fn copy(link: &Link, shared: &Shared, direction: Direction) {
    let (mut from, mut to) = match direction {
        Direction::ToServer => (&link.client, &link.server),
        Direction::ToClient => (&link.server, &link.client),
    };
    let mut buffer = vec![0; 64 << 10];
    let mut discarding = false;
    loop {
        let got = from.read(&mut buffer);
        // That a side has gone is not told either.
        wait_while_stalled(link, shared);
        let length = match got {
            Ok(length) if length > 0 => length,
            _ => break,
        };
        if discarding {
            continue;
        }
        let (pass, effect) = link.meet(direction, length as u64);
        if to.write_all(&buffer[..pass as usize]).is_err() {
            break;
        }
        let Some(effect) = effect else { continue };
        match effect {
            Effect::Cut => {
                shared.lock().met += 1;
                break;
            }
            Effect::Stall => {
                link.stalled.store(true, Ordering::Relaxed);
                shared.lock().met += 1;
                wait_while_stalled(link, shared);
                break;
            }
            Effect::HalfClose => {
                let _ = to.shutdown(Shutdown::Write);
                shared.lock().met += 1;
                discarding = true;
            }
        }
    }
    link.cut();
}

fn wait_while_stalled(link: &Link, shared: &Shared) {
    let mut state = shared.lock();
    while link.stalled.load(Ordering::Relaxed) && !state.ended {
        state = shared.changed.wait(state).expect("no thread has failed");
    }
}
