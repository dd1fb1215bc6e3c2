//! Where [`pool`](crate::pool) and [`disk`](crate::disk) get their locks, threads and time from.
//!
//! That is std. Only with the feature `shuttle`, and only in the library's own tests, it is a model of it (`model`) that runs
//! one thread at a time and lets a scheduler choose which one goes on at each lock, wait and wakeup; time passes there when
//! somebody sleeps, not by itself. So the real pool and the real disk go through thousands of chosen schedules
//! (`schedules`), and one that fails can be run again:
//!
//! ```text
//! cargo test --release --features shuttle --lib schedules -- --nocapture
//! ```
//!
//! `RHV_MOUNT_SCHEDULES=10` takes ten times as many, `0.1` a tenth. Tests of pool and disk that take locks without a scheduler are not
//! there with the feature.
//!
//! Not everything has to be from here: what nobody waits for and nothing depends on (counters, a text that is set once)
//! stays std's, since each choice between steps that don't matter is one less between those that do.

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
        pub(crate) use std::thread::{Builder, JoinHandle, scope, sleep};
        use std::thread::{Scope, ScopedJoinHandle};

        /// A thread of `scope`, where one is to be had.
        pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
            scope: &'scope Scope<'scope, '_>,
            body: impl FnOnce() -> T + Send + 'scope,
        ) -> io::Result<ScopedJoinHandle<'scope, T>> {
            Builder::new().spawn_scoped(scope, body)
        }
    }
}
