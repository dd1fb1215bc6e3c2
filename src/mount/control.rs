//! The words of `rhv-mount umount` and `rhv-mount status` to a running mount: one JSON line each way over the
//! mount's control socket.
//!
//! A request to unmount is answered with the outcome when everything has ended; that makes `umount` a
//! barrier.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use super::files::{BackupStatus, FileStatus, LeftOutStatus};
use super::record::{Ending, Held, Place};
use crate::open_disk::DiskStatus;
use crate::path_bytes::bytes_beside_text;
use crate::process::identity::why_silent;

/// Longest wait for an answer about the status. An answer to a request to unmount takes as long as the data.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// After this long, a user who waits for the end of a mount is told what it waits for.
const UMOUNT_SILENCE: Duration = Duration::from_secs(5);

/// A process that leaves so many questions for its status unanswered, each for [`STATUS_TIMEOUT`], is stopped
/// or stuck.
const MAX_UNANSWERED: u32 = 3;

/// Upper bound on a line, in bytes: root asks the processes of every user. The ending of 64 connections with
/// their figures, or the status of 100 disks, takes half of it.
pub(crate) const MAX_LINE_BYTES: u64 = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    Status,
    Umount,
}

/// The state of a mount. The names are those of `status -o json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The path for people: U+FFFD stands for bytes that are not UTF-8.
    pub(crate) mountpoint: String,
    /// The path as it is, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mountpoint_bytes: Option<Vec<u8>>,
    /// Both also for the file.
    pub(crate) file: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file_bytes: Option<Vec<u8>>,
    /// The process that serves it, with its number in the PID namespace of the one who asks; absent where it
    /// has none there, as from outside of its container, or where there is no process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// `mounted`, `ending`, `detached` (it is out of the tree, and a program still has the file open),
    /// `silent` (the process is there and does not answer), `dead` (it was killed), or `failed`: it has ended
    /// badly, and nobody has heard of it yet.
    pub(crate) phase: String,
    /// The numbers of a detached file system, for the one who looks for its holders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Held>,
    /// Those who hold a detached mount, as the one who asks finds them.
    #[serde(default, skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub(crate) holders: Vec<String>,
    /// The bad end of an earlier mount on the same path that nobody has heard of yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earlier: Option<String>,
    /// The VM whose disks are mounted, and its snapshot where they are those of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<String>,
    /// The backup that the disks belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backup: Option<BackupStatus>,
    /// The files of a VM's disks. The figures beside them are their sums.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<FileStatus>,
    /// The disks of the VM that are not mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<LeftOutStatus>,
    #[serde(flatten)]
    pub(crate) disk: DiskStatus,
}

impl Status {
    /// The status of a mount in `phase`.
    pub(crate) fn of(
        mountpoint: &Path,
        file: &Path,
        pid: Option<u32>,
        phase: &str,
        disk: DiskStatus,
    ) -> Status {
        Status {
            mountpoint: mountpoint.display().to_string(),
            mountpoint_bytes: bytes_beside_text(mountpoint),
            file: file.display().to_string(),
            file_bytes: bytes_beside_text(file),
            pid,
            phase: phase.to_owned(),
            held: None,
            holders: vec![],
            earlier: None,
            vm: None,
            backup: None,
            disks: vec![],
            left_out: vec![],
            disk,
        }
    }

    /// The same with the files of several disks.
    pub(crate) fn with_files(self, disks: Vec<FileStatus>) -> Status {
        Status { disks, ..self }
    }

    /// True when `path` is the mountpoint or a file of the mount.
    pub(crate) fn is_about(&self, path: &Path) -> bool {
        let is = |path: &Path, text: &str, bytes: &Option<Vec<u8>>| {
            path.as_os_str().as_bytes() == bytes.as_deref().unwrap_or(text.as_bytes())
        };
        let is_mountpoint = |path: &Path| is(path, &self.mountpoint, &self.mountpoint_bytes);
        let is_file = |name: &OsStr| self.disks.iter().any(|one| name == one.file_name.as_str());
        is_mountpoint(path)
            || is(path, &self.file, &self.file_bytes)
            || path.file_name().is_some_and(is_file) && path.parent().is_some_and(is_mountpoint)
    }

    /// True for a mount of the disks of this backup.
    pub(crate) fn has_backup(&self, id: &str) -> bool {
        self.backup.as_ref().is_some_and(|backup| backup.id == id)
    }

    /// True for a mount that has this transfer.
    pub(crate) fn has_transfer(&self, id: &str) -> bool {
        let disks = self.disks.iter().map(|one| &one.disk);
        let mut disks = disks.chain([&self.disk]);
        disks.any(|disk| disk.transfer.as_deref() == Some(id))
    }
}

/// The process that serves a mount, as the one who asks sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// It has this number in the PID namespace of the one who asks.
    Here(u32),
    /// It runs in another container.
    Elsewhere,
    /// Nothing tells.
    Unknown,
}

impl Server {
    /// Says what ends a mount that is unmounted and in use.
    pub(crate) fn ends_all_the_same(self) -> String {
        match self {
            Server::Here(pid) => format!("`kill {pid}` ends it all the same"),
            Server::Elsewhere => {
                "its process runs in another container, where the signal SIGTERM ends it all the same"
                    .to_owned()
            }
            Server::Unknown => "the signal SIGTERM to its process ends it all the same".to_owned(),
        }
    }

