//! The transfer URL of an image and its replacement, in a thread of its own.
//!
//! The engine may take minutes to replace a transfer. The requests that need the new URL wait for it, each no
//! longer than it may be repeated, and fail then; the renewal goes on without them, and its URL serves the
//! requests that come later. One renewal is at work at a time. Those that ask for the same reason meanwhile
//! take over its outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::TransferUrl;

/// The state of a ticket, as far as its server shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TicketState {
    /// The server does not know the ticket: the server has restarted, or the ticket was removed.
    Unknown,
    /// The server refuses the ticket for another reason: it has expired, or was cancelled.
    Refused,
    /// The host is up, and no process listens at the server's address: the server may have moved.
    NobodyThere,
    /// It is good, and must end all the same: a request under it was never answered, and only the end of its
    /// transfer proves that it is over.
    InDoubt,
}

/// Returns a new transfer URL in the place of one that has ended, for the given reason. May block for
/// minutes.
pub(super) type Renewal = Box<dyn Fn(&TransferUrl, TicketState) -> Option<TransferUrl> + Send + Sync>;

/// The current URL and the renewal at work.
pub(super) struct Renewals {
    state: Mutex<State>,
    /// Notified when a renewal has ended.
    ended: Condvar,
    source: OnceLock<Renewal>,
}

struct State {
    /// The number of URLs before the current one.
    epoch: u64,
    url: TransferUrl,
    /// The epoch whose ticket was the first one of a new transfer: every older transfer has ended.
    retired: u64,
    at_work: bool,
    /// The time and the reason of the last renewal, if it failed.
    failed: Option<(Instant, TicketState)>,
}

impl Renewals {
    /// Begins with `url`, in epoch 0.
    pub(super) fn from(url: TransferUrl) -> Arc<Renewals> {
        Arc::new(Renewals {
            state: Mutex::new(State {
                epoch: 0,
                url,
                retired: 0,
                at_work: false,
                failed: None,
            }),
            ended: Condvar::new(),
            source: OnceLock::new(),
        })
    }

    /// Registers the source of new URLs; the first one stays.
    pub(super) fn renew_with(&self, source: Renewal) {
        let _ = self.source.set(source);
    }

    /// Returns the epoch and the URL.
    pub(super) fn current(&self) -> (u64, TransferUrl) {
        let state = self.state.lock();
        (state.epoch, state.url.clone())
    }

    /// Returns the epoch before which no request can be at work any more.
    pub(super) fn retired(&self) -> u64 {
        self.state.lock().retired
    }

    /// Waits up to `wait` for a URL that is newer than `epoch`, whose ticket is as `reason` says; returns
    /// false when there is none.
    pub(super) fn renew(self: &Arc<Self>, epoch: u64, reason: TicketState, wait: Duration) -> bool {
        if self.source.get().is_none() {
            return false;
        }
        let asked = Instant::now();
        let until = asked + wait;
        let mut state = self.state.lock();
        loop {
            if epoch < state.epoch {
                return true;
            }
            // One that was at work meanwhile has failed for the same reason.
            if state
                .failed
                .is_some_and(|(at, question)| at > asked && question == reason)
            {
                return false;
            }
            if !state.at_work {
                let (own, old) = (self.clone(), state.url.clone());
                let renewal = std::thread::Builder::new().name("renewal".to_owned());
                if renewal.spawn(move || own.run(&old, reason)).is_err() {
                    return false;
                }
                state.at_work = true;
            }
            if self.ended.wait_until(&mut state, until).timed_out() {
                return epoch < state.epoch;
            }
        }
    }

    fn run(&self, old: &TransferUrl, reason: TicketState) {
        let renewed = catch_unwind(AssertUnwindSafe(|| self.source.get()?(old, reason)));
        let mut state = self.state.lock();
        state.at_work = false;
        state.failed = None;
        match renewed.ok().flatten() {
            Some(url) => {
                state.epoch += 1;
                // The old transfer was finalized before, and the engine removes a ticket only once the daemon
                // has no request of it at work: it waits for those, and refuses all that come later.
                if url.ticket() != old.ticket() {
                    state.retired = state.epoch;
                }
                state.url = url;
            }
            None => state.failed = Some((Instant::now(), reason)),
        }
        drop(state);
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    fn url(ticket: u32) -> TransferUrl {
        TransferUrl::parse(&format!("http://imageio.example:54322/images/ticket-{ticket}")).unwrap()
    }

    #[test]
    fn a_request_waits_no_longer_than_it_may_and_a_later_one_gets_the_url() {
        let renewals = Renewals::from(url(0));
        let (go, gone) = channel();
        let gone = Mutex::new(gone);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        renewals.renew_with(Box::new(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            gone.lock().recv().ok().map(url)
        }));
        let short = Duration::from_millis(50);
        assert!(!renewals.renew(0, TicketState::Unknown, short));
        assert!(!renewals.renew(0, TicketState::NobodyThere, short));
        go.send(1).unwrap();
        assert!(renewals.renew(0, TicketState::Unknown, Duration::from_secs(60)));
        assert_eq!(
            asked.load(Ordering::SeqCst),
            1,
            "all of them waited for one renewal"
        );
        assert_eq!(renewals.current(), (1, url(1)));
        assert!(
            renewals.renew(0, TicketState::Unknown, Duration::ZERO),
            "it is newer already"
        );
    }

    #[test]
    fn a_renewal_that_fails_is_asked_for_again_by_the_next_request_only() {
        let renewals = Renewals::from(url(0));
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        renewals.renew_with(Box::new(move |_, _| {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 => None,
                1 => panic!("on purpose"),
                n => Some(url(n as u32)),
            }
        }));
        let long = Duration::from_secs(60);
        assert!(!renewals.renew(0, TicketState::Refused, long));
        assert!(!renewals.renew(0, TicketState::Refused, long));
        assert!(renewals.renew(0, TicketState::Refused, long));
        assert_eq!(renewals.current(), (1, url(2)));
    }

    #[test]
    fn requests_are_over_when_their_transfer_has_ended_and_not_when_it_was_prolonged() {
        let renewals = Renewals::from(TransferUrl::parse("http://a/images/first-ticket").unwrap());
        let next = Mutex::new(vec![
            "http://b/images/second-ticket",
            "http://b/images/first-ticket",
            "http://a/images/first-ticket",
        ]);
        renewals.renew_with(Box::new(move |_, _| TransferUrl::parse(next.lock().pop()?).ok()));
        let renew = || {
            renewals.renew(
                renewals.current().0,
                TicketState::Refused,
                Duration::from_secs(60),
            )
        };
        let renewed = || {
            assert!(renew());
            (renewals.current().0, renewals.retired())
        };
        assert_eq!([renewed(), renewed(), renewed()], [(1, 0), (2, 0), (3, 3)]);
        assert!(!renew());
        assert_eq!((renewals.current().0, renewals.retired()), (3, 3));
    }
}
