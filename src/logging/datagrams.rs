//! The datagram socket of a daemon that keeps logs.
//!
//! A daemon that starts again has another socket at the same path, so a send that fails is tried once more
//! over a new connection. One that does not read is waited for once; until a record gets through, nobody is.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for a daemon that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection to the daemon at a path.
#[derive(Debug)]
pub(super) struct Datagrams {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The last record found no room.
    deaf: bool,
}

impl Datagrams {
    /// Connects to the daemon at `path`; an error means that none is there.
    pub(super) fn to(path: &Path) -> io::Result<Datagrams> {
        Ok(Datagrams {
            path: path.to_owned(),
            socket: Some(connect(path)?),
            deaf: false,
        })
    }

    /// Sends one record, or drops it.
    pub(super) fn send(&mut self, record: &[u8]) {
        for _ in 0..2 {
            let connected = self.socket.take().or_else(|| connect(&self.path).ok());
            let Some(socket) = connected else {
                return;
            };
            match socket.send(record) {
                Ok(_) => {
                    let heard = self.deaf && socket.set_nonblocking(false).is_ok();
                    self.deaf &= !heard;
                    self.socket = Some(socket);
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.deaf = socket.set_nonblocking(true).is_ok();
                    self.socket = Some(socket);
                    return;
                }
                // The daemon is another one now, or the record is too long for any.
                Err(_) => self.deaf = false,
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn received(daemon: &UnixDatagram) -> Vec<u8> {
        let mut record = [0; 64];
        daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let n = daemon.recv(&mut record).unwrap();
        record[..n].to_owned()
    }

    #[test]
    fn a_daemon_that_starts_again_gets_the_next_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(Datagrams::to(&path).is_err());
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut log = Datagrams::to(&path).unwrap();
        log.send(b"first");
        assert_eq!(received(&daemon), b"first");
        drop(daemon);
        log.send(b"nobody is there");
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        log.send(b"second");
        assert_eq!(received(&daemon), b"second");
    }

    #[test]
    fn a_daemon_that_does_not_read_is_waited_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut log = Datagrams::to(&path).unwrap();
        let began = Instant::now();
        while !log.deaf {
            log.send(b"kept");
        }
        let waited = began.elapsed();
        assert!(waited >= PATIENCE);
        for _ in 0..1000 {
            log.send(b"dropped");
        }
        assert!(began.elapsed() < waited + 100 * PATIENCE, "each record waits");
        daemon.set_nonblocking(true).unwrap();
        while daemon.recv(&mut [0; 64]).is_ok() {}
        log.send(b"heard");
        daemon.set_nonblocking(false).unwrap();
        assert_eq!(received(&daemon), b"heard");
        assert!(!log.deaf);
    }
}
