//! Connections to a server far away, begun before anybody asks for them.
//!
//! Each takes several round trips, and imageio makes them one after the other, since it shakes hands in its
//! accept loop. So they are begun early: one for the extents within the handshake of the first connection,
//! those of the pool right after it. How many the server wants is told by its answer to the OPTIONS of the
//! first one. Until then they shake hands and send nothing, so one that it does not want ends without a
//! request. [`Ahead::allow`] tells the others their purpose: the one for the extents asks for them at once,
//! one of the pool sends its OPTIONS.
//!
//! Each has a thread until it is ready, and the pool's thread that takes it waits for that one. Nothing else
//! waits for it: a connection that fails, or is not taken, ends with its thread.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tracing::debug;

use super::{Client, Error};

/// A call that makes one connection, and sends no request on it.
pub(super) type Connect = Box<dyn FnOnce() -> Result<Client, Error> + Send>;

/// The connections that were begun.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Begun>);

#[derive(Default)]
struct Begun {
    /// Those whose purpose is not known yet, or that nobody has taken.
    waiting: VecDeque<Waiting>,
    walker: Option<Waiting>,
}

struct Waiting {
    thread: JoinHandle<Result<Client, Error>>,
    purpose: Sender<Purpose>,
}

#[derive(Clone, Copy)]
enum Purpose {
    /// It lists the extents, and does nothing else.
    Walk,
    /// It is one of the pool's.
    Serve,
}

impl Waiting {
    /// Begins one; `None` where there is no thread for it. Dropping it without a purpose closes it when its
    /// handshake is done.
    fn begin(connect: Connect) -> Option<Waiting> {
        let (purpose, wanted) = channel();
        let make = move || {
            let mut client = connect()?;
            match wanted.recv() {
                Ok(Purpose::Walk) => client.ask_extents_ahead(),
                Ok(Purpose::Serve) => client.authorise()?,
                Err(_) => {}
            }
            Ok(client)
        };
        let thread = thread::Builder::new().name("ahead".into()).spawn(make).ok()?;
        Some(Waiting { thread, purpose })
    }

    fn shall(self, purpose: Purpose) -> Waiting {
        // The thread of one that has failed is not there any more.
        let _ = self.purpose.send(purpose);
        self
    }

    /// Waits until it is ready; `None` where it could not be made.
    fn take(self) -> Option<Client> {
        let Waiting { thread, purpose } = self;
        // The thread of one that has no purpose would wait for it.
        drop(purpose);
        let made = thread.join().ok()?;
        made.inspect_err(|e| debug!("a connection that was begun ahead has failed: {e}"))
            .ok()
    }
}

impl Ahead {
    /// Begins more of them.
    pub(super) fn begin(&self, connects: impl Iterator<Item = Connect>) {
        self.0.lock().waiting.extend(connects.filter_map(Waiting::begin));
    }

    /// Lets as many serve the pool as `serving` tells, beside one that lists the extents where there is a
    /// `walker`. That one is begun now if there is none. All others end.
    pub(super) fn allow(&self, walker: Option<Connect>, serving: usize) {
        let mut begun = self.0.lock();
        begun.walker = walker.and_then(|connect| {
            let waiting = begun.waiting.pop_front().or_else(|| Waiting::begin(connect));
            Some(waiting?.shall(Purpose::Walk))
        });
        begun.waiting.truncate(serving);
        begun.waiting = begun
            .waiting
            .drain(..)
            .map(|one| one.shall(Purpose::Serve))
            .collect();
    }

    /// Ends all that nobody has taken.
    pub(super) fn end(&self) {
        *self.0.lock() = Begun::default();
    }

    /// Returns the connection for the extents, if there is one; waits until its answer begins.
    pub(super) fn take_walker(&self) -> Option<Client> {
        let walker = self.0.lock().walker.take();
        walker?.take()
    }

    /// Returns one for the pool, if there is one; waits until it is authorised.
    pub(super) fn take(&self) -> Option<Client> {
        let next = self.0.lock().waiting.pop_front();
        next?.take()
    }
}
