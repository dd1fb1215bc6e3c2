//! The pool under many schedules: every waiter gets its turn, and a flush covers the writes answered before
//! it.
//!
//! Each write has a number, and one byte at that offset.

use std::collections::BTreeSet;

use super::*;
use crate::remote::memory::MemoryServer;
use crate::sync::schedules::explore;
use crate::sync::thread::{self, yield_now};

/// The value of a byte after its write.
const WRITTEN: u8 = b'x';

/// Has nothing to send again.
struct NoReplay;

impl Replay for NoReplay {
    fn durable(&self, _: usize) {}
    fn replay(&self, _: usize) {}
    fn replay_all(&self) {}
}

/// A pool with two connections, which both may write, and with an endless retry time.
fn pool() -> (Arc<MemoryServer>, Arc<Pool>) {
    let server = MemoryServer::new(16, 0);
    let first = server.dial().unwrap();
    let pool = Pool::open(server.clone(), first, 2, 2, Duration::from_secs(1 << 20));
    (server, pool)
}

/// The numbers of the writes that are durable.
fn durable(server: &MemoryServer) -> BTreeSet<u64> {
    let state = server.state();
    let numbers = (0..).zip(&state.durable);
    numbers
        .filter(|(_, byte)| **byte == WRITTEN)
        .map(|(n, _)| n)
        .collect()
}

/// The numbers of the writes that were answered so far.
#[derive(Default)]
struct Answers(Mutex<BTreeSet<u64>>);

impl Answers {
    fn write(&self, pool: &Pool, number: u64) -> Result<(), PoolError> {
        let _answered = pool.write(number, &[&[WRITTEN]])?;
        self.0.lock().insert(number);
        Ok(())
    }

    fn flush(&self, pool: &Pool, server: &MemoryServer) -> Result<(), PoolError> {
        let before = self.0.lock().clone();
        pool.flush_all()?;
        let durable = durable(server);
        assert!(before.is_subset(&durable), "answered before, not flushed");
        Ok(())
    }
}

#[test]
fn flushers_writers_readers_and_keep_alive_all_get_through_and_a_flush_covers_what_was_answered_before() {
    explore("pool", 24_000, || {
        let ((server, pool), answers) = (pool(), Answers::default());
        let (server, pool, answers) = (&server, &pool, &answers);
        thread::scope(|scope| {
            for writer in 0..2 {
                scope.spawn(move || {
                    for n in 0..2 {
                        answers.write(pool, 2 * n + writer).unwrap();
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| answers.flush(pool, server).unwrap());
            }
            scope.spawn(|| pool.read(0, &mut [&mut [0; 4]]).unwrap());
            scope.spawn(|| {
                for slot in 0..2 {
                    if let Some(mut lease) = pool.lease_idle(slot, Duration::ZERO) {
                        lease.keep_alive();
                    }
                }
            });
        });
        answers.flush(pool, server).unwrap();
        assert_eq!(durable(server).len(), 4);
        assert_eq!((pool.loss(), pool.replaced()), (None, 0));
    });
}

#[test]
fn waiters_are_served_in_the_order_of_their_arrival() {
    explore("turns", 16_000, || {
        let (_, pool) = pool();
        pool.await_all();
        let (pool, served) = (&pool, &Mutex::new(Vec::new()));
        let waiting = |count: usize| {
            while pool.lock().queue.len() < count {
                yield_now();
            }
        };
        let busy = pool.lease(Purpose::Write).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _all = pool.lock_all().unwrap();
                served.lock().push("flush");
            });
            waiting(1);
            // A connection is free for this thread all the time.
            scope.spawn(|| {
                let _one = pool.lease(Purpose::Write).unwrap();
                served.lock().push("write");
            });
            waiting(2);
            scope.spawn(|| {
                let _all = pool.lock_all().unwrap();
                served.lock().push("flush again");
            });
            waiting(3);
            drop(busy);
        });
        assert_eq!(*served.lock(), ["flush", "write", "flush again"]);
    });
}

#[test]
fn connections_that_are_free_are_all_given_out() {
    explore("all in use", 8_000, || {
        let (_, pool) = pool();
        let (pool, leased) = (&pool, &Mutex::new(0));
        let all = pool.lock_all().unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let _one = pool.lease(Purpose::Write).unwrap();
                    *leased.lock() += 1;
                    while *leased.lock() < 2 {
                        yield_now();
                    }
                });
            }
            drop(all);
        });
    });
}

#[test]
fn closing_beside_all_of_them_ends_all_of_them_and_closes_every_connection() {
    explore("closing", 24_000, || {
        let ((server, pool), answers) = (pool(), Answers::default());
        let keeper = Keeper::start(&pool, Duration::from_secs(1)).unwrap();
        let (server, pool, answers) = (&server, &pool, &answers);
        let closed = |done: Result<(), PoolError>| match done {
            Ok(()) => false,
            Err(PoolError::Closed) => true,
            Err(e) => panic!("{e}"),
        };
        thread::scope(|scope| {
            for writer in 0..2 {
                scope.spawn(move || {
                    (0..3).any(|n| closed(answers.write(pool, 2 * n + writer)));
                });
            }
            scope.spawn(move || (0..2).any(|_| closed(answers.flush(pool, server))));
            scope.spawn(move || closed(pool.read(0, &mut [&mut [0; 4]])));
            scope.spawn(|| pool.close_all());
            scope.spawn(|| pool.close_all());
        });
        pool.await_all();
        assert!(server.state().open.is_empty(), "a connection is open");
        assert!(matches!(pool.lease(Purpose::Read), Err(PoolError::Closed)));
        drop(keeper);
    });
}

#[test]
fn a_right_that_ends_under_several_requests_is_renewed_once() {
    explore("renewal", 24_000, || {
        let (server, pool) = pool();
        server.state().renewals = u64::MAX;
        pool.replay_with(Arc::new(NoReplay));
        let (server, pool) = (&server, &pool);
        thread::scope(|scope| {
            scope.spawn(|| drop(pool.write(1, &[b"x"]).unwrap()));
            scope.spawn(|| drop(pool.write(2, &[b"x"]).unwrap()));
            scope.spawn(|| pool.read(0, &mut [&mut [0; 4]]).unwrap());
            scope.spawn(|| pool.flush_all().unwrap());
            scope.spawn(|| server.state().ended = Some(0));
        });
        pool.read(0, &mut [&mut [0; 4]]).unwrap();
        assert_eq!(server.state().epoch, 1);
    });
}
