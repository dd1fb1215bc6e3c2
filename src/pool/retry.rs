//! How long a failing request is repeated, and what a failed attempt may leave behind.
//!
//! The time of a request is counted from its first failure; the pause between attempts doubles. How long
//! repeating goes on depends on what failed:
//!
//! | failure                     | a change (write, zero)             | a read               |
//! |-----------------------------|------------------------------------|----------------------|
//! | connection lost, or silent  | the retry time                     | the retry time       |
//! | the server asks for it      | the retry time                     | the retry time       |
//! | the server answers 5xx      | at most [`MAX_STORAGE_RETRY_TIME`] | [`GRANTED_ATTEMPTS`] |
//! | an answer that does not fit | [`GRANTED_ATTEMPTS`]               | [`GRANTED_ATTEMPTS`] |
//! | denied, nonsense            | never                              | never                |
//!
//! The request for the extents counts as a read, but is not repeated when the server is silent: each attempt
//! would take minutes.
//!
//! While no connection at all gets an answer, the time is counted from the beginning of that outage.
//!
//! A server that is away comes back, but full storage or a bad sector usually stays as it is, and a user who
//! reads such a disk on purpose should not wait minutes for each sector.
//!
//! A change without an answer may still be performed, after all requests that are sent later on other
//! connections: [`Doubt`] says for how long. Sending the same bytes again is harmless, but newer bytes for
//! the same place must wait.

use std::time::Duration;

use tracing::info;

use crate::remote::RemoteError;
use crate::sync::Instant;
use crate::sync::thread::sleep;

/// Attempts granted whatever the retry time is, the first one included: all that a read has when the server
/// answers 5xx, all that any request has when its answers do not fit it, and the least that any request has
/// when connections are lost.
const GRANTED_ATTEMPTS: u32 = 4;

/// Pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// Upper bound on the pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Upper bound on a pause that the server asks for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(60);

/// Upper bound on repeating a change that the server's storage refuses: a path failover takes about as long.
const MAX_STORAGE_RETRY_TIME: Duration = Duration::from_secs(30);

/// A request whose connection broke is given this many times the time that it had been at work, to end.
const GRACE_FACTOR: u32 = 2;

/// Lower bound on that time.
const MIN_GRACE: Duration = Duration::from_millis(if cfg!(test) { 60 } else { 1000 });

/// A server that is away for this long may come back elsewhere. While it stays away, a new right is asked for
/// once in each such period.
const AWAY_TIME: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Shortest wait for a new right, whatever the retry time is: an engine that is well needs about as long.
pub(super) const MIN_RENEWAL_WAIT: Duration = Duration::from_secs(3);

/// The time until which an attempt without an answer may still be performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// The connection broke: its server notices that, and the last request ends soon.
    Until(Instant),
    /// The server fell silent during the request, which was made with the right of this number: it may
    /// continue at any time until that right has [ended](crate::remote::Dial::retired).
    Forever(u64),
}

impl Doubt {
    /// Returns the doubt that a failed attempt with the right of `epoch` leaves behind, after it was at work
    /// for `ago`.
    pub(super) fn of(error: &RemoteError, ago: Duration, epoch: u64) -> Option<Doubt> {
        match error {
            RemoteError::Late(_) => Some(Doubt::Forever(epoch)),
            // A proxy that has lost the server answers 5xx, too.
            RemoteError::Lost(_) | RemoteError::Unreachable(_) | RemoteError::Failed(_) => {
                Some(Doubt::until_a_request_of(ago))
            }
            // A proxy may have passed on a part of the request.
            RemoteError::Busy(..) | RemoteError::Garbled(_) => Some(Doubt::until_a_request_of(ago)),
            RemoteError::Over(_) | RemoteError::Denied(..) | RemoteError::Protocol(_) => None,
        }
    }

    /// False once the attempt can't be performed any more, because its right has ended: it is below
    /// `retired`.
    pub(crate) fn is_open(self, retired: u64) -> bool {
        !matches!(self, Doubt::Forever(epoch) if epoch < retired)
    }

