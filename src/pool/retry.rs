//! How long a failing request is tried again, and what a failed attempt leaves behind.
//!
//! The clock of a request starts at its first failure, and with it a pause that doubles. How long it goes on depends on
//! who failed:
//!
//! | what happened                 | a change (write, zero)             | a read          |
//! |-------------------------------|------------------------------------|-----------------|
//! | connection lost, or silent    | the retry time                     | the retry time  |
//! | the server says 5xx           | at most [`MAX_STORAGE_RETRY_TIME`]           | [`MAX_ATTEMPTS`]    |
//! | denied, nonsense              | never                              | never           |
//!
//! The extents are asked for like a read, but not again where the server is silent: that is minutes each time.
//!
//! Where no connection gets an answer any more, the clock is the pool's, and has begun when that did.
//!
//! A server that is away comes back; a storage that is full, or a sector that is bad, mostly doesn't, and whoever
//! reads such a disk on purpose should not wait minutes for each sector.
//!
//! A change whose answer never came may still be performed, after everything that is sent later on another connection:
//! [`Doubt`] says for how long. Sending the same bytes again is harmless; newer bytes for the same place have to wait.

use std::time::Duration;

use tracing::info;

use crate::remote::RemoteError;
use crate::sync::Instant;
use crate::sync::thread::sleep;

/// Attempts of a request that may be repeated, the first one included, also when the retry time is 0.
const MAX_ATTEMPTS: u32 = 4;

/// Wait before the first repetition; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// Longest wait between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long changes are repeated that the server's storage refuses: a path that fails over takes about as long.
const MAX_STORAGE_RETRY_TIME: Duration = Duration::from_secs(30);

/// A request that was at work for some time when its connection broke is given this many times that time to end.
const GRACE_FACTOR: u32 = 2;

/// And at least this.
const MIN_GRACE: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// A server that has been away for this long may not come back where it was; asked again as often.
const AWAY_TIME: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Until when an attempt without an answer may still be performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// The connection broke: whoever served it finds out, and its last request ends soon.
    Until(Instant),
    /// The server fell silent in the middle: it may wake up at any time.
    Forever,
}

impl Doubt {
    /// What an attempt that began `ago` leaves behind.
    pub(super) fn of(error: &RemoteError, ago: Duration) -> Option<Doubt> {
        match error {
            RemoteError::Late(_) => Some(Doubt::Forever),
            // A 5xx may be a proxy's, which has lost the server.
            RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Failed(_) => {
                Some(Doubt::until_a_request_of(ago))
            }
            RemoteError::Denied(..) | RemoteError::Protocol(_) => None,
        }
    }

    /// For as long as another one may take where one has taken `time`.
    pub(super) fn until_a_request_of(time: Duration) -> Doubt {
        Doubt::Until(Instant::now() + (time * GRACE_FACTOR).max(MIN_GRACE))
    }
}

/// What is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Read,
    Change,
    /// A read that may take minutes, and that nobody needs.
    Walk,
}

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Retry {
    kind: RequestKind,
    time: Duration,
    failing_since: Option<Instant>,
    /// When [`Self::is_long`] was true, or the first failure.
    long_since: Option<Instant>,
    attempts: u32,
    pause: Duration,
}

impl Retry {
    /// None so far; lost connections are tried again for `time`.
    pub(super) fn new(kind: RequestKind, time: Duration) -> Retry {
        Retry {
            kind,
            time,
            failing_since: None,
            long_since: None,
            attempts: 0,
            pause: FIRST_PAUSE,
        }
    }

    /// True each time that it has been failing for [`AWAY_TIME`] more.
    pub(super) fn is_long(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.long_since.get_or_insert(now);
        let long = now - since >= AWAY_TIME;
        if long {
            self.long_since = Some(now);
        }
        long
    }

    /// An attempt has failed: waits before the next one, or returns the error when there is to be none.
    ///
    /// In an `outage` of all connections, the time counts from its beginning: requests that wait for each other do not wait
    /// for it one after the other.
    pub(super) fn again(&mut self, error: RemoteError, outage: Option<Instant>) -> Result<(), RemoteError> {
        let own = *self.failing_since.get_or_insert_with(Instant::now);
        let since = outage.map_or(own, |outage| own.min(outage));
        self.attempts += 1;
        let few = self.attempts < MAX_ATTEMPTS;
        let within = |time: Duration| since.elapsed() + self.pause <= time;
        let on = match (&error, self.kind) {
            (RemoteError::Denied(..) | RemoteError::Protocol(_), _) => false,
            (RemoteError::Late(_), RequestKind::Walk) => false,
            (RemoteError::Failed(_), RequestKind::Read | RequestKind::Walk) => few,
            (RemoteError::Failed(_), RequestKind::Change) => within(self.time.min(MAX_STORAGE_RETRY_TIME)),
            // Without time to retry, a request without an answer is repeated only where that can do no harm.
            (RemoteError::Late(_), RequestKind::Change) => within(self.time),
            (RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Late(_), _) => {
                few || within(self.time)
            }
        };
        if !on {
            return Err(error);
        }
        info!(attempt = self.attempts, "again after: {error}");
        sleep(self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

/// True when flushes that have failed since `since` have failed for too long.
pub(super) fn is_hopeless(error: &RemoteError, since: Instant, time: Duration) -> bool {
    let time = match error {
        RemoteError::Failed(_) => time.min(MAX_STORAGE_RETRY_TIME),
        _ => time,
    };
    since.elapsed() >= time
}
