use std::sync::mpsc::channel;

use super::*;
use crate::remote::memory::{Fault, MemoryServer, Request};

fn server() -> Arc<MemoryServer> {
    MemoryServer::new(64, 7)
}

fn pool(count: usize, writers: usize) -> (Arc<MemoryServer>, Arc<Pool>) {
    let server = server();
    let first = server.dial().unwrap();
    let pool = Pool::open(server.clone(), first, count, writers, Duration::ZERO);
    pool.await_all();
    (server, pool)
}

/// Remembers the calls that the pool makes.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Replay for Heard {
    fn durable(&self, slot: usize) {
        self.0.lock().push(format!("durable {slot}"));
    }
    fn replay(&self, slot: usize) {
        self.0.lock().push(format!("replay {slot}"));
    }
    fn replay_all(&self) {
        self.0.lock().push("replay all".into());
    }
}

/// A pool with a replay, which repeats requests for a while.
fn pool_with_replay(count: usize) -> (Arc<MemoryServer>, Arc<Pool>, Arc<Heard>) {
    let (server, heard) = (server(), Arc::new(Heard::default()));
    let first = server.dial().unwrap();
    let pool = Pool::open(server.clone(), first, count, count, Duration::from_secs(10));
    pool.await_all();
    pool.replay_with(heard.clone());
    (server, pool, heard)
}

/// A change that carries a flush may be the one that receives the report.
#[test]
fn a_flush_of_all_is_believed_when_a_change_that_flushes_beside_it_is_answered() {
    let (_, pool, heard) = pool_with_replay(1);
    let beside = pool.overlaps.begin();
    std::thread::scope(|scope| {
        let (done, seen) = channel();
        let pool = &pool;
        scope.spawn(move || done.send(pool.flush_all()).unwrap());
        let early = seen.recv_timeout(Duration::from_millis(100));
        let believed = !heard.0.lock().is_empty();
        drop(beside);
        assert!(early.is_err() && !believed, "the change is at work");
        seen.recv().unwrap().unwrap();
    });
    assert_eq!(*heard.0.lock(), ["durable 0"]);
}

#[test]
fn a_lease_is_returned_even_if_its_holder_panics() {
    let (server, pool) = pool(1, 1);
    let holder = pool.clone();
    let panicked = std::thread::spawn(move || {
        let _lease = holder.lease(Purpose::Write).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    pool.read(0, &mut [&mut [0; 4]]).unwrap();
    assert_eq!(
        server.state().dialled,
        2,
        "the exchange was broken off, so the connection is a new one"
    );
    assert_eq!(pool.loss(), None);
}

#[test]
fn readers_leave_the_writing_connection_to_the_writer() {
    let (_, pool) = pool(3, 1);
    let first = pool.lease(Purpose::Read).unwrap();
    let second = pool.lease(Purpose::Read).unwrap();
    assert_eq!((first.index(), second.index()), (2, 1));
    assert_eq!(pool.lease(Purpose::Write).unwrap().index(), 0);
}

#[test]
fn flush_reaches_every_connection() {
    let (server, pool) = pool(5, 5);
    pool.flush_all().unwrap();
    assert_eq!(server.state().flushes, 5);
}

#[test]
fn the_success_of_a_flush_beside_a_failed_one_is_not_believed() {
    let (server, pool, heard) = pool_with_replay(4);
    let hold: Vec<_> = (0..4).map(|_| pool.write(0, &[b"x"]).unwrap()).collect();
    drop(hold);
    server.state().faults.push((Request::Flush, Fault::Failed));
    pool.flush_all().unwrap();
    let told = std::mem::take(&mut *heard.0.lock());
    assert_eq!(told[0], "replay all");
    assert!(told.iter().all(|what| !what.starts_with("durable")), "{told:?}");
    pool.flush_all().unwrap();
    let told = std::mem::take(&mut *heard.0.lock());
    assert!(told.iter().all(|what| what.starts_with("durable")), "{told:?}");
}

#[test]
fn writers_and_two_flushers_never_deadlock_or_starve() {
    const ROUNDS: u32 = 2000;
    let (_, pool) = pool(4, 4);
    let (tell, told) = channel();
    for worker in 0..6 {
        let (pool, tell) = (pool.clone(), tell.clone());
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                match worker {
                    0 | 1 => pool.flush_all().unwrap(),
                    _ => drop(pool.write(0, &[b"x"]).unwrap()),
                }
                tell.send(worker).unwrap();
            }
        });
    }
    drop(tell);
    let mut rounds = [0; 6];
    for _ in 0..6 * ROUNDS {
        match told.recv_timeout(Duration::from_secs(20)) {
            Ok(worker) => rounds[worker] += 1,
            Err(_) => panic!("stuck, or panicked, after {rounds:?} rounds"),
        }
    }
}

