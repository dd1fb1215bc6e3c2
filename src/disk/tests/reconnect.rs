//! The fate of answered bytes when their connection is lost, case by case.

use std::ops::Range;

use super::*;
use crate::remote::memory::{Fault, Request};
use crate::sync::Instant;

const JOURNAL: u64 = 1 << 20;

fn read(disk: &Disk, range: Range<usize>) -> Vec<u8> {
    let mut buf = Vec::new();
    disk.read(range.start as u64, range.len(), &mut buf)
        .unwrap()
        .to_vec()
}

#[test]
fn bytes_that_a_restarted_server_forgot_are_read_from_the_journal_and_written_again() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    disk.write(0, &[1; 5000]).unwrap();
    disk.drain().unwrap();
    server.state().restart();
    assert!(
        server.state().visible[..5000] == [9; 5000],
        "the server has forgotten it"
    );
    assert!(read(&disk, 0..5000) == [1; 5000]);
    disk.flush().unwrap();
    assert!(server.state().durable[..5000] == [1; 5000]);
    assert_eq!(disk.failure(), None);
}

#[test]
fn a_zero_over_a_write_stays_a_zero_when_the_write_is_lost() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    disk.write(0, &[1; 8192]).unwrap();
    disk.drain().unwrap();
    disk.zero(4096, 4096, false).unwrap();
    disk.drain().unwrap();
    server.state().restart();
    disk.flush().unwrap();
    let state = server.state();
    assert!(state.durable[..4096] == [1; 4096] && state.durable[4096..8192] == [0; 4096]);
}

#[test]
fn a_failed_flush_has_everything_written_again_whichever_connection_carried_it() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    for n in 0..8 {
        disk.write(n * 40_000, &[n as u8 + 1; 4096]).unwrap();
        disk.drain().unwrap();
    }
    server.state().faults.push((Request::Flush, Fault::Failed));
    disk.flush().unwrap();
    for n in 0..8 {
        assert!(server.state().durable[n * 40_000..][..4096] == [n as u8 + 1; 4096]);
    }
}

#[test]
fn newer_bytes_wait_for_a_request_that_may_still_be_performed() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    server.state().faults.push((Request::Change, Fault::LostLater));
    disk.write(0, &[1; 4096]).unwrap();
    disk.drain().unwrap();
    disk.write(0, &[2; 4096]).unwrap();
    disk.flush().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut state = server.state();
    state.let_strays_in(true);
    assert!(state.durable[..4096] == [2; 4096]);
}

#[test]
fn newer_bytes_where_a_silent_request_may_strike_any_time_are_refused_for_good() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    server.state().faults.push((Request::Change, Fault::LateLater));
    disk.write(0, &[1; 4096]).unwrap();
    disk.flush().expect("the same bytes again do no harm");
    disk.write(8192, &[3; 4096]).unwrap();
    disk.flush().expect("other bytes neither");
    disk.write(0, &[2; 4096]).unwrap();
    assert!(disk.flush().is_err());
    let why = disk.failure().unwrap();
    assert!(
        why.contains("bytes 0-4095") && why.contains("may perform it still"),
        "{why}"
    );
}

/// Another right to the image, if the server can give one, ends the request, and nothing is lost by it.
#[test]
fn newer_bytes_wait_for_the_end_of_the_transfer_of_a_silent_request() {
    let server = server_filled_with(9);
    server.state().renewals = 1;
    let disk = server.disk(false, JOURNAL);
    server.state().faults.push((Request::Change, Fault::LateLater));
    disk.write(0, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    disk.write(40_000, &[3; 4096]).unwrap();
    disk.drain().unwrap();
    disk.write(0, &[2; 4096]).unwrap();
    disk.flush().unwrap();
    assert_eq!((server.state().epoch, disk.failure()), (1, None));
    let mut state = server.state();
    state.let_strays_in(true);
    assert_eq!((state.durable[0], state.durable[40_000]), (2, 3));
}

/// A file system rewrites the block that a stall was about. The transfer that the silent request belongs to
/// is replaced before the request is answered at last, or later.
#[test]
fn newer_bytes_may_follow_a_silent_request_whose_transfer_has_ended() {
    for faults in [
        &[
            (Request::Change, Fault::LateLater),
            (Request::Change, Fault::Denied),
        ][..],
        &[
            (Request::Change, Fault::LateLater),
            (Request::Flush, Fault::Denied),
        ][..],
    ] {
        let server = server_filled_with(9);
        server.state().renewals = 1;
        let disk = server.disk(false, JOURNAL);
        server.state().faults.extend(faults);
        disk.write(0, &[1; 4096]).unwrap();
        disk.flush().unwrap();
        for byte in 2..5 {
            disk.write(0, &[byte; 4096]).unwrap();
            disk.flush().unwrap();
        }
        let mut state = server.state();
        assert!(state.faults.is_empty(), "{faults:?}");
        state.let_strays_in(true);
        assert!(state.durable[..4096] == [4; 4096]);
    }
}

#[test]
fn a_full_journal_is_flushed_without_being_asked() {
    let server = server_filled_with(9);
    // One connection: which of several carries a write is chance, and newer bytes on another one free some.
    let disk = server.disk_over(1, false, 256 << 10, Duration::from_secs(10));
    for n in 0..64 {
        disk.write(n % 8 * (64 << 10), &[n as u8; 64 << 10]).unwrap();
        disk.drain().unwrap();
    }
    let flushes = server.state().flushes;
    assert!((12..40).contains(&flushes), "{flushes} flushes for 4 MiB");
}

/// The storage reports a loss once, and the connection that carried the report is gone.
#[test]
fn a_flush_without_an_answer_has_everything_written_again_whichever_connection_carried_it() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    for n in 0..4 {
        // Each connection carries one of the writes.
        let mut others = disk.pool.lock_all().unwrap();
        drop(others.swap_remove(n));
        disk.write(n as u64 * 40_000, &[n as u8 + 1; 4096]).unwrap();
        disk.drain().unwrap();
    }
    server.state().faults.push((Request::Flush, Fault::LostAfter));
    disk.flush().unwrap();
    for n in 0..4 {
        assert!(server.state().durable[n * 40_000..][..4096] == [n as u8 + 1; 4096]);
    }
}

