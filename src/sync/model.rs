//! Locks, threads and time as shuttle's scheduler sees them.
//!
//! Shuttle has no time: in it, a wait never ends by its timeout, and a sleep does nothing. Here a clock moves
//! to the end of whichever wait or sleep the scheduler lets end first. So any request can take longer than
//! any timeout, or no time at all, and a run depends on nothing but its schedule.
//!
//! Condition variables are implemented here, for two reasons. `notify_one` must be able to choose a waiter
//! that has a timeout, since the notification may be lost on it. And no waiter may wake up without a reason,
//! since that would hide a missing wakeup.

use std::cell::Cell;
use std::ops::{Add, Deref, DerefMut, Sub};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
pub(crate) use shuttle::sync::atomic;

use self::mpsc::{Receiver, Sender};

std::thread_local! {
    /// Time since the beginning of the clock; all threads of a schedule are one thread of the system.
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::from_secs(1 << 20)) };
}

/// Lets the scheduler choose the thread that continues.
fn switch() {
    shuttle::thread::sleep(Duration::ZERO);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Instant(CLOCK.get())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Self::now() - *self
    }

    pub(crate) fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    fn has_come(self) {
        CLOCK.set(CLOCK.get().max(self.0));
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Instant(self.0 + time)
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, time: Duration) -> Self {
        Instant(self.0 - time)
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

pub(crate) mod thread {
    use std::io;

    pub(crate) use shuttle::thread::{Builder, JoinHandle, scope, yield_now};
    use shuttle::thread::{Scope, ScopedJoinHandle};

    use super::{Duration, Instant};

    /// Spawns a thread of `scope`; never fails.
    pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
        scope: &'scope Scope<'scope, '_>,
        body: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        Ok(scope.spawn(body))
    }

    pub(crate) fn sleep(time: Duration) {
        let end = Instant::now() + time;
        yield_now();
        end.has_come();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// Holds the lock, except during a wait.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = Some(self.locked());
        MutexGuard { mutex: self, guard }
    }

    /// Ignores poison: a panic fails the schedule anyway.
    fn locked(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("nobody looks during a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("nobody looks during a wait")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    so_far: u64,
    /// For each waiter its number, and the sender that wakes it up.
    now: Vec<(u64, Sender<()>)>,
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let (_, woken) = self.leave(guard);
        woken.recv().expect("a sender that is taken out sends");
        guard.guard = Some(guard.mutex.locked());
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) {
        let end = Instant::now() + time;
        let (me, woken) = self.leave(guard);
        let mut timed_out = false;
        while !timed_out && woken.try_recv().is_err() {
            thread::yield_now();
            // It does not always take the first chance, so that other threads can act meanwhile.
            timed_out = thread_rng().gen_ratio(1, 2) && self.forget(me);
        }
        if timed_out {
            end.has_come();
        }
        guard.guard = Some(guard.mutex.locked());
    }

    pub(crate) fn notify_one(&self) {
        switch();
        let mut all = self.0.lock().unwrap();
        if all.now.is_empty() {
            return;
        }
        let chosen = thread_rng().gen_range(0..all.now.len());
        let chosen = all.now.swap_remove(chosen);
        drop(all);
        wake(chosen);
    }

    pub(crate) fn notify_all(&self) {
        switch();
        let all = std::mem::take(&mut self.0.lock().unwrap().now);
        all.into_iter().for_each(wake);
    }

    /// Releases the lock and becomes a waiter in one step: the scheduler chooses before a lock is released,
    /// not after.
    fn leave<T>(&self, guard: &mut MutexGuard<'_, T>) -> (u64, Receiver<()>) {
        let (wake, woken) = mpsc::channel();
        guard.guard = None;
        let mut all = self.0.lock().unwrap();
        all.so_far += 1;
        let me = all.so_far;
        all.now.push((me, wake));
        (me, woken)
    }

    /// Removes waiter `me`; false when it has already been chosen to wake up.
    fn forget(&self, me: u64) -> bool {
        let mut all = self.0.lock().unwrap();
        let before = all.now.len();
        all.now.retain(|(waiting, _)| *waiting != me);
        all.now.len() < before
    }
}

fn wake((_, waiting): (u64, Sender<()>)) {
    let _ = waiting.send(());
}

pub(crate) mod mpsc {
    pub(crate) use shuttle::sync::mpsc::{RecvTimeoutError, Sender, TryRecvError};

    use super::{Duration, Instant, thread};

    pub(crate) struct Receiver<T>(shuttle::sync::mpsc::Receiver<T>);

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = shuttle::sync::mpsc::channel();
        (sender, Receiver(receiver))
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Option<T> {
            self.0.recv().ok()
        }

        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            self.0.try_recv()
        }

        pub(crate) fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
            let end = Instant::now() + time;
            thread::yield_now();
            self.0.try_recv().map_err(|e| match e {
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                TryRecvError::Empty => {
                    end.has_come();
                    RecvTimeoutError::Timeout
                }
            })
        }
    }
}

/// A queue with several receivers.
pub(crate) mod channel {
    use std::sync::Arc;

    pub(crate) use shuttle::sync::mpsc::SyncSender as Sender;

    use super::Mutex;

    pub(crate) struct Receiver<T>(Arc<Mutex<shuttle::sync::mpsc::Receiver<T>>>);

    pub(crate) fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = shuttle::sync::mpsc::sync_channel(most);
        (sender, Receiver(Arc::new(Mutex::new(receiver))))
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Receiver(self.0.clone())
        }
    }

    impl<T> Iterator for &Receiver<T> {
        type Item = T;
        fn next(&mut self) -> Option<T> {
            self.0.lock().recv().ok()
        }
    }
}
