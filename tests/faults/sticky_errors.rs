//! Rule 2: a failure after acknowledgement is a sticky error, which every later write, fsync and close
//! reports, and also the mount's end. A passing failure is repeated and never reported (`survived`). So here
//! the server either fails for longer than the retry time, or the retry time is 0 and no request that may
//! have been lost is repeated.

use crate::rig::{MIB, Rig, close, errno, pattern, read_at, settings, used_server};
use crate::server::{Action, Fault, Image, Verb};
use crate::support::run::wait_until;
use libc::EIO;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const DATA_AT_RISK: Option<i32> = Some(7);

/// With this option a single failure is final.
const NO_RETRY: &[&str] = &["--retry-time", "0"];

/// With this option a failure that persists is final after one second.
const SHORT_RETRY: &[&str] = &["--retry-time", "1"];

/// Checks every way to learn of the failure, some of them twice, and that reads still work.
#[track_caller]
fn assert_failed_for_good(rig: &Rig, file: File, untouched: u64) {
    assert_eq!(errno(file.sync_all()), EIO, "first fsync");
    assert_eq!(errno(file.sync_all()), EIO, "second fsync");
    assert_eq!(errno(file.sync_data()), EIO, "fdatasync");
    assert_eq!(errno(file.write_at(&[1; 4096], 0)), EIO, "write");
    assert_eq!(errno(file.sync_all()), EIO, "fsync after the failed write");
    assert_eq!(errno(close(file)), EIO, "close");
    let other = rig.read_write();
    assert_eq!(
        errno(other.sync_all()),
        EIO,
        "fsync of a descriptor opened afterwards"
    );
    let expected = rig.server.visible().read(untouched..untouched + 4096);
    assert!(read_at(&other, untouched..untouched + 4096).expect("reads still work") == expected);
}

#[track_caller]
fn assert_umount_reports_the_loss(rig: Rig) {
    let (ran, _server) = rig.umount();
    assert_eq!(ran.code, DATA_AT_RISK, "{ran}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran}");
}

#[test]
fn a_write_that_fails_after_it_was_acknowledged_is_never_forgotten() {
    let rig = Rig::over(used_server(settings(16 * MIB)), NO_RETRY);
    rig.server.arm(Fault::next(
        Verb::Put,
        Action::Status(500, "Server failed to perform the request, check logs"),
    ));
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 64 * 1024), 0).unwrap();
    wait_until("the server has refused the write", 60, || {
        rig.server.faults_fired() == 1
    });
    assert_failed_for_good(&rig, file, 8 * MIB);
    assert!(
        rig.mount.log().contains("Server failed to perform the request"),
        "the log lacks the server's words"
    );
    assert_umount_reports_the_loss(rig);
}

#[test]
fn a_failed_write_among_many_fails_the_close_of_the_descriptor() {
    let rig = Rig::over(used_server(settings(64 * MIB)), SHORT_RETRY);
    rig.server
        .arm(Fault::always(Verb::Put, Action::Status(500, "broken")).touching(5 * MIB));
    let file = rig.read_write();
    let result = (0..32).try_for_each(|n| file.write_all_at(&pattern(n, MIB as usize), n * MIB));
    if let Err(error) = result {
        assert_eq!(error.raw_os_error(), Some(EIO));
    }
    assert_eq!(errno(close(file)), EIO);
    assert_umount_reports_the_loss(rig);
}

#[test]
fn a_failed_zero_is_never_forgotten() {
    let rig = Rig::over(used_server(settings(16 * MIB)), SHORT_RETRY);
    rig.server
        .arm(Fault::always(Verb::Zero, Action::Status(500, "no space left")));
    let file = rig.read_write();
    if let Err(error) = crate::rig::punch_hole(&file, 0..4 * MIB) {
        assert_eq!(error.raw_os_error(), Some(EIO));
    }
    assert_failed_for_good(&rig, file, 8 * MIB);
    assert_umount_reports_the_loss(rig);
}

#[test]
fn a_flush_that_keeps_failing_is_never_forgotten() {
    a_failed_flush_is_never_forgotten(SHORT_RETRY, Fault::always);
}

#[test]
fn a_flush_that_fails_once_is_never_forgotten_without_a_retry() {
    a_failed_flush_is_never_forgotten(NO_RETRY, Fault::next);
}

fn a_failed_flush_is_never_forgotten(args: &[&str], fault: fn(Verb, Action) -> Fault) {
    let rig = Rig::over(used_server(settings(16 * MIB)), args);
    let file = rig.read_write();
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    rig.server.arm(fault(
        Verb::Flush,
        Action::Status(500, "Server failed to perform the request, check logs"),
    ));
    assert_failed_for_good(&rig, file, 8 * MIB);
    assert_umount_reports_the_loss(rig);
}

