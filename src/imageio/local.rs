//! Proves that the unix socket named by the server is the server's own, before a single byte is sent to it.
//!
//! The server names the socket, and the server may be hostile, or far away behind a listener on this host
//! (`ssh -L`, haproxy, a redirected port). So a local address at the other end of the TCP connection proves
//! nothing, and the kernel is asked:
//!
//! 1. *The name* must be an abstract name or a plain absolute path, and short.
//! 2. *The other end* of the authorised TCP connection must be a socket of this host: the kernel then lists
//!    it with its owner. If the kernel itself forwards the port elsewhere, it lists none.
//! 3. *The listener* on the unix socket must run as a user that image servers run as, and must be the very
//!    process that holds that other end. If another user's process can't be inspected, both sockets must
//!    belong to a user that runs nothing but imageio.
//!
//! A forwarder does not listen on docker.sock, and an ssh agent does not serve TCP: they fail at 3, and the
//! connection to them is closed without a byte sent. Afterwards the server on the socket must know the ticket
//! and report the same of it as the TCP connection (`Image::open`): two daemons share no tickets.
//!
//! A failed proof is no error: the data goes over TCP, as from any other host.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::unistd::{User, geteuid};

use super::socket::{Owner, UnixRoute, connect_unix};
use crate::process::rights;

/// Upper bound on a socket's name: the room in a `sockaddr_un`.
const MAX_NAME_BYTES: usize = 107;

/// Proves that the unix socket `name` is the server's. `ends` are the two addresses of a TCP connection to
/// the server, ours first. Sends nothing. The error is the reason why the proof failed.
pub(super) fn prove(name: &str, ends: Option<(SocketAddr, SocketAddr)>) -> Result<UnixRoute, String> {
    usable_name(name)?;
    let (ours, theirs) = ends.ok_or("there is no connection to compare it with")?;
    let end = OtherEnd::find(ours, theirs)?;
    let (_silent, owner) = connect_unix(name).map_err(|e| e.to_string())?;
    if !is_server(owner.uid) {
        let uid = owner.uid;
        return Err(format!(
            "it belongs to user {uid}, who does not run image servers"
        ));
    }
    end.belongs_to(owner)?;
    let name = name.to_owned();
    Ok(UnixRoute { name, owner })
}

/// Checks that the server's name for its socket is worth a connect.
fn usable_name(name: &str) -> Result<(), String> {
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let no_detour = |path: &str| !path.split('/').any(|part| part == "..");
    let good = match name.strip_prefix('\0') {
        Some(abstract_name) => plain(abstract_name),
        None => name.starts_with('/') && plain(name) && no_detour(name),
    };
    match good && name.len() <= MAX_NAME_BYTES {
        true => Ok(()),
        false => Err("its name is neither a plain absolute path nor an abstract name".to_owned()),
    }
}

/// A socket of this host at the other end of one of our TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OtherEnd {
    inode: u64,
    uid: u32,
}

impl OtherEnd {
    /// Finds the socket whose own address is our peer and whose peer is our address.
    fn find(ours: SocketAddr, theirs: SocketAddr) -> Result<OtherEnd, String> {
        if ours.ip() != theirs.ip() {
            return Err("it is another host".to_owned());
        }
        // The IPv6 table also has the IPv4 connections of a listener for both.
        ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| find_in(&table, theirs, ours))
            .ok_or_else(|| "the other end of the connection is not a socket of this host".to_owned())
    }

    /// Checks that the process `listener` holds this socket.
    fn belongs_to(self, listener: Owner) -> Result<(), String> {
        let Owner { pid, uid } = listener;
        let held = rights::with(move || holds(pid, self.inode));
        match held {
            Some(true) => Ok(()),
            Some(false) => Err(format!(
                "process {pid} listens on it, which is not the one that answers on TCP"
            )),
            None if self.uid == uid && is_servers_own(uid) => Ok(()),
            None => Err(format!(
                "process {pid} of user {uid} listens on it, and whether it also answers on TCP cannot be seen"
            )),
        }
    }
}

/// Finds the connection from `from` to `to` in `/proc/net/tcp` or `tcp6`. The fields of a line are `sl local
/// remote state queues timers retransmits uid timeout inode`; each 32-bit word of an address is in the
/// processor's byte order.
fn find_in(table: &str, from: SocketAddr, to: SocketAddr) -> Option<OtherEnd> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is = |n: usize, address| fields.get(n).and_then(|text| parse(text)) == Some(canonical(address));
        if !(is(1, from) && is(2, to)) {
            return None;
        }
        let inode = fields.get(9)?.parse().ok().filter(|inode| *inode != 0)?;
        let uid = fields.get(7)?.parse().ok()?;
        Some(OtherEnd { inode, uid })
    })
}

fn parse(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some((ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Returns true if the process has the socket open, and `None` if its files can't be listed.
fn holds(pid: i32, inode: u64) -> Option<bool> {
    // The kernel reports pid 0 for a process outside of our container.
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok().filter(|_| pid > 0)?;
    let name = format!("socket:[{inode}]");
    Some(
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&name))),
    )
}

/// Returns true for root, for our own user, and for the users that imageio and vdsm run as. Any user may bind
/// an abstract name first, and only these may get the ticket and the data.
fn is_server(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw() || is_servers_own(uid)
}

fn is_servers_own(uid: u32) -> bool {
    let is = |name| matches!(User::from_name(name), Ok(Some(user)) if user.uid.as_raw() == uid);
    is("ovirtimg") || is("vdsm")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_plain_names_are_tried() {
        for good in ["\0/org/ovirt/imageio", "/run/ovirt imageio/sock", "\0x"] {
            assert_eq!(usable_name(good), Ok(()), "{good:?}");
        }
        let long = format!("/{}", "x".repeat(MAX_NAME_BYTES));
        for bad in [
            "",
            "\0",
            "sock",
            "./sock",
            "/run/../root/sock",
            "/run/a\0b",
            "\0a\0b",
            "/run/\x1b[2J",
            "/run/s\u{f6}ck",
            long.as_str(),
        ] {
            assert!(usable_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_other_end_is_found_with_its_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                // This machine has no IPv6.
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (ours, theirs) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let _accepted = listener.accept().unwrap();
            let end = OtherEnd::find(ours, theirs).unwrap();
            let uid = geteuid().as_raw();
            assert_eq!(end.uid, uid);
            let me = std::process::id() as i32;
            assert_eq!(end.belongs_to(Owner { pid: me, uid }), Ok(()));
            let parent = nix::unistd::getppid().as_raw();
            assert!(end.belongs_to(Owner { pid: parent, uid }).is_err());
            assert!(end.belongs_to(Owner { pid: 0, uid }).is_err());
        }
    }

    #[test]
    fn an_end_that_the_kernel_does_not_list_is_elsewhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let nobody = "127.0.0.1:1".parse().unwrap();
        assert!(OtherEnd::find(nobody, here).is_err());
        assert!(OtherEnd::find("192.0.2.1:5".parse().unwrap(), here).is_err());
    }
}
