//! A server in memory that keeps its promises to the letter and not a bit further.
//!
//! What a connection has written belongs to that connection until it flushes: when the connection breaks, the server
//! forgets it, and readers see what was there before. When a flush fails, it has forgotten what any connection had
//! not flushed, and says so once. A request can be performed in part, or after everybody has given up on it. A ticket
//! can end, and with it all connections.

use std::time::Duration;

use super::*;
use crate::remote::{Denial, Dial, Extent, Remote, RemoteError};
use crate::sync::Instant;

/// Little where thousands of servers are made, each for a few steps.
pub(super) const SIZE: usize = if cfg!(feature = "shuttle") {
    16 << 10
} else {
    512 << 10
};

/// A stray ends within this time; the disk's own patience is longer (`pool::retry`, in tests).
const STRAY: Duration = Duration::from_millis(10);

/// Which requests a fault is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Request {
    Read,
    Change,
    Flush,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// The connection breaks before anything is done.
    Lost,
    /// It breaks when half is done.
    LostHalf,
    /// It breaks before the answer; then all of it is forgotten with the rest. A flush has failed, and nobody is told.
    LostAfter,
    /// It breaks, and the request is performed soon after.
    LostLater,
    /// Nothing is done, and the server says so.
    Failed,
    /// Half is done, and the server says that it failed.
    FailedHalf,
    /// Whoever is between says that it failed, and the server performs it soon after.
    FailedLater,
    /// A bug of ours.
    #[cfg(not(feature = "shuttle"))]
    Panic,
    /// No answer; it is performed at once.
    Late,
    /// No answer; it is performed some time, the test says when.
    LateLater,
    /// The ticket has ended.
    Denied,
    /// The answer makes no sense.
    Nonsense,
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) visible: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// For each byte the connection that has written and not flushed it; 0 for none.
    owner: Vec<u64>,
    /// Connections that are broken.
    broken: Vec<u64>,
    /// Faults for the next requests of their kind.
    pub(super) faults: Vec<(Request, Fault)>,
    pub(super) fired: u64,
    pub(super) zeros: u64,
    pub(super) flushes: u64,
    /// Requests that are performed when nobody waits for them; without a time, when the test says so.
    strays: Vec<(Option<Instant>, Range<usize>, Vec<u8>)>,
    /// Tickets of this epoch and older ones have ended.
    ended: Option<u64>,
    epoch: u64,
    /// A new ticket is to be had when one has ended.
    pub(super) renewable: bool,
    /// A connection breaks after so many requests.
    pub(super) lifetime: Option<u32>,
}

impl Server {
    fn perform(&mut self, id: u64, range: Range<usize>, bytes: &[u8]) {
        self.visible[range.clone()].copy_from_slice(bytes);
        self.owner[range].fill(id);
    }

    fn forget(&mut self, lost: impl Fn(u64) -> bool) {
        for at in 0..SIZE {
            if self.owner[at] != 0 && lost(self.owner[at]) {
                self.visible[at] = self.durable[at];
                self.owner[at] = 0;
            }
        }
    }

    /// The connection breaks, and takes with it what it did not flush.
    fn cut(&mut self, id: u64) {
        self.broken.push(id);
        self.forget(|owner| owner == id);
    }

    /// All connections break: a daemon that starts again.
    pub(super) fn restart(&mut self, newest: u64) {
        self.broken.extend(1..=newest);
        self.forget(|_| true);
    }

    /// What strays there are is performed, whoever wrote there since.
    pub(super) fn let_strays_in(&mut self, all: bool) {
        let now = Instant::now();
        let due = |at: Option<Instant>| all || at.is_some_and(|at| at <= now);
        let (go, stay) = std::mem::take(&mut self.strays)
            .into_iter()
            .partition(|(at, ..)| due(*at));
        self.strays = stay;
        for (_, range, bytes) in go {
            self.durable[range.clone()].copy_from_slice(&bytes);
            self.visible[range].copy_from_slice(&bytes);
        }
    }
}

pub(super) struct Cloud {
    pub(super) server: Arc<Mutex<Server>>,
    pub(super) newest: AtomicU64,
}

impl Cloud {
    /// A disk of [`SIZE`] bytes of `fill`.
    pub(super) fn new(fill: u8) -> Arc<Cloud> {
        let server = Server {
            visible: vec![fill; SIZE],
            durable: vec![fill; SIZE],
            owner: vec![0; SIZE],
            ..Server::default()
        };
        Arc::new(Cloud {
            server: Arc::new(Mutex::new(server)),
            newest: AtomicU64::new(0),
        })
    }

    pub(super) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock()
    }

    pub(super) fn restart(&self) {
        let mut server = self.server();
        let newest = self.newest.load(Ordering::SeqCst);
        server.restart(newest);
    }
}

