//! A line between a client and a server on this host, for the benchmark: a round trip, and a rate that all
//! connections share.
//!
//!     line PORT RTT_MS MBIT          forwards to PORT on this host, and prints its own port
//!     line --check RTT_MS MBIT       measures a line of its own, and prints one line of JSON
//!
//! **The model.** Each direction has one [`Line`]. A piece of up to [`SEGMENT_BYTES`] takes the next free
//! slot of `length / rate` on it, so it departs when the line has sent everything before it, and arrives half
//! a round trip later. Connections that wait for a slot take turns. Departures are computed, not slept, so a
//! late thread costs no rate as long as the queue lasts.
//!
//! **The queue.** Up to [`QUEUE_BYTES`] wait in front of the line, as in a router's buffer; then nothing more
//! is read from any connection. A direction thus carries at most its half of the bandwidth-delay product plus
//! that buffer. A connection whose receiver stops reading holds at most the whole product plus the buffer.
//! The kernel adds [`SOCKET_BUFFER_BYTES`] on each side of the proxy: the sender's answer to back pressure.
//!
//! **A new connection** costs a round trip before its first byte: accept is local, so bytes are read from the
//! client a round trip later, and the server sees the connection together with the first of them. A server
//! that shakes hands while it accepts is thus held up no longer than on a real line.
//!
//! **Ends.** The end of a stream takes its turn behind the bytes before it and ends only its own direction. A
//! reset does the same, and then resets the other side when both directions have ended. A connection that the
//! server refuses is reset.
//!
//! **What it leaves out.** It never loses or reorders a byte, and has no slow start: a connection may fill
//! the line at once. The rate bounds the bytes in the connections, without the headers of TCP and IP. The
//! proxy needs about a processor second for each GiB, nearly all of it in the kernel's loopback.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::libc::linger;
use nix::sys::prctl;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::{Mutex, MutexGuard};

const USAGE: &str = "usage: line PORT RTT_MS MBIT
       line --check RTT_MS MBIT";

/// Upper bound on a piece that takes a slot, in bytes.
const SEGMENT_BYTES: usize = 64 << 10;

/// Bytes that may wait in front of a line: 8 ms at 1 Gbit/s, 42 ms at 200 Mbit/s.
const QUEUE_BYTES: usize = 1 << 20;

/// Size of the kernel's buffers for each of the proxy's sockets, in bytes, which the kernel doubles. Without
/// a bound they grow to several MiB, which the sender would take for sent.
const SOCKET_BUFFER_BYTES: usize = 128 << 10;

/// Lateness of sleeping threads that is allowed, in nanoseconds; the kernel's own bound is 50 µs.
const TIMER_SLACK_NS: u64 = 1000;

/// Round trips that `--check` measures.
const CHECKED_ROUND_TRIPS: usize = 21;

/// Connections that share the line in `--check`.
const CHECKED_CONNECTIONS: usize = 4;

/// Time for which `--check` fills the line in each direction.
const CHECKED_TIME: Duration = Duration::from_secs(1);

/// Round trip and rate of a line.
#[derive(Clone, Copy)]
struct Shape {
    delay: Duration,
    bytes_per_second: f64,
}

impl Shape {
    fn parse(round_trip_ms: &str, mbit: &str) -> Result<Shape> {
        let (ms, mbit): (f64, f64) = (round_trip_ms.parse()?, mbit.parse()?);
        ensure!(ms >= 0.0 && mbit > 0.0, "a line has a round trip and a rate");
        Ok(Shape {
            delay: Duration::try_from_secs_f64(ms / 2000.0)?,
            bytes_per_second: mbit * 1e6 / 8.0,
        })
    }

    fn time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second)
    }

    /// Returns how many segments a connection may have on the line: a round trip's, and those of the queue.
    fn window(&self) -> usize {
        let product = 2.0 * self.delay.as_secs_f64() * self.bytes_per_second;
        (product as usize + QUEUE_BYTES).div_ceil(SEGMENT_BYTES)
    }
}

/// One direction of the line, with the time at which it has sent everything that waits for it.
struct Line {
    shape: Shape,
    free_at: Mutex<Instant>,
}

