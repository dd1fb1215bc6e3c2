//! TCP connections to a name that may have several addresses: "happy eyeballs" (RFC 8305).
//!
//! A name often has addresses that lead nowhere: IPv6 without a route, a twin that is switched off. So the
//! addresses are tried side by side, one every [`HEAD_START`] and at once after a failure, and the families
//! in turn. The first that answers wins, and is tried first by the next connection to the same name. One
//! thread polls all attempts; the sockets of the others are closed when it returns.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt,
};
use parking_lot::Mutex;

/// The time after which the next address is tried beside those that have not answered (RFC 8305, 8).
const HEAD_START: Duration = Duration::from_millis(250);

/// Upper bound on the addresses of one name.
const MAX_ADDRESSES: usize = 16;

/// Upper bound on the names whose address is remembered; a run talks to two or three.
const MAX_REMEMBERED: usize = 64;

/// A name and port, and the address that answered last.
static REMEMBERED: Mutex<Vec<(String, SocketAddr)>> = Mutex::new(Vec::new());

/// The failed attempts of one connect.
#[derive(Debug)]
pub(crate) struct NoConnection {
    failed: Vec<(SocketAddr, io::Error)>,
}

impl NoConnection {
    /// Returns true if the host is up, and no process listens there: no address was silent.
    pub(crate) fn is_refused(&self) -> bool {
        let kinds = || self.failed.iter().map(|(_, error)| error.kind());
        kinds().any(|kind| kind == io::ErrorKind::ConnectionRefused)
            && !kinds().any(|kind| kind == io::ErrorKind::TimedOut)
    }
}

impl std::fmt::Display for NoConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.failed[..] {
            [] => f.write_str("it has no address"),
            [(_, error)] => error.fmt(f),
            all => {
                let all: Vec<String> = all
                    .iter()
                    .map(|(address, error)| format!("{address}: {error}"))
                    .collect();
                f.write_str(&all.join(", "))
            }
        }
    }
}

impl From<NoConnection> for io::Error {
    fn from(error: NoConnection) -> Self {
        let silent = |(_, error): &(SocketAddr, io::Error)| error.kind() == io::ErrorKind::TimedOut;
        let kind = match error.is_refused() {
            true => io::ErrorKind::ConnectionRefused,
            false if error.failed.iter().any(silent) => io::ErrorKind::TimedOut,
            false => io::ErrorKind::Other,
        };
        io::Error::new(kind, error.to_string())
    }
}

