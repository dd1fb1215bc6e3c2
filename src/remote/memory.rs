//! A server in memory that keeps its promises to the letter and not a bit further, for the tests of `pool`
//! and `disk`.
//!
//! Unflushed writes belong to the connection that carried them: when it breaks, the server forgets them, and
//! readers see the bytes that were there before. When a flush fails, the server has forgotten the unflushed
//! writes of every connection, and reports that once. A request can be performed in part, or after everybody
//! has given up on it. A ticket can end, and all of its connections with it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Denial, Dial, Extent, Remote, RemoteError};
use crate::sync::{Instant, Mutex, MutexGuard, thread};

/// Delay after which a stray is performed; the grace that the pool allows in tests is longer (`pool::retry`).
const STRAY_DELAY: Duration = Duration::from_millis(50);

/// The requests that a fault is meant for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Request {
    Read,
    Change,
    Flush,
    Touch,
    Extents,
}

/// The fate of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The connection breaks before anything is performed.
    Lost,
    /// The connection breaks before anything is performed, and nothing listens any more where it led.
    Unreachable,
    /// The connection breaks when half is performed.
    LostHalf,
    /// The connection breaks before the answer, and its unflushed writes are forgotten, this one included. A
    /// flush has failed, and its report is lost.
    LostAfter,
    /// The connection breaks, and the request is performed soon after.
    LostLater,
    /// The server performs nothing and answers that it failed.
    Failed,
    /// The server performs half and answers that it failed.
    FailedHalf,
    /// A proxy answers that the request failed, and the server performs it soon after.
    FailedLater,
    /// The client panics.
    #[cfg(not(feature = "shuttle"))]
    Panic,
    /// There is no answer; the request is performed at once.
    Late,
    /// There is no answer; the request is performed when the test says so.
    LateLater,
    /// The ticket has ended.
    Denied,
    /// The answer makes no sense.
    Nonsense,
}

/// The disk as readers see it and as it is on the storage, the connections, and the faults to come.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) visible: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    /// For each byte, the connection that has written and not flushed it; 0 for none.
    owner: Vec<u64>,
    /// Connections that are neither broken nor closed.
    pub(crate) open: BTreeSet<u64>,
    /// Number of connections so far.
    pub(crate) dialled: u64,
    /// Faults for the next requests of their kind.
    pub(crate) faults: Vec<(Request, Fault)>,
    /// Number of faults that have happened.
    pub(crate) fired: u64,
    /// Number of zero requests.
    pub(crate) zeros: u64,
    /// Number of flushes that succeeded.
    pub(crate) flushes: u64,
    /// Requests that are performed when nobody waits for them any more; those without a time, when the test
    /// says so.
    strays: Vec<(Option<Instant>, Range<usize>, Vec<u8>)>,
    /// Tickets of this epoch and older ones have ended.
    pub(crate) ended: Option<u64>,
    pub(crate) epoch: u64,
    /// Number of further tickets that can be had.
    pub(crate) renewals: u64,
    /// Number of requests after which a connection breaks.
    pub(crate) lifetime: Option<u32>,
    /// The end of a connection's lifetime comes with the last answer, and not with the next request.
    pub(crate) announces: bool,
}

impl State {
    fn perform(&mut self, id: u64, range: Range<usize>, bytes: &[u8]) {
        self.visible[range.clone()].copy_from_slice(bytes);
        self.owner[range].fill(id);
    }

    fn forget(&mut self, lost: impl Fn(u64) -> bool) {
        for at in 0..self.owner.len() {
            if self.owner[at] != 0 && lost(self.owner[at]) {
                self.visible[at] = self.durable[at];
                self.owner[at] = 0;
            }
        }
    }

    /// Makes the writes of a connection durable.
    fn flush(&mut self, id: u64) {
        for at in 0..self.owner.len() {
            if self.owner[at] == id {
                self.durable[at] = self.visible[at];
                self.owner[at] = 0;
            }
        }
    }

    /// Breaks a connection; its unflushed writes are lost.
    fn cut(&mut self, id: u64) {
        self.open.remove(&id);
        self.forget(|owner| owner == id);
    }

    /// Breaks all connections, like a daemon that restarts.
    pub(crate) fn restart(&mut self) {
        self.open.clear();
        self.forget(|_| true);
    }