#[test]
fn without_a_retry_a_connection_that_is_lost_with_unflushed_writes_fails_the_fsync_for_good() {
    let rig = Rig::over(used_server(settings(16 * MIB)), NO_RETRY);
    let file = rig.read_write();
    let bytes = pattern(1, MIB as usize);
    file.write_all_at(&bytes, 0).unwrap();
    rig.wait_until_visible(0, &bytes);
    let holders: Vec<u64> = rig
        .server
        .unflushed()
        .iter()
        .map(|(connection, _)| *connection)
        .collect();
    assert!(
        !holders.is_empty(),
        "nothing is unflushed, so the test proves nothing"
    );
    rig.server.cut(&holders);
    assert_failed_for_good(&rig, file, 8 * MIB);
    assert_umount_reports_the_loss(rig);
}

#[test]
fn a_connection_that_is_lost_before_the_answer_to_a_write_is_not_a_silent_success() {
    for action in [
        Action::CloseBeforeBody,
        Action::CloseMidBody,
        Action::CloseBeforeReply,
    ] {
        let rig = Rig::over(
            used_server(settings(16 * MIB)),
            &[NO_RETRY, &["--connections", "2"]].concat(),
        );
        let file = rig.read_write();
        file.write_all_at(&pattern(1, MIB as usize), 12 * MIB).unwrap();
        wait_until("the first write is answered", 60, || {
            rig.server.count(Verb::Put) > 0 && rig.server.requests_running() == 0
        });
        rig.server.arm(Fault::next(Verb::Put, action.clone()));
        let bytes = pattern(2, MIB as usize);
        let written = file.write_all_at(&bytes, 0);
        let synced = file.sync_all();
        if written.is_ok() && synced.is_ok() {
            assert!(
                rig.server.read_durable(0..MIB) == bytes,
                "{action:?}: fsync succeeded without the bytes"
            );
            assert_eq!(rig.server.unflushed(), [], "{action:?}");
        } else {
            assert_failed_for_good(&rig, file, 8 * MIB);
            assert_umount_reports_the_loss(rig);
        }
    }
}

#[test]
fn idle_connections_with_nothing_unflushed_are_replaced_without_an_error() {
    let size = 16 * MIB;
    let rig = Rig::over(used_server(settings(size)), &[]);
    let mut model = Image::new(size);
    model.write(0, &pattern(9, size as usize));
    let file = rig.read_write();
    for round in 0..3 {
        rig.server.cut(&rig.server.connections_alive());
        assert!(read_at(&file, 8 * MIB..9 * MIB).unwrap() == model.read(8 * MIB..9 * MIB));
        rig.server.cut(&rig.server.connections_alive());
        let bytes = pattern(round, 2 * MIB as usize);
        file.write_all_at(&bytes, round * MIB).unwrap();
        model.write(round * MIB, &bytes);
        file.sync_all().unwrap();
        assert_eq!(rig.server.unflushed(), []);
    }
    close(file).unwrap();
    rig.umount_expecting(&model);
}

#[test]
fn a_refusal_that_comes_while_the_body_is_still_being_sent_is_read_and_logged() {
    let rig = Rig::over(used_server(settings(64 * MIB)), &["--connections", "1"]);
    rig.server.arm(Fault::always(
        Verb::Put,
        Action::EarlyStatus(403, "Transfer=77 was canceled"),
    ));
    let file = rig.read_write();
    for n in 0..32 {
        if let Err(error) = file.write_all_at(&pattern(n, MIB as usize), n * MIB) {
            assert_eq!(error.raw_os_error(), Some(EIO));
        }
    }
    assert_eq!(errno(file.sync_all()), EIO);
    let log = rig.mount.log();
    assert!(
        log.contains("403") && log.contains("was canceled"),
        "the log lacks the refusal:\n{}",
        rig.mount.log_end()
    );
    drop(file);
    assert_umount_reports_the_loss(rig);
}

#[test]
fn a_server_that_stalls_for_a_while_only_causes_a_delay() {
    let size = 8 * MIB;
    let rig = Rig::over(used_server(settings(size)), &[]);
    for verb in [Verb::Get, Verb::Put] {
        rig.server
            .arm(Fault::next(verb, Action::Stall(Duration::from_secs(3))).touching(0));
    }
    rig.server
        .arm(Fault::next(Verb::Flush, Action::Stall(Duration::from_secs(3))));
    let file = rig.read_write();
    assert!(read_at(&file, 0..MIB).unwrap() == rig.server.visible().read(0..MIB));
    let bytes = pattern(1, MIB as usize);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    assert!(rig.server.read_durable(0..MIB) == bytes);
    close(file).unwrap();
    assert_eq!(rig.umount().0.code, Some(0));
}
