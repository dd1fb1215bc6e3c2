//! Waiting for the engine and repeating requests to it: pauses, a bound, and an early end at a signal.
//!
//! A [`Patience`] is one wait, at one of three paces:
//! - *until a limit*: a step of the engine takes 1 to 10 s if the engine is busy and almost nothing if it is
//!   idle. So each pause is a tenth of the time waited so far, from 40 ms up to a second: no wait gets longer
//!   by more than a tenth, and a long one costs few requests;
//! - *doubling*: a fixed number of pauses between the attempts of one request, each twice as long as the one
//!   before;
//! - *even*: a fixed number of equal pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Error;

const SHORTEST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const WAITED_PER_PAUSE: u32 = 10;

/// Upper bound on the delay between a signal and the end of a sleep.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A switch that ends waits early, after a signal. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends all current and future waits.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns [`Error::Interrupted`] once it is set.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Sleeps for `time`, or fails as soon as it is set.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(SIGNAL_CHECK_INTERVAL));
        }
    }
}

/// One wait: the caller tries, and pauses between two attempts.
pub(crate) struct Patience<'a> {
    interrupt: &'a Interrupt,
    began: Instant,
    pauses: u32,
    pace: Pace,
}

/// The length and the number of the pauses.
enum Pace {
    /// Each pause is a tenth of the time waited so far, but at least `shortest`; there is none after `limit`.
    UntilLimit { limit: Duration, shortest: Duration },
    /// There are `count` pauses; each but the `first` is `factor` times as long as the one before.
    Counted {
        first: Duration,
        factor: u32,
        count: u32,
    },
}

impl<'a> Patience<'a> {
    /// Waits up to `limit`, with pauses that grow with the time waited.
    pub(crate) fn new(limit: Duration, interrupt: &'a Interrupt) -> Self {
        let shortest = SHORTEST_PAUSE;
        Self::at(Pace::UntilLimit { limit, shortest }, interrupt)
    }

    /// Waits up to `limit`, with pauses of the longest kind from the beginning: for attempts that are dear.
    pub(crate) fn steady(limit: Duration, interrupt: &'a Interrupt) -> Self {
        let shortest = LONGEST_PAUSE;
        Self::at(Pace::UntilLimit { limit, shortest }, interrupt)
    }

    /// Allows `count` pauses; each but the `first` is twice as long as the one before.
    pub(super) fn doubling(first: Duration, count: u32, interrupt: &'a Interrupt) -> Self {
        let factor = 2;
        Self::at(Pace::Counted { first, factor, count }, interrupt)
    }

    /// Allows `count` pauses of the same length.
    pub(super) fn even(pause: Duration, count: u32, interrupt: &'a Interrupt) -> Self {
        let (first, factor) = (pause, 1);
        Self::at(Pace::Counted { first, factor, count }, interrupt)
    }

    fn at(pace: Pace, interrupt: &'a Interrupt) -> Self {
        Patience {
            interrupt,
            began: Instant::now(),
            pauses: 0,
            pace,
        }
    }

    /// The time since the wait began.
    pub(crate) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// The number of the current attempt; it is 1 before the first pause.
    pub(super) fn attempt(&self) -> u32 {
        self.pauses + 1
    }

    /// Returns true if no pause is left: the current attempt is the last one.
    pub(super) fn is_over(&self) -> bool {
        self.next_pause().is_none()
    }

    /// Sleeps until the next attempt; returns false, without sleeping, when no pause is left.
    pub(crate) fn pause(&mut self) -> Result<bool, Error> {
        let Some(pause) = self.next_pause() else {
            return Ok(false);
        };
        self.interrupt.sleep(pause)?;
        self.pauses += 1;
        Ok(true)
    }

    fn next_pause(&self) -> Option<Duration> {
        match self.pace {
            Pace::UntilLimit { limit, shortest } => {
                let waited = self.waited();
                let left = limit.saturating_sub(waited);
                let pause = (waited / WAITED_PER_PAUSE).clamp(shortest, LONGEST_PAUSE);
                (!left.is_zero()).then(|| pause.min(left))
            }
            Pace::Counted { first, factor, count } => {
                (self.pauses < count).then(|| first * factor.pow(self.pauses))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lengths of the remaining pauses in milliseconds, without sleeping.
    fn pauses(mut patience: Patience<'_>) -> Vec<u128> {
        let mut all = Vec::new();
        while let Some(pause) = patience.next_pause() {
            assert_eq!(patience.attempt() as usize, all.len() + 1);
            all.push(pause.as_millis());
            patience.pauses += 1;
        }
        assert!(patience.is_over());
        all
    }

    #[test]
    fn counted_pauses_end_after_their_number() {
        let interrupt = Interrupt::default();
        let first = Duration::from_millis(200);
        assert_eq!(
            pauses(Patience::doubling(first, 4, &interrupt)),
            [200, 400, 800, 1600]
        );
        assert_eq!(pauses(Patience::even(first, 3, &interrupt)), [200, 200, 200]);
        assert!(!Patience::even(first, 0, &interrupt).pause().unwrap());
    }

    #[test]
    fn a_wait_with_a_limit_pauses_longer_and_longer_and_not_past_it() {
        let interrupt = Interrupt::default();
        for (waited, next) in [(0, Some(40)), (3, Some(300)), (50, Some(1000)), (60, None)] {
            let mut patience = Patience::new(Duration::from_secs(60), &interrupt);
            patience.began -= Duration::from_secs(waited);
            let pause = patience.next_pause();
            // Time also passes while the test runs.
            let fits = |next: u128| pause.is_some_and(|p| (next..next + 100).contains(&p.as_millis()));
            assert!(next.map_or(pause.is_none(), fits), "{waited}: {pause:?}");
        }
        let mut last = Patience::new(Duration::from_secs(60), &interrupt);
        last.began -= Duration::from_millis(59_990);
        assert!(last.next_pause().is_none_or(|p| p <= Duration::from_millis(10)));
    }

    #[test]
    fn a_signal_ends_every_wait_at_once() {
        let interrupt = Interrupt::default();
        interrupt.set();
        let minute = Duration::from_secs(60);
        for mut patience in [
            Patience::new(minute, &interrupt),
            Patience::even(minute, 1, &interrupt),
        ] {
            assert!(matches!(patience.pause(), Err(Error::Interrupted)));
            assert!(patience.waited() < minute);
        }
    }
}