    /// Performs the strays that are due, or `all` of them, over whatever was written since.
    pub(crate) fn let_strays_in(&mut self, all: bool) {
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

/// The server; as a [`Dial`], it opens connections to itself.
pub(crate) struct MemoryServer {
    state: Arc<Mutex<State>>,
    /// Held while a ticket is renewed.
    renewing: Mutex<()>,
}

impl MemoryServer {
    /// Serves a disk of `size` bytes of value `fill`.
    pub(crate) fn new(size: usize, fill: u8) -> Arc<MemoryServer> {
        let state = State {
            visible: vec![fill; size],
            durable: vec![fill; size],
            owner: vec![0; size],
            ..State::default()
        };
        Arc::new(MemoryServer {
            state: Arc::new(Mutex::new(state)),
            renewing: Mutex::new(()),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Dial for MemoryServer {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        let mut state = self.state();
        if state.ended == Some(state.epoch) {
            return Err(RemoteError::Denied(
                Denial::EndedTicket,
                "the ticket has ended".into(),
            ));
        }
        state.dialled += 1;
        let id = state.dialled;
        state.open.insert(id);
        Ok(Box::new(Connection {
            state: self.state.clone(),
            id,
            epoch: state.epoch,
            requests: 0,
            durable: false,
        }))
    }

    fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Renews like `imageio`: one thread at a time, and not in one step.
    fn renew(&self, epoch: u64, _: &RemoteError, _: Duration) -> bool {
        let _one_at_a_time = self.renewing.lock();
        if epoch < self.state().epoch {
            return true;
        }
        thread::sleep(Duration::ZERO);
        let mut state = self.state();
        if state.renewals == 0 {
            return false;
        }
        // A transfer has ended only when its requests have.
        state.let_strays_in(true);
        state.forget(|_| true);
        state.renewals -= 1;
        // The ticket goes with its transfer, so older connections are refused from now on.
        state.ended = Some(state.epoch);
        state.epoch += 1;
        true
    }

    fn retired(&self) -> u64 {
        self.state().epoch
    }

    fn retire(&self, epoch: u64, wait: Duration) -> bool {
        self.renew(epoch, &RemoteError::Late("a request in doubt".into()), wait)
    }
}

struct Connection {
    state: Arc<Mutex<State>>,
    id: u64,
    epoch: u64,
    requests: u32,
    durable: bool,
}

impl Connection {
    fn request(
        &mut self,
        kind: Request,
        change: Option<(Range<usize>, &[u8])>,
        perform: impl FnOnce(&mut State, u64),
    ) -> Result<(), RemoteError> {
        let mut state = self.state.lock();
        let id = self.id;
        state.let_strays_in(false);
        if !state.open.contains(&id) {
            return Err(RemoteError::Lost("the connection broke".into()));
        }
        if state.ended.is_some_and(|ended| self.epoch <= ended) {
            return Err(RemoteError::Denied(
                Denial::EndedTicket,
                "the ticket has ended".into(),
            ));
        }
        self.requests += 1;
        if state.lifetime.is_some_and(|most| self.requests > most) {
            state.cut(id);
            return Err(RemoteError::Lost("it has lived long enough".into()));
        }
        let Some(at) = state.faults.iter().position(|(of, _)| *of == kind) else {
            perform(&mut state, id);
            return Ok(());
        };
        let fault = state.faults.remove(at).1;
        state.fired += 1;
        if let Some((range, bytes)) = change {
            let half = range.len() / 2;
            match fault {
                Fault::LostHalf | Fault::FailedHalf => {
                    state.perform(id, range.start..range.start + half, &bytes[..half]);
                }
                Fault::LostAfter | Fault::Late => state.perform(id, range, bytes),
                Fault::LostLater | Fault::FailedLater => {
                    let soon = Instant::now() + STRAY_DELAY;
                    state.strays.push((Some(soon), range, bytes.to_vec()));
                }
                Fault::LateLater => state.strays.push((None, range, bytes.to_vec())),
                Fault::Lost | Fault::Unreachable | Fault::Failed | Fault::Denied | Fault::Nonsense => {}
                #[cfg(not(feature = "shuttle"))]
                Fault::Panic => {}
            }
        }
        Err(match fault {
            Fault::Lost | Fault::LostHalf | Fault::LostAfter | Fault::LostLater => {
                if (kind, fault) == (Request::Flush, Fault::LostAfter) {
                    state.forget(|_| true);
                }
                state.cut(id);
                RemoteError::Lost("reset".into())
            }
            Fault::Failed | Fault::FailedHalf | Fault::FailedLater => {
                if kind == Request::Flush || kind == Request::Change && self.durable {
                    state.forget(|_| true);
                }
                RemoteError::Failed("500".into())
            }
            Fault::Unreachable => {
                state.cut(id);
                RemoteError::Unreachable("connection refused".into())
            }
            Fault::Late | Fault::LateLater => RemoteError::Late("silence".into()),
            Fault::Denied => {
                state.ended = Some(self.epoch);
                RemoteError::Denied(Denial::EndedTicket, "403".into())
            }
            Fault::Nonsense => RemoteError::Protocol("418".into()),
            #[cfg(not(feature = "shuttle"))]
            Fault::Panic => {
                drop(state);
                panic!("on purpose");
            }
        })
    }

    fn change(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), RemoteError> {
        let durable = self.durable;
        self.request(Request::Change, Some((range.clone(), bytes)), |state, id| {
            state.perform(id, range, bytes);
            if durable {
                state.flush(id);
            }
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.state.lock().cut(self.id);
    }
}

impl Remote for Connection {
    fn epoch(&self) -> u64 {
        self.epoch
    }
    fn read(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), RemoteError> {
        self.request(Request::Read, None, |state, _| {
            let mut at = offset as usize;
            for part in parts {
                part.copy_from_slice(&state.visible[at..][..part.len()]);
                at += part.len();
            }
        })
    }
    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), RemoteError> {
        let data = parts.concat();
        self.change(offset as usize..offset as usize + data.len(), &data)
    }
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), RemoteError> {
        self.state.lock().zeros += 1;
        self.change(offset as usize..(offset + len) as usize, &vec![0; len as usize])
    }
    fn set_durable(&mut self, durable: bool) {
        self.durable = durable;
    }
    fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.announces && state.lifetime.is_some_and(|most| self.requests >= most)
    }
    fn flush(&mut self) -> Result<(), RemoteError> {
        self.request(Request::Flush, None, |state, id| {
            state.flushes += 1;
            state.flush(id);
        })
    }
    fn touch(&mut self) -> Result<(), RemoteError> {
        self.request(Request::Touch, None, |_, _| {})
    }
    fn extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), RemoteError> {
        self.request(Request::Extents, None, |state, _| {
            for (n, block) in state.visible.chunks(4096).enumerate() {
                found(Extent {
                    start: n as u64 * 4096,
                    length: block.len() as u64,
                    zero: block.iter().all(|b| *b == 0),
                });
            }
        })
    }
}
