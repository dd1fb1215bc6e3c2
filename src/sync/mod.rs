//! Locks, threads and time for [`pool`](crate::pool) and [`disk`](crate::disk).
//!
//! They are std's, parking_lot's and crossbeam's. Only with the feature `shuttle`, and only in the library's
//! own tests, they are a model (`model`) that runs one thread at a time and lets a scheduler choose, at each
//! lock, wait and wakeup, which thread continues. Time passes there when a thread sleeps, not by itself. So
//! the real pool and the real disk go through thousands of chosen schedules (`schedules`), and one that fails
//! can be replayed:
//!
//! ```text
//! cargo test --release --features shuttle --lib schedules -- --nocapture
//! ```
//!
//! `RHV_MOUNT_SCHEDULES=10` runs ten times as many, `0.1` a tenth. Tests of pool and disk that take locks
//! without a scheduler are left out with that feature.
//!
//! Not everything has to come from here: state that no thread waits for and no decision depends on (counters,
//! a text that is set once) stays std's, since each choice between irrelevant steps takes one from the
//! relevant ones.

#[cfg(all(test, feature = "shuttle"))]
mod model;
#[cfg(all(test, feature = "shuttle"))]
pub(crate) mod schedules;

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use self::model::{Condvar, Instant, Mutex, MutexGuard, atomic, channel, mpsc, thread};
#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use self::real::{Condvar, Instant, Mutex, MutexGuard, atomic, channel, mpsc, thread};

#[cfg(not(all(test, feature = "shuttle")))]
mod real {
    pub(crate) use std::sync::{atomic, mpsc};
    pub(crate) use std::time::Instant;

    pub(crate) use crossbeam::channel;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

    pub(crate) mod thread {
        use std::io;
        #[cfg(test)]
        pub(crate) use std::thread::yield_now;
        pub(crate) use std::thread::{Builder, JoinHandle, scope, sleep};
        use std::thread::{Scope, ScopedJoinHandle};

        /// Spawns a thread of `scope`; fails when the system has no thread left.
        pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
            scope: &'scope Scope<'scope, '_>,
            body: impl FnOnce() -> T + Send + 'scope,
        ) -> io::Result<ScopedJoinHandle<'scope, T>> {
            Builder::new().spawn_scoped(scope, body)
        }
    }
}