/// Connects to one of the `addresses` of `name` within `limit`, for all of them together. The stream blocks.
/// `name` is the key of the memory, and has the port in it.
pub(crate) fn connect_to_any(
    name: &str,
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<TcpStream, NoConnection> {
    let known = REMEMBERED
        .lock()
        .iter()
        .find(|(one, _)| one == name)
        .map(|(_, address)| *address);
    let mut attempts = Attempts {
        waiting: ordered(addresses, known),
        under_way: Vec::new(),
        failed: Vec::new(),
        end: Instant::now() + limit,
        limit,
    };
    attempts.waiting.reverse();
    let (stream, address) = match attempts.run() {
        Some((stream, address)) => (stream, address),
        None => {
            return Err(NoConnection {
                failed: attempts.failed,
            });
        }
    };
    if addresses.len() > 1 && known != Some(address) {
        let mut remembered = REMEMBERED.lock();
        remembered.retain(|(one, _)| one != name);
        remembered.truncate(MAX_REMEMBERED - 1);
        remembered.push((name.to_owned(), address));
    }
    Ok(stream)
}

/// Returns the addresses with the families in turn, as the resolver has ordered each, and `first` before
/// them.
fn ordered(addresses: &[SocketAddr], first: Option<SocketAddr>) -> Vec<SocketAddr> {
    let leading = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let mut families = [true, false].map(|lead| {
        let family = addresses
            .iter()
            .filter(move |one| (one.is_ipv6() == leading) == lead);
        family.copied()
    });
    let mut all: Vec<SocketAddr> = first.into_iter().filter(|one| addresses.contains(one)).collect();
    let mut exhausted = 0;
    for turn in (0..2).cycle() {
        match families[turn].next() {
            Some(address) if !all.contains(&address) => all.push(address),
            Some(_) => {}
            None => exhausted |= 1 << turn,
        }
        if exhausted == 0b11 {
            break;
        }
    }
    all.truncate(MAX_ADDRESSES);
    all
}

struct Attempts {
    /// The addresses that have not been tried, the next one last.
    waiting: Vec<SocketAddr>,
    under_way: Vec<(SocketAddr, OwnedFd)>,
    failed: Vec<(SocketAddr, io::Error)>,
    end: Instant,
    limit: Duration,
}

impl Attempts {
    /// Returns the first connection; `None` when every attempt has failed.
    fn run(&mut self) -> Option<(TcpStream, SocketAddr)> {
        let mut next = Instant::now();
        loop {
            while self.under_way.is_empty() || Instant::now() >= next {
                let Some(address) = self.waiting.pop() else { break };
                match begin(address) {
                    Ok((socket, true)) => return self.finish(address, socket),
                    Ok((socket, false)) => {
                        self.under_way.push((address, socket));
                        next = Instant::now() + HEAD_START;
                    }
                    Err(error) => self.failed.push((address, error.into())),
                }
            }
            if self.under_way.is_empty() {
                return None;
            }
            let now = Instant::now();
            if now >= self.end {
                let silent = format!("connection timed out, no answer in {} s", self.limit.as_secs());
                let silent = || io::Error::new(io::ErrorKind::TimedOut, silent.clone());
                self.failed
                    .extend(self.under_way.drain(..).map(|(address, _)| (address, silent())));
                self.failed
                    .extend(self.waiting.drain(..).map(|address| (address, silent())));
                return None;
            }
            let until = if self.waiting.is_empty() {
                self.end
            } else {
                self.end.min(next)
            };
            for at in self.answered(until - now).into_iter().rev() {
                let (address, socket) = self.under_way.remove(at);
                let error = getsockopt(&socket, sockopt::SocketError).unwrap_or(Errno::EIO as i32);
                if error == 0 {
                    return self.finish(address, socket);
                }
                self.failed.push((address, io::Error::from_raw_os_error(error)));
                next = Instant::now();
            }
        }
    }

    /// Waits until attempts have an outcome, at most for `time`; returns their places.
    fn answered(&self, time: Duration) -> Vec<usize> {
        let mut fds: Vec<PollFd<'_>> = self
            .under_way
            .iter()
            .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        // It is a millisecond more, since the time is cut down to whole ones.
        let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        // An interrupted poll has found nothing, and is repeated.
        let _ = poll(&mut fds, time);
        let has_answer = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        (0..fds.len()).filter(|&at| has_answer(&fds[at])).collect()
    }

    fn finish(&mut self, address: SocketAddr, socket: OwnedFd) -> Option<(TcpStream, SocketAddr)> {
        let stream = TcpStream::from(socket);
        match stream.set_nonblocking(false) {
            Ok(()) => Some((stream, address)),
            Err(error) => {
                self.failed.push((address, error));
                None
            }
        }
    }
}

/// Begins a connect that does not block; returns whether it is complete.
fn begin(address: SocketAddr) -> nix::Result<(OwnedFd, bool)> {
    let family = match address.is_ipv6() {
        true => AddressFamily::Inet6,
        false => AddressFamily::Inet,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::EINPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A listener whose queue is full, so that it answers nothing, with the sockets that fill the queue.
    fn silent() -> (SocketAddr, Vec<OwnedFd>) {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let any = SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        nix::sys::socket::bind(socket.as_raw_fd(), &any).unwrap();
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut all: Vec<OwnedFd> = (0..4).map(|_| begin(address).unwrap().0).collect();
        all.push(listener.into());
        (address, all)
    }

    #[test]
    fn a_silent_address_delays_little_and_the_one_that_answers_is_remembered() {
        let (dead, _queue) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = listener.local_addr().unwrap();
        let name = "a-silent-address.test:1";
        let stream = connect_to_any(name, &[dead, alive], LIMIT).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert!(REMEMBERED.lock().contains(&(name.to_owned(), alive)));
        assert_eq!(ordered(&[dead, alive], Some(alive)), [alive, dead]);
        // The address that answered is gone, and the other one has come back.
        drop((listener, _queue));
        let back = TcpListener::bind(dead).unwrap();
        let stream = connect_to_any(name, &[dead, alive], LIMIT).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), back.local_addr().unwrap());
        assert!(!REMEMBERED.lock().contains(&(name.to_owned(), alive)));
    }

    #[test]
    fn every_address_that_was_tried_is_told_with_its_reason() {
        let (dead, _queue) = silent();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect_to_any("nobody.test:1", &[gone, dead], Duration::from_millis(600)).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(&format!("{gone}: Connection refused")), "{told}");
        assert!(told.contains(&format!("{dead}: connection timed out")), "{told}");
        assert!(!error.is_refused(), "the silent one may be at work");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
        let error = connect_to_any("nobody.test:1", &[gone], LIMIT).unwrap_err();
        assert!(
            error.is_refused() && !error.to_string().contains("127.0.0.1"),
            "{error}"
        );
        assert!(
            connect_to_any("nobody.test:1", &[], LIMIT)
                .unwrap_err()
                .to_string()
                .contains("no address")
        );
    }

    #[test]
    fn the_families_take_turns() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "[::1]:1"].map(of);
        let turns = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(of);
        assert_eq!(ordered(&all, None), turns);
        assert_eq!(ordered(&all[3..4], None), turns[1..2]);
        assert_eq!(ordered(&[], Some(all[0])), []);
        let many: Vec<_> = (1..=99).map(|n| SocketAddr::from(([127, 0, 0, n], 1))).collect();
        assert_eq!(ordered(&many, Some(many[98]))[..2], [many[98], many[0]]);
        assert_eq!(ordered(&many, None).len(), MAX_ADDRESSES);
    }
}
