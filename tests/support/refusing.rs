//! A port that refuses connections: it is bound, so that nobody else gets it, and nobody listens.

use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};

/// A port of 127.0.0.1 that refuses connections until it is dropped.
#[derive(Debug)]
pub struct RefusingPort(OwnedFd);

impl RefusingPort {
    pub fn bind() -> Self {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("make a socket");
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bind it");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddrV4 {
        let bound: SockaddrIn = getsockname(self.0.as_raw_fd()).expect("its address");
        bound.into()
    }
}
