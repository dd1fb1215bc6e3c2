//! Is the server's unix socket really the server's? Asked before a single byte is sent to it.
//!
//! The server names the socket, and the server may be hostile, or simply far away behind something that listens here
//! (`ssh -L`, haproxy, a redirected port): an address of our own at the other end proves nothing. So the kernel is asked:
//!
//! 1. *The name* is an abstract one or a plain absolute path, and short.
//! 2. *The other end* of the TCP connection that was authorised is a socket of this host: the kernel lists it, with
//!    its owner. Behind a port that the kernel itself sends elsewhere there is none.
//! 3. *Whoever listens* on the unix socket is a user whom a server of images runs as, and is the very process that holds
//!    that other end. Where another user's process can't be looked into, both must belong to a user who runs
//!    nothing but imageio.
//!
//! A forwarder does not listen on docker.sock, and the agent of ssh does not serve TCP: they fail at 3, and the
//! connection to them is closed as it was opened. Then the server on the socket has to know the ticket and to say of
//! it what the other one said (`Image::open`): two daemons share no tickets.
//!
//! What can't be proven is no error: the data goes over TCP, as from any other host.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::unistd::{User, geteuid};

use super::socket::{Owner, UnixRoute, connect_unix};
use crate::process::rights;

/// As long as a name fits into the address of a socket.
const MAX_NAME_BYTES: usize = 107;

/// Proves that the unix socket `name` is the server's, with the two addresses of a TCP connection to the server. Nothing
/// is sent.
pub(super) fn prove(name: &str, ends: Option<(SocketAddr, SocketAddr)>) -> Result<UnixRoute, String> {
    usable_name(name)?;
    let (ours, theirs) = ends.ok_or("there is no connection to compare it with")?;
    let end = OtherEnd::find(ours, theirs)?;
    let (_silent, owner) = connect_unix(name).map_err(|e| e.to_string())?;
    if !is_server(owner.uid) {
        let uid = owner.uid;
        return Err(format!("user {uid} listens there, who is no server of images"));
    }
    end.belongs_to(owner)?;
    let name = name.to_owned();
    Ok(UnixRoute { name, owner })
}

/// The server's name for its socket, if it is one that is worth a try.
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

/// The socket at the other end of a TCP connection of ours, when it is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OtherEnd {
    inode: u64,
    uid: u32,
}

impl OtherEnd {
    /// Looks for it: its own address is our peer, and its peer is us.
    fn find(ours: SocketAddr, theirs: SocketAddr) -> Result<OtherEnd, String> {
        if ours.ip() != theirs.ip() {
            return Err("it is another host".to_owned());
        }
        // An IPv4 connection is in the table of IPv6 when its listener is one for both.
        ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| find_in(&table, theirs, ours))
            .ok_or_else(|| "the other end of the connection is not a socket of this host".to_owned())
    }

    /// Does `listener` hold it?
    fn belongs_to(self, listener: Owner) -> Result<(), String> {
        let Owner { pid, uid } = listener;
        let held = rights::with(move || holds(pid, self.inode));
        match held {
            Some(true) => Ok(()),
            Some(false) => Err(format!(
                "process {pid} listens there, and is not the one that answers on TCP"
            )),
            None if self.uid == uid && is_servers_own(uid) => Ok(()),
            None => Err(format!(
                "it cannot be seen whether process {pid} of user {uid}, who listens there, answers on TCP"
            )),
        }
    }
}

/// The line of a connection from `from` to `to`. Listed as `sl local remote state queues timers retransmits uid
/// timeout inode`, with each word of an address as the processor has it in memory.
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

/// `None` when we may not look.
fn holds(pid: i32, inode: u64) -> Option<bool> {
    // 0 is a process outside of our container.
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok().filter(|_| pid > 0)?;
    let name = format!("socket:[{inode}]");
    Some(
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&name))),
    )
}

/// An abstract name belongs to whoever binds it first. The ticket and the data go only to root, to
/// ourselves, or to the users that imageio and vdsm run as.
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
                // No IPv6 here.
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
