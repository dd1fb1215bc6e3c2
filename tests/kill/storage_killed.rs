//! qemu-nbd, the storage behind the ticket, is killed. Each imageio connection that had it open answers 500
//! for ever; a new connection tries to open it again.

use crate::rig::{
    HALF, Load, SIZE, SOON, also_in, assert_eio, assert_eio_in_time, assert_free, assert_lost,
    assert_nothing_deleted, assert_old_or_written, assert_read_fails, create, daemon, existing, mounting,
    read_mib, used_disk, used_image, wait_until_written, write_flushed,
};
use crate::support::content::{MIB, random_image};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::image::{Backend, Content};
use crate::support::run::wait_until;

#[test]
fn storage_that_stays_away_is_an_error_that_sticks() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::RawNbd);
    let mount = mounting(&disk).args(SOON).start();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    load.write(2, 4 * MIB, 2 * MIB).expect("write");
    wait_until_written(&mount, 3 * MIB);
    disk.image().kill_server();
    assert_eio_in_time("fsync", || load.sync());
    load.assert_broken();
    drop(load);
    assert_lost(&mount.umount(), &["500"]);
    assert_old_or_written(&disk.server_side(), &model, 2, 4 * MIB, 2 * MIB);
}

#[test]
fn storage_that_comes_back_in_time_is_not_noticed() {
    let daemon = daemon();
    for backend in [Backend::RawNbd, Backend::Qcow2Nbd] {
        let (mut disk, model, _dir) = used_image(&daemon, backend);
        let mount = mounting(&disk).start();
        let load = Load::on(&mount);
        load.write(1, 0, HALF).expect("write");
        also_in(&model, 1, 0, HALF);
        wait_until_written(&mount, HALF);
        disk.image().kill_server();
        load.write(2, HALF - MIB, MIB).expect("write");
        also_in(&model, 2, HALF - MIB, MIB);
        wait_until("the mount has seen the failure", 30, || {
            crate::rig::count(&mount, "errors") > 0
        });
        disk.image().start_server();
        load.sync().expect("fsync");
        drop(load);
        mount.umount().ok();
        disk.compare_with(&model).expect("the storage holds every byte");
    }
}

#[test]
fn reads_fail_until_the_storage_is_back_and_the_mount_ends_well() {
    let daemon = daemon();
    let mut disk = Disk::read_only(&daemon, Backend::RawNbd, 64 * MIB, Content::Used { seed: 3 });
    let mount = mounting(&disk).args(SOON).arg("--read-only").start();
    let file = mount.file();
    read_mib(&file, 1, 60).ok();
    disk.image().kill_server();
    assert_read_fails(&file, 50);
    disk.image().start_server();
    read_mib(&file, 50, 60).ok();
    mount.umount().ok();
}

/// The disk was created for this run and is incomplete.
#[test]
fn with_the_engine_a_disk_that_it_made_is_removed_when_the_storage_stays_away() {
    let engine = Engine::start();
    let mount = engine.mounting(create("new01")).args(SOON).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    engine.kill_storage();
    assert_eio("fsync", load.sync());
    drop(load);
    assert_lost(&mount.umount(), &[]);
    wait_until("the disk is removed", 30, || engine.disk("new01").is_none());
    assert!(engine.state_files().is_empty());
}

#[test]
fn with_the_engine_storage_that_comes_back_in_time_is_not_noticed() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "cow");
    for args in [existing("web01"), create("new01")] {
        let model = engine.dir().join("model.raw");
        random_image(&model, SIZE, 5);
        let mount = engine.mounting(&args).start();
        let load = Load::on(&mount);
        for half in 0..2 {
            load.write(half, half * HALF, HALF).expect("write");
            also_in(&model, half, half * HALF, HALF);
            if half == 0 {
                wait_until_written(&mount, HALF);
                engine.kill_storage();
                wait_until("the storage is back", 30, || engine.restart_storage());
            }
        }
        load.sync().expect("fsync");
        drop(load);
        mount.umount().ok();
        assert_free(&engine, &args[1], &model);
    }
    assert_nothing_deleted(&engine);
    assert_eq!(engine.transfers().len(), 2, "one for each disk");
}
