//! Failures that nobody notices: with the default options a passing failure costs time and no byte, whether
//! the server reports an error, the connection breaks, or the server restarts and has lost all unflushed
//! bytes. The user sees no error, and after an fsync or umount every byte is durable.

use crate::rig::{MIB, Rig, assert_same, close, pattern, read_at, settings, used_server};
use crate::server::{Action, Fault, Image, Verb};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const SIZE: u64 = 16 * MIB;

struct Survival {
    rig: Rig,
    model: Image,
}

impl Survival {
    fn start() -> Survival {
        let server = used_server(settings(SIZE));
        let (model, rig) = (server.visible(), Rig::over(server, &[]));
        Survival { rig, model }
    }

    fn write(&mut self, seed: u64, offset: u64, length: u64) {
        let bytes = pattern(seed, length as usize);
        self.rig.read_write().write_all_at(&bytes, offset).expect("write");
        self.model.write(offset, &bytes);
    }

    #[track_caller]
    fn assert_fsync_makes_all_durable(&self) {
        self.rig.read_write().sync_all().expect("fsync");
        assert_same("durable after fsync", &self.rig.server.durable(), &self.model);
        assert_eq!(self.rig.server.unflushed(), []);
    }

    /// Checks that `fired` faults hit a request and that the mount ends as if there had been none.
    #[track_caller]
    fn assert_unnoticed(self, fired: usize) {
        assert_eq!(
            self.rig.server.faults_fired(),
            fired,
            "the number of faults that hit a request"
        );
        self.rig.umount_expecting(&self.model);
    }
}

/// Returns failures that a repeated request gets past.
fn passing() -> Vec<Action> {
    vec![
        Action::Status(500, "Server failed to perform the request, check logs"),
        Action::EarlyStatus(503, "not now"),
        Action::CloseBeforeBody,
        Action::CloseMidBody,
        Action::CloseBeforeReply,
    ]
}

#[test]
fn a_write_that_fails_once() {
    let actions = passing();
    let mut survival = Survival::start();
    for (n, action) in actions.iter().enumerate() {
        survival.rig.server.arm(Fault::next(Verb::Put, action.clone()));
        survival.write(n as u64, n as u64 * 3 * MIB, 2 * MIB);
        survival.assert_fsync_makes_all_durable();
    }
    survival.assert_unnoticed(actions.len());
}

/// The connection was closed in one direction only, on its way to the server, which can still answer.
#[test]
fn a_write_that_has_not_arrived_completely() {
    let mut survival = Survival::start();
    let words = "Requested 2097152 bytes, available 294912 bytes";
    survival
        .rig
        .server
        .arm(Fault::next(Verb::Put, Action::Status(400, words)));
    survival.write(1, 3 * MIB, 2 * MIB);
    survival.assert_fsync_makes_all_durable();
    survival.assert_unnoticed(1);
}

#[test]
fn a_zero_that_fails_once() {
    let actions = passing();
    let mut survival = Survival::start();
    for (n, action) in actions.iter().enumerate() {
        survival.rig.server.arm(Fault::next(Verb::Zero, action.clone()));
        let range = n as u64 * 3 * MIB..(n as u64 * 3 + 2) * MIB;
        crate::rig::punch_hole(&survival.rig.read_write(), range.clone()).expect("punch");
        survival.model.zero(range);
        survival.assert_fsync_makes_all_durable();
    }
    survival.assert_unnoticed(actions.len());
}

#[test]
fn a_flush_that_fails_once() {
    let mut survival = Survival::start();
    let actions = [
        Action::Status(500, "Server failed to perform the request, check logs"),
        Action::CloseBeforeBody,
        Action::CloseBeforeReply,
    ];
    for (n, action) in actions.iter().enumerate() {
        survival.write(n as u64, n as u64 * 3 * MIB, 2 * MIB);
        survival.rig.server.arm(Fault::next(Verb::Flush, action.clone()));
        survival.assert_fsync_makes_all_durable();
    }
    survival.assert_unnoticed(actions.len());
}

/// A server reports the loss of one connection's writes once, maybe to another connection, so the writes of
/// all connections are written again.
#[test]
fn a_flush_that_fails_with_writes_on_every_connection() {
    let mut survival = Survival::start();
    survival
        .rig
        .server
        .change(|settings| settings.put_delay = Duration::from_millis(20));
    let file = survival.rig.read_write();
    for n in 0..8 {
        let bytes = pattern(n, 2 * MIB as usize);
        file.write_all_at(&bytes, n * 2 * MIB).expect("write");
        survival.model.write(n * 2 * MIB, &bytes);
    }
    close(file).expect("close");
    let put = |survival: &Survival| {
        let puts = survival.rig.server.records_of(Verb::Put);
        puts.iter().map(crate::server::Record::length).sum::<u64>()
    };
    let unflushed = survival.rig.server.unflushed();
    let holders: std::collections::BTreeSet<u64> = unflushed.iter().map(|(id, _)| *id).collect();
    assert!(
        holders.len() > 1,
        "one connection has all writes, so the test proves nothing"
    );
    let unflushed: u64 = unflushed.iter().map(|(_, range)| range.end - range.start).sum();
    let before = put(&survival);
    survival
        .rig
        .server
        .arm(Fault::next(Verb::Flush, Action::Status(500, "lost something")));
    survival.assert_fsync_makes_all_durable();
    assert_eq!(
        put(&survival) - before,
        unflushed,
        "the bytes of every connection must be sent again"
    );
    survival.assert_unnoticed(1);
}

#[test]
fn connections_that_break_with_unflushed_writes() {
    let mut survival = Survival::start();
    for round in 0..3 {
        survival.write(round, round * MIB, 4 * MIB);
        close(survival.rig.read_write()).expect("close");
        let holders: Vec<u64> = survival
            .rig
            .server
            .unflushed()
            .iter()
            .map(|(id, _)| *id)
            .collect();
        // After the first loss the mount flushes earlier.
        assert!(
            round > 0 || !holders.is_empty(),
            "nothing is unflushed, so the test proves nothing"
        );
        survival.rig.server.cut(&holders);
        survival.assert_fsync_makes_all_durable();
    }
    survival.assert_unnoticed(0);
}

#[test]
fn a_server_that_restarts_and_has_lost_the_unflushed_bytes() {
    let mut survival = Survival::start();
    for round in 0..3 {
        survival.write(round, round * MIB, 4 * MIB);
        close(survival.rig.read_write()).expect("close");
        assert_same(
            "visible after close",
            &survival.rig.server.visible(),
            &survival.model,
        );
        survival.rig.server.restart();
        let read = read_at(&survival.rig.read_write(), 0..SIZE).expect("read");
        assert!(
            read == survival.model.read(0..SIZE),
            "a read after restart {round}"
        );
        if round % 2 == 0 {
            survival.assert_fsync_makes_all_durable();
        }
    }
    survival.assert_unnoticed(0);
}

#[test]
fn a_server_that_is_away_for_a_while() {
    let mut survival = Survival::start();
    survival.write(1, 0, 2 * MIB);
    // A server whose connections seem to end after one answer is not asked for OPTIONS on the next one.
    for verb in [Verb::Options, Verb::Put] {
        let away = Fault::next(verb, Action::CloseBeforeBody).times(4);
        survival.rig.server.arm(away);
    }
    survival.rig.server.restart();
    survival.write(2, MIB, 4 * MIB);
    survival.assert_fsync_makes_all_durable();
    let fired = survival.rig.server.faults_fired();
    assert!(fired > 0, "no request came while the server was away");
    survival.rig.server.disarm();
    survival.assert_unnoticed(fired);
}
