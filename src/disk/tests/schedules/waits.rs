//! Every thread that waits for the disk gets what it waits for, or the end of the disk.

use super::*;
use crate::disk::fsync::SharedRounds;

/// Starts a write-behind with room for one write.
fn narrow(server: &Arc<MemoryServer>) -> (Arc<WriteBehind>, Arc<Pool>) {
    let pool = Pool::open(server.clone(), server.dial().unwrap(), 2, 2, ENDLESS);
    let writes = Arc::new(WriteBehind::new(SIZE as u64, 1, 1 << 20, 8 << 10, 2));
    pool.replay_with(writes.clone());
    writes.start(&pool).unwrap();
    (writes, pool)
}

#[test]
fn threads_that_share_a_round_of_fsync_are_covered_by_one_that_began_after_their_write() {
    explore("rounds", 20_000, || {
        let (shared, server) = (SharedRounds::default(), Mutex::new((0, 0)));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2 {
                        let mine = {
                            let mut server = server.lock();
                            server.0 += 1;
                            server.0
                        };
                        let round = || {
                            let written = server.lock().0;
                            let mut server = server.lock();
                            server.1 = server.1.max(written);
                            Ok(())
                        };
                        shared.join(round, || Ok(())).unwrap();
                        assert!(server.lock().1 >= mine, "told by an older round");
                    }
                });
            }
        });
    });
}

#[test]
fn a_failure_or_the_close_ends_every_wait() {
    explore("the end of waiting", 16_000, || {
        let (writes, pool) = narrow(&server_filled_with(0));
        writes.expect_zeros();
        thread::scope(|scope| {
            let writes = &writes;
            for at in [0, 4096, 8192] {
                scope.spawn(move || {
                    for n in 1..3 {
                        let Ok(mut room) = writes.room() else { return };
                        room.table.write(at, &[n; 4096]);
                        drop(room);
                        writes.accepted();
                    }
                });
            }
            scope.spawn(|| {
                let _ = writes.drain();
            });
            scope.spawn(|| writes.await_zeros(None));
            scope.spawn(|| writes.fail("on purpose".into()));
            scope.spawn(|| writes.refuse_writes());
        });
        assert!(writes.drain().is_err());
        writes.stop();
        pool.close_all();
    });
}

#[test]
fn writers_that_wait_for_room_are_all_let_in() {
    explore("room", 16_000, || {
        let server = server_filled_with(0);
        let (writes, pool) = narrow(&server);
        thread::scope(|scope| {
            for at in [0, 4096, 8192] {
                let writes = &writes;
                scope.spawn(move || {
                    for n in 1..3 {
                        writes.room().unwrap().table.write(at, &[n; 4096]);
                        writes.accepted();
                    }
                });
            }
        });
        writes.drain().unwrap();
        writes.stop();
        assert!(server.state().visible[..3 * 4096] == [2; 3 * 4096]);
        pool.close_all();
    });
}