impl Dial for Cloud {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        let server = self.server();
        if server.ended == Some(server.epoch) {
            return Err(RemoteError::Denied(
                Denial::EndedTicket,
                "the ticket has ended".into(),
            ));
        }
        Ok(Box::new(Connection {
            server: self.server.clone(),
            id: self.newest.fetch_add(1, Ordering::SeqCst) + 1,
            epoch: server.epoch,
            requests: 0,
        }))
    }

    fn epoch(&self) -> u64 {
        self.server().epoch
    }

    fn renew(&self, epoch: u64, _: &RemoteError) -> bool {
        let mut server = self.server();
        if epoch == server.epoch && server.renewable {
            server.forget(|_| true);
            server.epoch += 1;
        }
        epoch < server.epoch
    }
}

struct Connection {
    server: Arc<Mutex<Server>>,
    id: u64,
    epoch: u64,
    requests: u32,
}

impl Connection {
    fn request(
        &mut self,
        kind: Request,
        change: Option<(Range<usize>, &[u8])>,
        perform: impl FnOnce(&mut Server, u64),
    ) -> Result<(), RemoteError> {
        let mut server = self.server.lock();
        let id = self.id;
        server.let_strays_in(false);
        if server.broken.contains(&id) {
            return Err(RemoteError::Lost("the connection broke".into()));
        }
        if server.ended.is_some_and(|ended| self.epoch <= ended) {
            return Err(RemoteError::Denied(
                Denial::EndedTicket,
                "the ticket has ended".into(),
            ));
        }
        self.requests += 1;
        if server.lifetime.is_some_and(|most| self.requests > most) {
            server.cut(id);
            return Err(RemoteError::Lost("it has lived long enough".into()));
        }
        let Some(at) = server.faults.iter().position(|(of, _)| *of == kind) else {
            perform(&mut server, id);
            return Ok(());
        };
        let fault = server.faults.remove(at).1;
        server.fired += 1;
        if let Some((range, bytes)) = change {
            let half = range.len() / 2;
            match fault {
                Fault::LostHalf | Fault::FailedHalf => {
                    server.perform(id, range.start..range.start + half, &bytes[..half]);
                }
                Fault::LostAfter | Fault::Late => server.perform(id, range, bytes),
                Fault::LostLater | Fault::FailedLater => {
                    let soon = Instant::now() + STRAY;
                    server.strays.push((Some(soon), range, bytes.to_vec()));
                }
                Fault::LateLater => server.strays.push((None, range, bytes.to_vec())),
                Fault::Lost | Fault::Failed | Fault::Denied | Fault::Nonsense => {}
                #[cfg(not(feature = "shuttle"))]
                Fault::Panic => {}
            }
        }
        Err(match fault {
            Fault::Lost | Fault::LostHalf | Fault::LostAfter | Fault::LostLater => {
                if (kind, fault) == (Request::Flush, Fault::LostAfter) {
                    server.forget(|_| true);
                }
                server.cut(id);
                RemoteError::Lost("reset".into())
            }
            Fault::Failed | Fault::FailedHalf | Fault::FailedLater => {
                if kind == Request::Flush {
                    server.forget(|_| true);
                }
                RemoteError::Failed("500".into())
            }
            Fault::Late | Fault::LateLater => RemoteError::Late("silence".into()),
            Fault::Denied => {
                server.ended = Some(self.epoch);
                RemoteError::Denied(Denial::EndedTicket, "403".into())
            }
            Fault::Nonsense => RemoteError::Protocol("418".into()),
            #[cfg(not(feature = "shuttle"))]
            Fault::Panic => {
                drop(server);
                panic!("on purpose");
            }
        })
    }

    fn change(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), RemoteError> {
        self.request(Request::Change, Some((range.clone(), bytes)), |server, id| {
            server.perform(id, range, bytes)
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.lock().cut(self.id);
    }
}

impl Remote for Connection {
    fn epoch(&self) -> u64 {
        self.epoch
    }
    fn read(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), RemoteError> {
        self.request(Request::Read, None, |server, _| {
            let mut at = offset as usize;
            for part in parts {
                part.copy_from_slice(&server.visible[at..][..part.len()]);
                at += part.len();
            }
        })
    }
    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), RemoteError> {
        let data = parts.concat();
        self.change(offset as usize..offset as usize + data.len(), &data)
    }
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), RemoteError> {
        self.server.lock().zeros += 1;
        self.change(offset as usize..(offset + len) as usize, &vec![0; len as usize])
    }
    fn flush(&mut self) -> Result<(), RemoteError> {
        self.request(Request::Flush, None, |server, id| {
            server.flushes += 1;
            for at in 0..SIZE {
                if server.owner[at] == id {
                    server.durable[at] = server.visible[at];
                    server.owner[at] = 0;
                }
            }
        })
    }
    fn touch(&mut self) -> Result<(), RemoteError> {
        Ok(())
    }
    fn extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), RemoteError> {
        let server = self.server.lock();
        for (n, block) in server.visible.chunks(4096).enumerate() {
            let zero = block.iter().all(|b| *b == 0);
            found(Extent {
                start: n as u64 * 4096,
                length: block.len() as u64,
                zero,
            });
        }
        Ok(())
    }
}