#[test]
fn newer_bytes_wait_for_a_request_that_a_proxy_has_given_up_on() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    server.state().faults.push((Request::Change, Fault::FailedLater));
    disk.write(0, &[1; 4096]).unwrap();
    disk.drain().unwrap();
    disk.write(0, &[2; 4096]).unwrap();
    disk.flush().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut state = server.state();
    state.let_strays_in(true);
    assert!(state.durable[..4096] == [2; 4096]);
}

#[test]
fn a_panic_in_a_flush_is_a_sticky_failure_for_all_that_share_it() {
    // With one connection, the thread that leads the round panics; with more, it may be a thread that the
    // leader started.
    for connections in [1, 4] {
        let server = server_filled_with(9);
        let disk = server.disk_over(connections, false, JOURNAL, Duration::from_secs(10));
        disk.write(0, &[1; 4096]).unwrap();
        server.state().faults.push((Request::Flush, Fault::Panic));
        std::thread::scope(|scope| {
            let flushers: Vec<_> = (0..4).map(|_| scope.spawn(|| disk.flush())).collect();
            for flusher in flushers {
                assert!(flusher.join().unwrap().is_err());
            }
        });
        assert!(disk.flush().is_err() && disk.write(0, &[1]).is_err());
    }
}

/// Each connection lives for as many requests as a write and a flush take, which is progress enough.
#[test]
fn connections_that_live_for_a_few_requests_carry_everything_in_the_end() {
    let server = server_filled_with(9);
    server.state().lifetime = Some(3);
    let disk = server.disk(false, JOURNAL);
    let mut expected = vec![9; SIZE];
    for n in 0..64 {
        let (at, fill) = (n * 8000, n as u8 + 1);
        disk.write(at as u64, &[fill; 8000]).unwrap();
        expected[at..at + 8000].fill(fill);
    }
    disk.flush().unwrap();
    assert!(server.state().durable == expected);
}

#[test]
fn connections_that_are_lost_before_every_answer_fail_for_good_in_the_end() {
    let server = server_filled_with(9);
    let disk = server.disk_with(false, JOURNAL, Duration::from_millis(300));
    server.state().lifetime = Some(0);
    // Writes over the same places never fill the memory, so they go on for as long as it takes.
    let (begun, mut failed, mut n) = (Instant::now(), false, 0);
    while !failed && begun.elapsed() < Duration::from_secs(60) {
        failed = disk.write(n % 64 * 8000, &[1; 8000]).is_err();
        n += 1;
    }
    assert!(failed && disk.flush().is_err() && disk.failure().is_some());
}

#[test]
fn storage_that_never_flushes_fails_for_good_in_the_end() {
    let server = server_filled_with(9);
    let disk = server.disk_with(true, JOURNAL, Duration::from_millis(200));
    disk.write(0, &[1; 4096]).unwrap();
    server
        .state()
        .faults
        .extend((0..100_000).map(|_| (Request::Flush, Fault::Failed)));
    assert!(disk.flush().is_err());
    // Each connection reports the failure at its own time, so one refusal proves nothing about the next
    // write.
    assert!((0..100).all(|_| disk.write(0, &[1; 4096]).is_err()));
}

#[test]
fn an_fsync_that_comes_after_the_close_is_refused_and_no_loss() {
    let server = server_filled_with(9);
    let disk = server.disk(false, JOURNAL);
    disk.write(0, &[1; 4096]).unwrap();
    disk.drain().unwrap();
    disk.pool.close_all();
    assert!(matches!(disk.flush(), Err(DiskError::Closing)));
    assert_eq!(disk.failure(), None);
}

/// A server, or a proxy before it, ends each connection after some requests, with or without an announcement.
/// A write and its flush may then never share a connection.
#[test]
fn connections_that_end_after_a_few_requests_lose_nothing() {
    for (announces, lifetime) in [true, false].iter().flat_map(|a| (1..=5).map(|n| (*a, n))) {
        let server = server_filled_with(9);
        let disk = server.disk(true, JOURNAL);
        let mut state = server.state();
        (state.announces, state.lifetime) = (announces, Some(lifetime));
        drop(state);
        for n in 0..20 {
            disk.write(n * 20_000, &[n as u8 + 1; 8192]).unwrap();
            assert!(read(&disk, n as usize * 20_000..n as usize * 20_000 + 8192) == [n as u8 + 1; 8192]);
            if n % 3 == 0 {
                disk.drain().unwrap();
            }
        }
        disk.zero(8192, 4096, false).unwrap();
        disk.flush()
            .unwrap_or_else(|e| panic!("{announces} {lifetime}: {e}"));
        let state = server.state();
        for n in 0..20 {
            let durable = &state.durable[n * 20_000..][..8192];
            assert!(
                durable == [n as u8 + 1; 8192],
                "{announces} {lifetime}: write {n}"
            );
        }
        assert!(state.durable[8192..12_288] == [0; 4096], "{announces} {lifetime}");
        assert!(
            state.dialled < 300,
            "{announces} {lifetime}: {} connections",
            state.dialled
        );
    }
}