#[test]
fn a_clean_connection_is_replaced_and_the_write_repeated() {
    let (server, pool) = pool(1, 1);
    server.state().faults.push((Request::Change, Fault::Lost));
    drop(pool.write(0, &[b"x"]).unwrap());
    pool.flush_all().unwrap();
    assert_eq!((pool.replaced(), pool.loss()), (1, None));
    assert_eq!(pool.lease(Purpose::Read).unwrap().generation(), 2);
}

#[test]
fn a_connection_lost_with_unflushed_writes_is_a_loss_for_good() {
    let (server, pool) = pool(1, 1);
    drop(pool.write(0, &[b"x"]).unwrap());
    server.state().faults.push((Request::Change, Fault::Lost));
    assert!(matches!(pool.write(1, &[b"y"]), Err(PoolError::Loss(_))));
    assert!(matches!(pool.flush_all(), Err(PoolError::Loss(_))));
    assert!(matches!(pool.write(2, &[b"z"]), Err(PoolError::Loss(_))));
    pool.read(0, &mut [&mut [0; 1]]).expect("reading goes on");
}

#[test]
fn a_write_without_an_answer_in_time_is_never_repeated_but_a_read_is() {
    let (server, pool) = pool(1, 1);
    server.state().faults.push((Request::Read, Fault::Late));
    pool.read(0, &mut [&mut [0; 4]]).unwrap();
    server.state().faults.extend([(Request::Change, Fault::Late); 2]);
    assert!(matches!(
        pool.write(0, &[b"x"]),
        Err(PoolError::Request(RemoteError::Late(_)))
    ));
    assert_eq!(server.state().faults.len(), 1, "the write was sent once");
}

#[test]
fn a_keep_alive_flush_that_fails_is_a_loss_for_good() {
    let (server, pool) = pool(2, 1);
    drop(pool.write(0, &[b"x"]).unwrap());
    server.state().faults.push((Request::Flush, Fault::Failed));
    pool.lease_idle(0, Duration::ZERO).unwrap().keep_alive();
    assert!(matches!(pool.flush_all(), Err(PoolError::Loss(_))));
}

#[test]
fn a_touch_leaves_busy_tickets_alone_and_loses_no_unflushed_write() {
    let (server, pool) = pool(1, 1);
    drop(pool.write(0, &[b"x"]).unwrap());
    pool.touch(Duration::from_secs(60));
    assert_eq!(server.state().flushes, 0);
    pool.touch(Duration::ZERO);
    assert_eq!(server.state().flushes, 1, "a flush is activity");
    server.state().faults.push((Request::Touch, Fault::Late));
    pool.touch(Duration::ZERO);
    assert_eq!(pool.loss(), None);
    pool.flush_all().unwrap();
}

#[test]
fn an_idle_connection_is_kept_alive_also_while_a_flush_waits_for_another() {
    let (server, pool) = pool(2, 2);
    let hanging = pool.lease(Purpose::Read).unwrap();
    assert_eq!(hanging.index(), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| pool.flush_all().unwrap());
        while pool.lock().queue.is_empty() {
            std::thread::yield_now();
        }
        pool.lease_idle(0, Duration::ZERO)
            .expect("it is free")
            .keep_alive();
        assert!(pool.lease_idle(1, Duration::ZERO).is_none());
        drop(hanging);
    });
    assert_eq!(server.state().flushes, 2);
}

