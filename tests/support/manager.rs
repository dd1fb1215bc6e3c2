//! A service manager, as far as a mount talks to it: the socket of `sd_notify(3)`, and the rule that only the
//! main process is listened to (`NotifyAccess=main`).

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use tempfile::TempDir;

use super::run::{scratch, wait_until};

/// A message, and the process that sent it.
#[derive(Clone, Debug)]
pub struct Message {
    pub pid: i32,
    pub text: String,
}

/// A manager that listens until it is dropped.
pub struct Manager {
    address: OsString,
    heard: Arc<Mutex<Vec<Message>>>,
    stop: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl Manager {
    /// Listens at a path.
    pub fn start() -> Self {
        let dir = scratch();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("listen");
        Self::over(socket, path.into(), dir)
    }

    /// Listens at a name that is in no file system.
    pub fn start_abstract() -> Self {
        let dir = scratch();
        let name = format!("rhv-mount-test-{}", dir.path().display());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("listen");
        Self::over(socket, format!("@{name}").into(), dir)
    }

    fn over(socket: UnixDatagram, address: OsString, dir: TempDir) -> Self {
        setsockopt(&socket, PassCred, &true).expect("ask for the senders");
        let limit = Some(Duration::from_millis(20));
        socket.set_read_timeout(limit).expect("limit the reads");
        let (heard, stop) = (
            Arc::<Mutex<Vec<Message>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (all, stopped) = (heard.clone(), stop.clone());
        let listening = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(message) = receive(&socket) {
                    all.lock().expect("no panic").push(message);
                }
            }
        });
        Self {
            address,
            heard,
            stop,
            listening: Some(listening),
            _dir: dir,
        }
    }

    /// Returns the value of `$NOTIFY_SOCKET`.
    pub fn address(&self) -> &OsString {
        &self.address
    }

    /// Returns all messages so far.
    pub fn messages(&self) -> Vec<Message> {
        self.heard.lock().expect("no panic").clone()
    }

    /// Returns the assignments so far, in order, where `main` is the main process until it names another one.
    /// Panics when another process speaks.
    #[track_caller]
    pub fn words(&self, mut main: i32) -> Vec<String> {
        let mut words = Vec::new();
        for message in self.messages() {
            assert_eq!(message.pid, main, "not the main process: {message:?}");
            for word in message.text.lines() {
                if let Some(pid) = word.strip_prefix("MAINPID=") {
                    main = pid.parse().expect("a number");
                }
                words.push(word.to_owned());
            }
        }
        words
    }

    /// Waits until an assignment begins with `word`.
    #[track_caller]
    pub fn wait_for(&self, word: &str, seconds: u64) {
        wait_until(&format!("the manager hears {word}"), seconds, || {
            let messages = self.messages();
            let mut words = messages.iter().flat_map(|message| message.text.lines());
            words.any(|one| one.starts_with(word))
        });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn receive(socket: &UnixDatagram) -> Option<Message> {
    let mut bytes = [0; 8192];
    let mut space = nix::cmsg_space!(libc::ucred);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::empty();
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags).ok()?;
    let sender = received.cmsgs().ok()?.find_map(|part| match part {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
        _ => None,
    });
    let (pid, length) = (sender?, received.bytes);
    Some(Message {
        pid,
        text: String::from_utf8_lossy(&bytes[..length]).into_owned(),
    })
}

/// Asserts that `words` has assignments that begin with each of `order`, in this order.
#[track_caller]
pub fn assert_in_order(words: &[String], order: &[&str]) {
    let mut rest = words.iter();
    for wanted in order {
        assert!(
            rest.any(|word| word.starts_with(wanted)),
            "{wanted:?} is missing, or not after those before it: {words:#?}"
        );
    }
}
