//! Success that is promised too early: a gateway in front of imageio answers a PATCH as soon as it has its
//! head, and closes. Nothing has received that request, so no promise may rest on it.
//!
//! The body follows its head within microseconds, and the scheduler decides whether the gateway is faster;
//! it was in one to three of a hundred rounds. A round in which it is not proves nothing and harms nothing:
//! the request is executed.

use crate::local_sockets::assert_transport;
use crate::rig::{MIB, Rig, assert_same, close, pattern, punch_hole, settings};
use crate::server::{Action, Fault, Image, Server, Verb};
use crate::support::run::scratch;
use std::os::unix::fs::FileExt;

const SIZE: u64 = 8 * MIB;
const BLOCK: u64 = 4096;

/// A test ends after so many heads were answered, and fails if not one was after so many rounds.
const ENOUGH: usize = 2;
const MAX_ROUNDS: u64 = 4000;

/// Writes two blocks in each round, and lets the gateway answer heads while `act` runs with their offset in
/// the disk `model`. After that and an fsync every change of the round must be durable.
#[track_caller]
fn every_fsync_holds(lifetime: u32, act: impl Fn(&Rig, u64, &mut Image)) {
    for status in [200, 204] {
        let dir = scratch();
        let server = Server::start(settings(SIZE)).listen_at(&dir.path().join("local.sock"));
        let (mut model, rig) = (server.visible(), Rig::over(server, &["--connections=1"]));
        assert_transport(&rig.mount, "unix");
        rig.server.change(|settings| settings.lifetime = lifetime);
        for round in 0..MAX_ROUNDS {
            let (at, bytes) = (round * 2 * BLOCK % SIZE, pattern(round, 2 * BLOCK as usize));
            let file = rig.read_write();
            file.write_all_at(&bytes, at).unwrap();
            close(file).unwrap();
            model.write(at, &bytes);
            rig.server
                .arm(Fault::always(Verb::Patch, Action::StatusToHead(status)));
            act(&rig, at, &mut model);
            rig.server.disarm();
            rig.read_write().sync_all().unwrap();
            assert_same("durable after fsync", &rig.server.durable(), &model);
            if rig.server.count(Verb::Patch) >= ENOUGH {
                break;
            }
        }
        assert!(rig.server.count(Verb::Patch) > 0, "the gateway was always slower");
        rig.umount_expecting(&model);
    }
}

#[test]
fn a_flush_whose_head_alone_is_answered_is_repeated() {
    every_fsync_holds(u32::MAX, |rig, _, model| {
        rig.read_write().sync_all().unwrap();
        assert_same("durable after the first fsync", &rig.server.durable(), model);
    });
}

/// Each change flushes itself where a connection ends with its first answer, so nothing asks for the zeros
/// again.
#[test]
fn a_zero_whose_head_alone_is_answered_is_repeated() {
    every_fsync_holds(1, |rig, at, model| {
        let file = rig.read_write();
        punch_hole(&file, at + BLOCK..at + 2 * BLOCK).unwrap();
        model.zero(at + BLOCK..at + 2 * BLOCK);
        close(file).unwrap();
    });
}
