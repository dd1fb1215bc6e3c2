//! The byte stream below HTTP: a TCP or unix socket with timeouts for connect, read and write.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::Broken;
#[cfg(any(test, feature = "fuzzing"))]
use super::script::Script;
use crate::addresses::connect_to_any;
use crate::zone;

/// Upper bound on a TCP or unix connect, and on the server's silence during a TLS handshake. The stock client
/// uses the same.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Default upper bound on the server's silence during a request, and on the stall of a send. The stock client
/// uses the same; the server also gives up on a silent client after 60 s.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// The process that listens on a unix socket, as reported by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: i32,
    pub(super) uid: u32,
}

/// A unix socket and the only process that may listen on it; `local` proves which one that is.
#[derive(Debug, Clone)]
pub(super) struct UnixRoute {
    /// A path, or an abstract name that begins with a NUL byte.
    pub(super) name: String,
    pub(super) owner: Owner,
}

impl UnixRoute {
    /// The socket's name for messages.
    pub(super) fn shown(&self) -> String {
        format!("unix:{}", self.name.replace('\0', "@"))
    }
}

/// The destination of a connection.
#[derive(Debug, Clone)]
pub(super) enum Route {
    Tcp {
        /// Host name or address (IPv6 in brackets).
        host: String,
        /// The zone of an IPv6 address.
        zone: Option<String>,
        port: u16,
    },
    /// The server's own socket on this host.
    Unix(UnixRoute),
    /// A recorded server.
    #[cfg(any(test, feature = "fuzzing"))]
    Script(Script),
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(any(test, feature = "fuzzing"))]
    Script(Script),
}

impl Socket {
    /// Connects. A send may then stall for `timeout`; a read times out after [`CONNECT_TIMEOUT`] until the
    /// handshake is done and the caller sets another limit.
    pub(super) fn connect(route: &Route, timeout: Duration) -> Result<Socket, Broken> {
        let socket = match route {
            Route::Tcp { host, zone, port } => {
                Socket::Tcp(connect_tcp(host, zone.as_deref(), *port, timeout)?)
            }
            Route::Unix(unix) => {
                let (stream, owner) = connect_unix(&unix.name).map_err(|e| Broken::connect(&e))?;
                if owner != unix.owner {
                    return Err(Broken::Connect("another process listens there now".to_owned()));
                }
                Socket::Unix(stream)
            }
            #[cfg(any(test, feature = "fuzzing"))]
            Route::Script(script) => Socket::Script(script.clone()),
        };
        socket
            .set_timeouts(CONNECT_TIMEOUT, timeout)
            .map_err(|e| Broken::connect(&e))?;
        Ok(socket)
    }

    pub(super) fn set_timeouts(&self, read: Duration, write: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s
                .set_read_timeout(Some(read))
                .and_then(|()| s.set_write_timeout(Some(write))),
            Socket::Unix(s) => s
                .set_read_timeout(Some(read))
                .and_then(|()| s.set_write_timeout(Some(write))),
            #[cfg(any(test, feature = "fuzzing"))]
            Socket::Script(_) => Ok(()),
        }
    }

    /// Our address and the server's, over TCP.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Socket::Unix(_) => None,
            Socket::Tcp(s) => s.local_addr().ok().zip(s.peer_addr().ok()),
            #[cfg(any(test, feature = "fuzzing"))]
            Socket::Script(_) => None,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Socket::Tcp(s) => s.read(buf),
                Socket::Unix(s) => s.read(buf),
                #[cfg(any(test, feature = "fuzzing"))]
                Socket::Script(s) => s.read(buf),
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                }
                other => return other,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(|stream| stream.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(|stream| stream.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    /// True when nothing has arrived that was not read, not even the end of the stream.
    pub(super) fn is_silent(&self) -> bool {
        let fd = match self {
            Socket::Tcp(s) => s.as_raw_fd(),
            Socket::Unix(s) => s.as_raw_fd(),
            #[cfg(any(test, feature = "fuzzing"))]
            Socket::Script(_) => return true,
        };
        let peeked = recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        matches!(peeked, Err(Errno::EAGAIN | Errno::EINTR))
    }

    /// Waits until something can be read, or the end of the stream; false when nothing has come within
    /// `time`.
    pub(super) fn is_readable_within(&self, time: Duration) -> bool {
        let fd = match self {
            Socket::Tcp(s) => s.as_fd(),
            Socket::Unix(s) => s.as_fd(),
            #[cfg(any(test, feature = "fuzzing"))]
            Socket::Script(_) => return true,
        };
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout);
        // An error shows in the read that follows.
        ready != Ok(0)
    }

    fn send(&mut self, mut once: impl FnMut(&mut dyn Write) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let result = match self {
                Socket::Tcp(s) => once(s),
                Socket::Unix(s) => once(s),
                #[cfg(any(test, feature = "fuzzing"))]
                Socket::Script(s) => once(s),
            };
            match result {
                // A stop and continue interrupts a send with a timeout, even if no signal handler is
                // installed.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the server takes no data",
                    ));
                }
                other => return other,
            }
        }
    }
}

