//! The engine does not answer for a while: it accepts connections and stays silent. imageio goes on without
//! it.

use std::time::Duration;

use crate::rig::{
    HALF, Load, SIZE, also_in, assert_free, assert_nothing_deleted, create, existing, full, used_disk,
};
use crate::support::content::random_image;
use crate::support::engine::Engine;

/// The time without an engine: longer than the interval between two polls of a transfer.
fn absence() -> Duration {
    Duration::from_secs(if full() { 60 } else { 8 })
}

/// Writes one half of the disk before the engine goes away and the other while it is away. Unmounts when it
/// is back or, with `at_the_end`, while it is still away. Returns the model.
fn upload(engine: &Engine, args: &[String], at_the_end: bool) -> std::path::PathBuf {
    let model = engine.dir().join("model.raw");
    random_image(&model, SIZE, 5);
    let mount = engine.mounting(args).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    load.sync().expect("fsync");
    let away = engine.away();
    load.write(2, HALF, HALF).expect("write while the engine is away");
    load.sync().expect("fsync while the engine is away");
    drop(load);
    let back = std::thread::spawn(move || {
        std::thread::sleep(absence());
        drop(away);
    });
    if at_the_end {
        mount.umount().ok();
        back.join().expect("no panic");
    } else {
        back.join().expect("no panic");
        mount.umount().ok();
    }
    also_in(&model, 1, 0, HALF);
    also_in(&model, 2, HALF, HALF);
    model
}

#[test]
fn while_data_moves_nobody_notices() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let model = upload(&engine, &existing("web01"), false);
    assert_free(&engine, "web01", &model);
    assert_nothing_deleted(&engine);
    assert_eq!(engine.transfers().len(), 1);
    assert!(engine.state_files().is_empty());
}

#[test]
fn at_the_end_umount_waits_for_it() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "cow");
    for args in [existing("web01"), create("new01")] {
        let model = upload(&engine, &args, true);
        assert_free(&engine, &args[1], &model);
    }
    assert!(engine.disk(&disk.id).is_some());
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

/// imageio restarts while the engine is away, so the new transfer has to wait for the engine.
#[test]
fn when_imageio_restarts_meanwhile_nobody_notices() {
    let engine = Engine::start();
    let (disk, model) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    crate::rig::wait_until_written(&mount, HALF);
    let away = engine.away();
    engine.daemon().kill();
    let back = std::thread::scope(|scope| {
        let writing = scope.spawn(|| load.write(2, HALF, HALF).and_then(|()| load.sync()));
        // By then the mount has asked the engine where imageio is; the request that a new transfer needs
        // comes later.
        std::thread::sleep(Duration::from_secs(13));
        engine.daemon().restart();
        let back = std::thread::spawn(move || {
            std::thread::sleep(absence());
            drop(away);
        });
        writing.join().expect("no panic").expect("write and fsync");
        back
    });
    back.join().expect("no panic");
    drop(load);
    mount.umount().ok();
    also_in(&model, 1, 0, HALF);
    also_in(&model, 2, HALF, HALF);
    assert_free(&engine, &disk.id, &model);
    assert_nothing_deleted(&engine);
}