impl Line {
    fn new(shape: Shape) -> Line {
        let free_at = Mutex::new(Instant::now());
        Line { shape, free_at }
    }

    /// Waits until the queue has room, and returns when `bytes` from now on arrive at the other end.
    fn send(&self, bytes: usize) -> Instant {
        // The lock is the turn, and is kept while the queue is full.
        let mut free_at = self.free_at.lock();
        let queued = free_at.saturating_duration_since(Instant::now());
        thread::sleep(queued.saturating_sub(self.shape.time(QUEUE_BYTES)));
        let departure = (*free_at).max(Instant::now()) + self.shape.time(bytes);
        *free_at = departure;
        // Otherwise a connection that has its next bytes at hand would go first again.
        MutexGuard::unlock_fair(free_at);
        departure + self.shape.delay
    }
}

/// Both directions, which all connections share.
struct Lines {
    up: Line,
    down: Line,
}

/// A piece of what a direction carries, or its end.
enum Parcel {
    Bytes(Vec<u8>),
    End,
    Reset,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("line: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let [first, round_trip, rate] = args else {
        bail!(USAGE);
    };
    let shape = Shape::parse(round_trip, rate).context(USAGE)?;
    // Threads inherit it.
    prctl::set_timerslack(TIMER_SLACK_NS)?;
    if first == "--check" {
        return check(shape);
    }
    let target = first.parse().context("PORT")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    accept(&listener, target, shape);
    Ok(())
}

fn accept(listener: &TcpListener, target: u16, shape: Shape) {
    let lines = Arc::new(Lines {
        up: Line::new(shape),
        down: Line::new(shape),
    });
    for client in listener.incoming().flatten() {
        let lines = lines.clone();
        thread::spawn(move || connection(&client, target, &lines));
    }
}

/// Carries a connection until both of its directions have ended.
fn connection(client: &TcpStream, target: u16, lines: &Lines) {
    let shape = lines.up.shape;
    let established = Instant::now() + 2 * shape.delay;
    bound_buffers(client);
    let (to_server, from_client) = sync_channel(shape.window());
    thread::scope(|scope| {
        sleep_until(established);
        scope.spawn(|| load(client, &lines.up, to_server));
        sleep_until(established + shape.delay);
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
            drop(from_client);
            return reset(client);
        };
        bound_buffers(&server);
        let server = &server;
        thread::scope(|scope| {
            let (to_client, from_server) = sync_channel(shape.window());
            scope.spawn(|| load(server, &lines.down, to_client));
            scope.spawn(|| unload(from_server, client, server));
            unload(from_client, server, client);
        });
    });
}

fn bound_buffers(socket: &TcpStream) {
    // A socket that has ended already fails at its next read.
    let _ = socket.set_nodelay(true);
    let _ = setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES);
    let _ = setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES);
}