#[test]
fn a_read_is_repeated_after_500_and_its_connection_flushed_before_it_goes() {
    let (server, pool) = pool(1, 1);
    drop(pool.write(0, &[b"x"]).unwrap());
    server.state().faults.push((Request::Read, Fault::Failed));
    pool.read(0, &mut [&mut [0; 4]]).unwrap();
    assert_eq!(server.state().flushes, 1);
    assert_eq!((pool.replaced(), pool.loss()), (1, None));
}

#[test]
fn a_failed_write_and_a_denied_read_are_not_repeated() {
    let (server, pool) = pool(1, 1);
    server.state().faults.push((Request::Change, Fault::Failed));
    assert!(pool.write(0, &[b"x"]).is_err());
    server.state().faults.push((Request::Read, Fault::Denied));
    assert!(pool.read(0, &mut [&mut [0; 4]]).is_err());
    assert!(server.state().faults.is_empty());
}

#[test]
fn a_denied_read_is_repeated_with_a_new_right_and_without_a_replay_a_denied_write_never() {
    let (server, pool) = pool(1, 1);
    let read = || pool.read(0, &mut [&mut [0; 4]]);
    server.state().renewals = 9;
    server.state().faults.push((Request::Read, Fault::Denied));
    read().unwrap();
    assert_eq!((pool.replaced(), server.state().renewals), (1, 8));
    server.state().faults.push((Request::Change, Fault::Denied));
    assert!(pool.write(0, &[b"x"]).is_err());
    assert_eq!(server.state().renewals, 8, "no right was asked for");
    // The right that the write was refused with has ended; the next one does so at once.
    server.state().renewals = 1;
    server.state().faults.push((Request::Read, Fault::Denied));
    assert!(read().is_err());
    let state = server.state();
    assert!(state.faults.is_empty() && state.renewals == 0);
}

#[test]
fn close_all_waits_for_leases_and_refuses_new_ones() {
    let (_, pool) = pool(2, 2);
    let lease = pool.lease(Purpose::Write).unwrap();
    let closer = pool.clone();
    let closing = std::thread::spawn(move || closer.close_all());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!closing.is_finished());
    drop(lease);
    closing.join().unwrap();
    assert!(matches!(pool.lease(Purpose::Read), Err(PoolError::Closed)));
}

/// Otherwise each of them would have the whole retry time, one after the other.
#[test]
fn requests_that_wait_for_each_other_share_the_time_of_an_outage() {
    let server = server();
    let first = server.dial().unwrap();
    let pool = Pool::open(server.clone(), first, 1, 1, Duration::from_secs(1));
    server.state().faults = vec![(Request::Read, Fault::Lost); 100_000];
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for n in 0..30 {
            let pool = &pool;
            scope.spawn(move || assert!(pool.read(n, &mut [&mut [0; 4]]).is_err()));
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// Chance decides which connection receives the report of a loss; it may be about the writes of others.
#[test]
fn without_a_replay_a_flush_without_an_answer_is_a_loss_of_all_unflushed_writes() {
    let (server, pool) = pool(2, 1);
    pool.flush_all().unwrap();
    server.state().faults.push((Request::Flush, Fault::Lost));
    pool.flush_all().expect("nothing is unflushed anywhere");
    // Only the first connection writes; the lost answer may be the other one's.
    drop(pool.write(0, &[b"x"]).unwrap());
    server.state().faults.push((Request::Flush, Fault::Lost));
    assert!(pool.flush_all().is_err());
    assert!(pool.loss().is_some() && pool.flush_all().is_err());
}

/// A keep-alive that fails for an hour keeps nobody waiting.
#[test]
fn keep_alives_that_fail_take_nothing_from_the_time_of_a_request() {
    let (server, pool, _) = pool_with_replay(1);
    server.state().faults.push((Request::Touch, Fault::Lost));
    pool.touch(Duration::ZERO);
    assert_eq!((pool.outage(), server.state().faults.len()), (None, 0));
}