fn connect_tcp(host: &str, zone: Option<&str>, port: u16, timeout: Duration) -> Result<TcpStream, Broken> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let mut addresses: Vec<_> = (name, port)
        .to_socket_addrs()
        .map_err(|e| Broken::Resolve(e.to_string()))?
        .collect();
    if let Some(zone) = zone {
        let scope = zone::scope(zone).map_err(Broken::Connect)?;
        for address in &mut addresses {
            if let SocketAddr::V6(v6) = address {
                v6.set_scope_id(scope);
            }
        }
    }
    let key = format!("{host}%{}:{port}", zone.unwrap_or_default());
    let stream =
        connect_to_any(&key, &addresses, CONNECT_TIMEOUT).map_err(|error| Broken::no_connection(&error))?;
    notice_dead_peers(&stream, timeout).map_err(|e| Broken::connect(&e))?;
    Ok(stream)
}

/// Makes the kernel probe a silent peer and give up on it: a host without power does not even send a reset.
fn notice_dead_peers(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(
        stream,
        sockopt::TcpKeepIdle,
        &(timeout.as_secs() as u32 / 2).max(1),
    )?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    Ok(setsockopt(
        stream,
        sockopt::TcpUserTimeout,
        &(timeout.as_millis() as u32),
    )?)
}

/// Connects to `path`, a path or an abstract name after a NUL byte; returns the stream and the process that
/// listens. A unix connect waits for a place in the listener's queue, bounded by the send timeout.
pub(super) fn connect_unix(path: &str) -> io::Result<(UnixStream, Owner)> {
    let address = match path.strip_prefix('\0') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path)?,
    };
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let limit = TimeVal::seconds(CONNECT_TIMEOUT.as_secs() as i64);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    connect(socket.as_raw_fd(), &address)?;
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    let owner = Owner {
        pid: peer.pid(),
        uid: peer.uid(),
    };
    Ok((socket.into(), owner))
}

#[cfg(test)]
mod tests {
    use std::os::unix::thread::JoinHandleExt;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use nix::sys::pthread::pthread_kill;
    use nix::sys::signal::Signal;

    use super::*;

    /// A stop and continue (ctrl-Z and `fg`, or a debugger) interrupts a send in the same way as this signal.
    #[test]
    fn an_interrupted_send_goes_on() {
        let caught = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, caught.clone()).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[1; 4096]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        let mut socket = Socket::Unix(ours);
        socket.set_timeouts(IO_TIMEOUT, IO_TIMEOUT).unwrap();
        let sender = std::thread::spawn(move || socket.write(&[2; 4096]));
        std::thread::sleep(Duration::from_millis(100));
        pthread_kill(sender.as_pthread_t(), Signal::SIGUSR1).unwrap();
        while !caught.load(std::sync::atomic::Ordering::SeqCst) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(100));
        theirs.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        while !sender.is_finished() {
            // The last read times out: nothing is left.
            let _ = theirs.read(&mut [0; 4096]);
        }
        assert_eq!(sender.join().unwrap().unwrap(), 4096);
    }
}
