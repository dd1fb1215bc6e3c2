//! The pool under many schedules: who waits gets its turn, and a flush covers what was answered before it.
//!
//! The server here keeps a book: what each connection has written, and what was flushed on it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::remote::{Denial, Extent};
use crate::sync::schedules::explore;
use crate::sync::thread::yield_now;

#[derive(Default)]
struct Book {
    /// By connection; the ones that are open.
    unflushed: BTreeMap<u64, Vec<u64>>,
    durable: BTreeSet<u64>,
    dialled: u64,
    epoch: u64,
    /// The right of this epoch, and of older ones, has ended.
    ended: Option<u64>,
    renewals: u64,
}

#[derive(Default)]
struct Server {
    book: Mutex<Book>,
    renewing: Mutex<()>,
}

struct Connection {
    server: Arc<Server>,
    id: u64,
    epoch: u64,
}

impl Connection {
    fn request(&self, perform: impl FnOnce(&mut Book)) -> Result<(), RemoteError> {
        let mut book = self.server.book();
        if book.ended.is_some_and(|ended| self.epoch <= ended) {
            return Err(RemoteError::Denied(
                Denial::EndedTicket,
                "the right has ended".into(),
            ));
        }
        perform(&mut book);
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.book().unflushed.remove(&self.id);
    }
}

impl Remote for Connection {
    fn epoch(&self) -> u64 {
        self.epoch
    }
    fn read(&mut self, _: u64, _: &mut [&mut [u8]]) -> Result<(), RemoteError> {
        self.request(|_| {})
    }
    fn write(&mut self, number: u64, _: &[&[u8]]) -> Result<(), RemoteError> {
        self.request(|book| book.unflushed.get_mut(&self.id).unwrap().push(number))
    }
    fn zero(&mut self, _: u64, _: u64) -> Result<(), RemoteError> {
        self.request(|_| {})
    }
    fn flush(&mut self) -> Result<(), RemoteError> {
        self.request(|book| {
            let written = std::mem::take(book.unflushed.get_mut(&self.id).unwrap());
            book.durable.extend(written);
        })
    }
    fn touch(&mut self) -> Result<(), RemoteError> {
        self.request(|_| {})
    }
    fn extents(&mut self, _: &mut dyn FnMut(Extent)) -> Result<(), RemoteError> {
        self.request(|_| {})
    }
}

impl Server {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }
}

struct Dialler(Arc<Server>);

impl Dial for Dialler {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        let mut book = self.0.book();
        book.dialled += 1;
        let (id, epoch) = (book.dialled, book.epoch);
        book.unflushed.insert(id, Vec::new());
        Ok(Box::new(Connection {
            server: self.0.clone(),
            id,
            epoch,
        }))
    }

    fn epoch(&self) -> u64 {
        self.0.book().epoch
    }

    /// As `imageio` does it.
    fn renew(&self, epoch: u64, _: &RemoteError) -> bool {
        let _one_at_a_time = self.0.renewing.lock();
        if epoch < self.0.book().epoch {
            return true;
        }
        yield_now();
        let mut book = self.0.book();
        book.epoch += 1;
        book.renewals += 1;
        true
    }
}

struct Untold;

impl Replay for Untold {
    fn durable(&self, _: usize) {}
    fn replay(&self, _: usize) {}
    fn replay_all(&self) {}
}

/// A pool whose two connections may write, and which never stops trying.
fn pool() -> (Arc<Server>, Arc<Pool>) {
    let server = Arc::new(Server::default());
    let dial = Arc::new(Dialler(server.clone()));
    let first = dial.dial().unwrap();
    let pool = Pool::open(dial, first, 2, 2, Duration::from_secs(1 << 20)).unwrap();
    (server, pool)
}

/// What was answered so far.
#[derive(Default)]
struct Answers(Mutex<BTreeSet<u64>>);

impl Answers {
    fn write(&self, pool: &Pool, number: u64) -> Result<(), PoolError> {
        let _answered = pool.write(number, &[b"x"])?;
        self.0.lock().insert(number);
        Ok(())
    }

    fn flush(&self, pool: &Pool, server: &Server) -> Result<(), PoolError> {
        let before = self.0.lock().clone();
        pool.flush_all()?;
        let book = server.book();
        assert!(before.is_subset(&book.durable), "answered before, not flushed");
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
        assert_eq!(server.book().durable.len(), 4);
        assert_eq!((pool.loss(), pool.replaced()), (None, 0));
    });
}

#[test]
fn whoever_waits_is_served_before_whoever_comes_later() {
    explore("turns", 16_000, || {
        let (_, pool) = pool();
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
            // A connection is free for this one all the time.
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
        assert!(server.book().unflushed.is_empty(), "a connection is open");
        assert!(matches!(pool.lease(Purpose::Read), Err(PoolError::Closed)));
        drop(keeper);
    });
}

#[test]
fn a_right_that_ends_under_several_requests_is_renewed_once() {
    explore("renewal", 24_000, || {
        let (server, pool) = pool();
        pool.replay_with(Arc::new(Untold));
        let (server, pool) = (&server, &pool);
        thread::scope(|scope| {
            scope.spawn(|| drop(pool.write(1, &[b"x"]).unwrap()));
            scope.spawn(|| drop(pool.write(2, &[b"x"]).unwrap()));
            scope.spawn(|| pool.read(0, &mut [&mut [0; 4]]).unwrap());
            scope.spawn(|| pool.flush_all().unwrap());
            scope.spawn(|| server.book().ended = Some(0));
        });
        pool.read(0, &mut [&mut [0; 4]]).unwrap();
        assert_eq!(server.book().renewals, 1);
    });
}