    /// Returns the doubt about an attempt beside another one that has taken `time`.
    pub(super) fn until_a_request_of(time: Duration) -> Doubt {
        Doubt::Until(Instant::now() + (time * GRACE_FACTOR).max(MIN_GRACE))
    }
}

/// The rules by which a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A read of bytes.
    Read,
    /// A write or zero request.
    Change,
    /// The request for the extents: a read that may take minutes, and that nothing depends on.
    Walk,
}

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Retry {
    kind: RequestKind,
    time: Duration,
    failing_since: Option<Instant>,
    /// When [`Self::is_long`] was last true, or first asked.
    long_since: Option<Instant>,
    attempts: u32,
    /// The attempts whose answers did not fit.
    garbled: u32,
    pause: Duration,
}

impl Retry {
    /// Starts without any attempt; a request without an answer may be repeated for `time`.
    pub(super) fn new(kind: RequestKind, time: Duration) -> Retry {
        Retry {
            kind,
            time,
            failing_since: None,
            long_since: None,
            attempts: 0,
            garbled: 0,
            pause: FIRST_PAUSE,
        }
    }

    /// True once in each [`AWAY_TIME`] that the request goes on failing.
    pub(super) fn is_long(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.long_since.get_or_insert(now);
        let long = now - since >= AWAY_TIME;
        if long {
            self.long_since = Some(now);
        }
        long
    }

    /// Returns how long a request that has just failed may wait for a new right.
    pub(super) fn left(&self, outage: Option<Instant>) -> Duration {
        let now = Instant::now();
        let since = [self.failing_since, outage].into_iter().flatten().min();
        let passed = since.map_or(Duration::ZERO, |since| now - since);
        self.time.saturating_sub(passed).max(MIN_RENEWAL_WAIT)
    }

    /// Waits before the next attempt after one failed with `error`; returns the error when there shall be
    /// none.
    ///
    /// In an `outage` of all connections the time is counted from its beginning, so that requests which wait
    /// for each other do not spend the whole retry time one after the other.
    pub(super) fn again(&mut self, error: RemoteError, outage: Option<Instant>) -> Result<(), RemoteError> {
        let own = *self.failing_since.get_or_insert_with(Instant::now);
        let since = outage.map_or(own, |outage| own.min(outage));
        self.attempts += 1;
        self.garbled += u32::from(matches!(error, RemoteError::Garbled(_)));
        let few = self.attempts < GRANTED_ATTEMPTS;
        let within = |time: Duration| since.elapsed() + self.pause <= time;
        let on = match (&error, self.kind) {
            (RemoteError::Denied(..) | RemoteError::Protocol(_), _) => false,
            (RemoteError::Late(_), RequestKind::Walk) => false,
            (RemoteError::Failed(_), RequestKind::Read | RequestKind::Walk) => few,
            (RemoteError::Failed(_), RequestKind::Change) => within(self.time.min(MAX_STORAGE_RETRY_TIME)),
            // Without a retry time, a request without an answer is repeated only if that can do no harm.
            (RemoteError::Late(_), RequestKind::Change) => within(self.time),
            (RemoteError::Garbled(_), _) => self.garbled < GRANTED_ATTEMPTS,
            (
                RemoteError::Over(_)
                | RemoteError::Lost(_)
                | RemoteError::Unreachable(_)
                | RemoteError::Late(_)
                | RemoteError::Busy(..),
                _,
            ) => few || within(self.time),
        };
        if !on {
            return Err(error);
        }
        info!(attempt = self.attempts, "again after: {error}");
        let asked = match error {
            RemoteError::Busy(Some(asked), _) => asked.min(MAX_ASKED_PAUSE),
            _ => Duration::ZERO,
        };
        // The last attempt is made before the time is over, even if the server asks for a later one.
        let left = self.time.saturating_sub(since.elapsed());
        sleep(self.pause.max(asked.min(left)));
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

/// True when flushes that have been failing since `since` have failed for too long.
pub(super) fn is_hopeless(error: &RemoteError, since: Instant, time: Duration) -> bool {
    let time = match error {
        RemoteError::Failed(_) | RemoteError::Garbled(_) => time.min(MAX_STORAGE_RETRY_TIME),
        _ => time,
    };
    since.elapsed() >= time
}