/// Puts what `from` sends on the line until its end.
fn load(mut from: &TcpStream, line: &Line, parcels: SyncSender<(Instant, Parcel)>) {
    let mut buffer = vec![0; SEGMENT_BYTES];
    loop {
        let parcel = match from.read(&mut buffer) {
            Ok(0) => Parcel::End,
            Ok(n) => Parcel::Bytes(buffer[..n].to_vec()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => Parcel::Reset,
        };
        let (length, last) = match &parcel {
            Parcel::Bytes(bytes) => (bytes.len(), false),
            Parcel::End | Parcel::Reset => (0, true),
        };
        let arrival = line.send(length);
        if parcels.send((arrival, parcel)).is_err() || last {
            return;
        }
    }
}

/// Gives `to` what arrives. When it no longer takes anything, the rest is dropped, and `from` is reset.
fn unload(parcels: Receiver<(Instant, Parcel)>, mut to: &TcpStream, from: &TcpStream) {
    let mut gone = false;
    for (arrival, parcel) in parcels {
        sleep_until(arrival);
        match parcel {
            Parcel::Bytes(bytes) if !gone => {
                gone = to.write_all(&bytes).is_err();
                if gone {
                    reset(from);
                }
            }
            Parcel::Bytes(_) => {}
            Parcel::End => _ = to.shutdown(Shutdown::Write),
            Parcel::Reset => reset(to),
        }
    }
}

/// Makes the last close of `socket` a reset, and ends the thread that reads from it.
fn reset(socket: &TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(socket, sockopt::Linger, &at_once);
    let _ = socket.shutdown(Shutdown::Read);
}

fn sleep_until(when: Instant) {
    thread::sleep(when.saturating_duration_since(Instant::now()));
}

/// Measures a line: the time to connect and a round trip in milliseconds, and in each direction the share of
/// the rate at which bytes arrive, from the first to the last, over several connections.
fn check(shape: Shape) -> Result<()> {
    let (server, listener) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    let (target, port) = (server.local_addr()?.port(), listener.local_addr()?.port());
    thread::spawn(move || accept(&listener, target, shape));

    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let mut near = TcpStream::connect(("127.0.0.1", port))?;
    near.set_nodelay(true)?;
    near.write_all(&[0])?;
    let (mut far, _) = server.accept()?;
    far.set_nodelay(true)?;
    far.read_exact(&mut [0])?;
    let connect = ms(begun) - shape.delay.as_secs_f64() * 1e3;
    let echo = thread::spawn(move || -> io::Result<()> {
        let mut byte = [0];
        while far.read(&mut byte)? > 0 {
            far.write_all(&byte)?;
        }
        Ok(())
    });
    let mut trips = Vec::new();
    for _ in 0..CHECKED_ROUND_TRIPS {
        let begun = Instant::now();
        near.write_all(&[0])?;
        near.read_exact(&mut [0])?;
        trips.push(ms(begun));
    }
    drop(near);
    echo.join().expect("no panic")?;
    trips.sort_by(f64::total_cmp);

    let (mut nears, mut fars) = (Vec::new(), Vec::new());
    for _ in 0..CHECKED_CONNECTIONS {
        let mut near = TcpStream::connect(("127.0.0.1", port))?;
        near.write_all(&[0])?;
        let (mut far, _) = server.accept()?;
        far.read_exact(&mut [0])?;
        nears.push(near);
        fars.push(far);
    }
    let (up, down) = (filled(shape, &nears, &fars)?, filled(shape, &fars, &nears)?);
    let trip = trips[trips.len() / 2];
    println!(r#"{{"connect": {connect:.3}, "round_trip": {trip:.3}, "up": {up:.4}, "down": {down:.4}}}"#);
    Ok(())
}

/// Sends over all of `senders` at once for about [`CHECKED_TIME`]; returns the share of the rate at which
/// the bytes arrived.
fn filled(shape: Shape, senders: &[TcpStream], receivers: &[TcpStream]) -> Result<f64> {
    let seconds = CHECKED_TIME.as_secs_f64();
    let each = (shape.bytes_per_second * seconds) as usize / senders.len();
    let (first, last, bytes) = thread::scope(|scope| {
        for mut sender in senders {
            scope.spawn(move || sender.write_all(&vec![0; each]));
        }
        let receive = |mut receiver: &TcpStream| -> io::Result<(Instant, Instant, usize)> {
            let (mut buffer, mut left) = (vec![0; SEGMENT_BYTES], each);
            let early = receiver.read(&mut buffer)?;
            let first = Instant::now();
            left -= early;
            while left > 0 {
                let n = buffer.len().min(left);
                receiver.read_exact(&mut buffer[..n])?;
                left -= n;
            }
            Ok((first, Instant::now(), each))
        };
        let threads: Vec<_> = receivers
            .iter()
            .map(|receiver| scope.spawn(move || receive(receiver)))
            .collect();
        let parts = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        let parts = parts.collect::<io::Result<Vec<_>>>()?;
        let first = parts.iter().map(|part| part.0).min();
        let last = parts.iter().map(|part| part.1).max();
        let bytes: usize = parts.iter().map(|part| part.2).sum();
        first
            .zip(last)
            .map(|(a, b)| (a, b, bytes))
            .context("no connection")
    })?;
    // The first piece had departed before the clock began.
    let timed = bytes.saturating_sub(SEGMENT_BYTES) as f64;
    Ok(timed / (last - first).as_secs_f64() / shape.bytes_per_second)
}