    /// Says why it may not answer, and what to do about it.
    pub(crate) fn why_silent(self) -> String {
        match self {
            Server::Here(pid) => why_silent(pid),
            Server::Elsewhere => {
                "its process runs in another container, and whether it is stopped can be seen only there"
                    .to_owned()
            }
            Server::Unknown => "which process it is, and whether it is stopped, is not known".to_owned(),
        }
    }

    /// Says what makes it give up on data that it cannot bring to the storage.
    pub(crate) fn gives_up(self) -> String {
        match self {
            Server::Here(pid) => format!("`kill {pid}` twice makes it give up"),
            Server::Elsewhere | Server::Unknown => {
                "the signal SIGTERM, twice and sent where it runs, makes it give up".to_owned()
            }
        }
    }
}

/// Listens on the place's socket; one that nobody listens on any more is replaced.
pub(crate) fn listen(place: &Place) -> io::Result<UnixListener> {
    let path = place.socket();
    let refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if connect(place, SockFlag::SOCK_NONBLOCK).is_err_and(|e| refused(&e)) {
        match std::fs::remove_file(&path) {
            // A `recover` or `umount` has cleared the place meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    UnixListener::bind(path)
}

/// Answers and closes the connection; the other side may be gone.
pub(crate) fn answer(mut stream: UnixStream, value: &impl Serialize) {
    if let Ok(json) = serde_json::to_string(value) {
        let _ = writeln!(stream, "{json}");
    }
}

/// Asks the mount at `place` for its status.
pub(crate) fn ask_status(place: &Place) -> io::Result<Status> {
    let stream = ask(place, Ask::Status)?;
    stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
    let status: Status = read_line(BufReader::new(&stream))?;
    Ok(Status {
        pid: peer(&stream)?,
        ..status
    })
}

/// Asks the mount at `place` to end, and waits until it has; calls `still` once when that takes its time.
/// Returns `None` when the process hung up without an answer, an error when nobody listens, and one that
/// [`is_silent`] when the process is there and does not even answer for its status any more.
pub(crate) fn ask_umount(place: &Place, still: impl FnOnce()) -> io::Result<Option<Ending>> {
    let stream = match ask(place, Ask::Umount) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        asked => asked?,
    };
    stream.set_read_timeout(Some(UMOUNT_SILENCE))?;
    let mut reader = BufReader::new(&stream);
    let (mut still, mut deaf) = (Some(still), 0);
    while let Err(silent) = reader.fill_buf() {
        if !is_silent(&silent) {
            return Ok(None);
        }
        if let Some(still) = still.take() {
            still();
        }
        // A process that answers has bounds of its own.
        deaf = match ask_status(place) {
            Err(e) if is_silent(&e) => deaf + 1,
            _ => 0,
        };
        if deaf == MAX_UNANSWERED {
            return Err(silent);
        }
    }
    stream.set_read_timeout(None)?;
    Ok(read_line(reader).ok())
}

/// True for an error that says that there was no answer in time.
pub(crate) fn is_silent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Returns the process that serves `place`.
pub(crate) fn process_of(place: &Place) -> Server {
    // The kernel takes a connection for a process that is stopped, until as many wait as it keeps.
    let asked = connect(place, SockFlag::SOCK_NONBLOCK).and_then(|stream| peer(&stream));
    let known = asked
        .ok()
        .or_else(|| place.record().map(|record| record.pid_here()));
    match known {
        Some(Some(pid)) => Server::Here(pid),
        Some(None) => Server::Elsewhere,
        None => Server::Unknown,
    }
}

/// Returns the process that listens at the other end; the kernel has no number for one that can't be seen.
fn peer(stream: &UnixStream) -> io::Result<Option<u32>> {
    let peer = getsockopt(stream, PeerCredentials)?;
    Ok(u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0))
}

/// Connects within [`STATUS_TIMEOUT`]: a process that is stopped takes no connection, and the kernel keeps
/// only so many for it.
fn connect(place: &Place, flags: SockFlag) -> io::Result<UnixStream> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    setsockopt(
        &socket,
        SendTimeout,
        &TimeVal::seconds(STATUS_TIMEOUT.as_secs() as i64),
    )?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(&place.socket())?)?;
    Ok(socket.into())
}

fn ask(place: &Place, ask: Ask) -> io::Result<UnixStream> {
    let mut stream = connect(place, SockFlag::empty())?;
    writeln!(stream, "{}", serde_json::to_string(&ask)?)?;
    Ok(stream)
}

pub(crate) fn read_line<T: for<'a> Deserialize<'a>>(reader: impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    if reader.take(MAX_LINE_BYTES).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// The kernel reports it while the question is written, or only when the answer is read.
    #[test]
    fn a_process_that_hangs_up_is_one_without_an_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::of(dir.path(), "/mnt/disk".as_ref());
        let listener = listen(&place).expect("listen");
        let hang_up = std::thread::spawn(move || {
            for _ in 0..200 {
                drop(listener.accept().expect("accept"));
            }
        });
        for _ in 0..200 {
            let asked = ask_umount(&place, || {});
            assert!(matches!(asked, Ok(None)), "{asked:?}");
        }
        hang_up.join().expect("all were taken");
    }

    #[test]
    fn a_line_without_end_is_given_up_on() {
        let mut endless = io::repeat(b' ').take(MAX_LINE_BYTES * 2);
        assert!(read_line::<Ask>(BufReader::with_capacity(1024, &mut endless)).is_err());
        assert!(endless.limit() >= MAX_LINE_BYTES - 1024, "it was read on");
        assert_eq!(read_line::<Ask>(&b"\"umount\"\n"[..]).unwrap(), Ask::Umount);
    }
}
