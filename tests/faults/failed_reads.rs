//! A failed read is repeated on a fresh connection, because it changes nothing, unless the server forbids it.
//! The mount never returns wrong bytes, whatever the server answers. The descriptors here are writable,
//! because the kernel passes on their reads one by one.

use crate::rig::{MIB, Rig, TICKET, errno, read_at, settings, used_server};
use crate::server::{Action, Fault, Verb};
use libc::EIO;

/// Length of a read, in bytes: too short for the mount to take it for a part of a larger one.
const READ_BYTES: u64 = MIB / 4;

#[test]
fn a_read_that_fails_is_repeated_on_a_fresh_connection() {
    let actions = [
        Action::Status(500, "Server failed to perform the request, check logs"),
        Action::CloseBeforeBody,
        Action::CloseMidBody,
        Action::CloseBeforeReply,
    ];
    let rig = Rig::over(used_server(settings(16 * MIB)), &[]);
    let file = rig.read_write();
    for (n, action) in actions.into_iter().enumerate() {
        let (fired, at) = (rig.server.faults_fired(), (n as u64 + 1) * 2 * MIB);
        rig.server
            .arm(Fault::next(Verb::Get, action.clone()).touching(at));
        let got = read_at(&file, at..at + READ_BYTES).unwrap_or_else(|error| panic!("{action:?}: {error}"));
        assert!(
            got == rig.server.visible().read(at..at + READ_BYTES),
            "{action:?}: wrong bytes"
        );
        assert_eq!(rig.server.faults_fired(), fired + 1, "{action:?} was not hit");
        let gets = rig.server.records_of(Verb::Get);
        let tries: Vec<u64> = gets
            .iter()
            .filter(|get| get.range.contains(&at))
            .map(|get| get.connection)
            .collect();
        assert_ne!(
            tries.first(),
            tries.last(),
            "{action:?}: the read was repeated on the failed connection"
        );
    }
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn a_read_is_never_answered_with_bytes_from_a_nonsense_answer() {
    for action in [
        Action::ShortLength,
        Action::WrongContentRange,
        Action::Garbage,
        Action::Reply(206, "seven b"),
        Action::Reply(200, ""),
    ] {
        let rig = Rig::over(used_server(settings(8 * MIB)), &[]);
        let file = rig.read_write();
        rig.server.arm(Fault::always(Verb::Get, action.clone()));
        assert_eq!(errno(read_at(&file, 2 * MIB..3 * MIB)), EIO, "{action:?}");
        rig.server.disarm();
        assert!(read_at(&file, 2 * MIB..3 * MIB).unwrap() == rig.server.visible().read(2 * MIB..3 * MIB));
    }
}

#[test]
fn a_forbidden_read_is_not_repeated_and_the_log_says_why() {
    let rig = Rig::over(used_server(settings(8 * MIB)), &[]);
    let file = rig.read_write();
    rig.server
        .arm(Fault::next(Verb::Get, Action::EarlyStatus(403, "Transfer=77 was canceled")).touching(2 * MIB));
    assert_eq!(errno(read_at(&file, 2 * MIB..2 * MIB + 4096)), EIO);
    let gets = rig.server.records_of(Verb::Get);
    assert_eq!(
        gets.iter().filter(|get| get.range.contains(&(2 * MIB))).count(),
        1
    );
    let log = rig.mount.log();
    assert!(
        log.contains("403") && log.contains("was canceled"),
        "the log lacks the refusal:\n{}",
        rig.mount.log_end()
    );
}

#[test]
fn the_ticket_is_not_in_the_log_when_the_server_itself_names_it() {
    let rig = Rig::over(used_server(settings(8 * MIB)), &[]);
    let file = rig.read_write();
    rig.server.change(|settings| settings.revoked = true);
    assert_eq!(errno(read_at(&file, 2 * MIB..3 * MIB)), EIO);
    let log = rig.mount.log();
    assert!(
        log.contains("No such ticket"),
        "the log lacks the refusal:\n{}",
        rig.mount.log_end()
    );
    assert!(!log.contains(TICKET));
}
