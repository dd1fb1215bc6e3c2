//! The server's storage is full, or has errors: a tmpfs that is too small for the engine's disks, and nbdkit
//! with its error filter. imageio answers 500, and the mount retries for the time that a storage path takes
//! to fail over.

use std::path::PathBuf;

use serde_json::json;

use crate::rig::{
    DATA_MAY_BE_LOST, HALF, Load, SOON, also_in, assert_eio, assert_eio_in_time, assert_free, assert_lost,
    assert_nothing_deleted, assert_old_or_written, assert_read_fails, assert_told, count, daemon, existing,
    mounting, recover, used_image, wait_until_written, write_flushed,
};
use crate::support::content::MIB;
use crate::support::engine::{DiskState, Engine};
use crate::support::image::Backend;
use crate::support::run::{sh, wait_until};

const DISK_SIZE: u64 = 32 * MIB;

/// A small file system under the engine's disks. A test declares it after the engine, so that it is dropped
/// first.
struct SmallStorage(PathBuf);

impl SmallStorage {
    fn under(engine: &Engine) -> Self {
        let point = engine.dir().join("engine/images");
        sh(
            r#"mkdir -p "$1"; mount -t tmpfs -o size=16m rhv-mount-test "$1""#,
            [&point],
            20,
        )
        .ok();
        Self(point)
    }

    fn grow(&self) {
        sh(r#"mount -o remount,size=64m "$1""#, [&self.0], 20).ok();
    }
}

impl Drop for SmallStorage {
    fn drop(&mut self) {
        let _ = sh(r#"umount -l "$1""#, [&self.0], 20);
    }
}

/// Returns a thin disk of [`DISK_SIZE`] bytes with 8 MiB of data, and its model.
fn thin_disk(engine: &Engine) -> (DiskState, PathBuf) {
    let model = engine.dir().join("model.raw");
    crate::support::content::random_image(&model, DISK_SIZE / 4, 5);
    let spec = json!({"name": "web01", "size": DISK_SIZE, "format": "raw", "content": model});
    let disk = engine.add_disk(&spec);
    let file = std::fs::File::options().write(true).open(&model);
    file.and_then(|file| file.set_len(DISK_SIZE))
        .expect("size the model");
    (disk, model)
}

#[test]
fn a_full_storage_is_an_error_that_sticks_and_a_disk_that_was_there_is_left_paused() {
    let engine = Engine::start();
    let storage = SmallStorage::under(&engine);
    let (disk, model) = thin_disk(&engine);
    let mount = engine.mounting(existing("web01")).args(SOON).start();
    let point = mount.mountpoint().to_path_buf();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    assert_eio_in_time("a write that does not fit", || {
        load.write(2, 8 * MIB, 24 * MIB).and_then(|()| load.sync())
    });
    load.assert_broken();
    drop(load);
    let ran = mount.umount();
    assert_lost(&ran, &["500", &disk.id, "rhv-mount recover"]);
    let phase = engine.transfer().phase;
    assert!(phase.starts_with("paused"), "the transfer is {phase}");
    recover(&engine, &["--finalize"], &point).ok();
    let left = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!((left.status.as_str(), left.locked_by.len()), ("ok", 0));
    assert_old_or_written(&left.path, &model, 2, 8 * MIB, 24 * MIB);
    assert_nothing_deleted(&engine);
    drop(storage);
}

#[test]
fn a_full_storage_costs_a_disk_that_was_made_for_the_upload() {
    let engine = Engine::start();
    let storage = SmallStorage::under(&engine);
    let args = ["--create", "new01", "--size", "32M", "--storage-domain", "data"];
    let mount = engine.mounting(args).args(SOON).start();
    let load = Load::on(&mount);
    let written = load.write(2, 0, DISK_SIZE).and_then(|()| load.sync());
    assert_eio("a write that does not fit", written);
    drop(load);
    let ran = mount.umount();
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["data may be lost", "500"]);
    wait_until("the disk is removed", 30, || engine.disk("new01").is_none());
    assert!(engine.state_files().is_empty());
    drop(storage);
}

#[test]
fn space_that_comes_in_time_is_not_noticed() {
    let engine = Engine::start();
    let storage = SmallStorage::under(&engine);
    let (disk, model) = thin_disk(&engine);
    let mount = engine.mounting(existing("web01")).start();
    let load = Load::on(&mount);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| load.write(2, 8 * MIB, 24 * MIB).and_then(|()| load.sync()));
        wait_until("the storage is full", 60, || count(&mount, "errors") > 0);
        storage.grow();
        writing.join().expect("no panic").expect("write and fsync");
    });
    also_in(&model, 2, 8 * MIB, 24 * MIB);
    drop(load);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &model);
    assert_nothing_deleted(&engine);
    drop(storage);
}

#[test]
fn writes_that_the_storage_refuses_are_an_error_that_sticks() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::Failing);
    let mount = mounting(&disk).args(SOON).start();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    disk.image().break_storage();
    let written = load.write(2, 4 * MIB, 2 * MIB).and_then(|()| load.sync());
    assert_eio("a write that the storage refuses", written);
    disk.image().mend_storage();
    load.assert_broken();
    drop(load);
    assert_lost(&mount.umount(), &["500"]);
    assert_old_or_written(&disk.server_side(), &model, 2, 4 * MIB, 2 * MIB);
}

#[test]
fn errors_that_end_in_time_are_not_noticed() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::Failing);
    let mount = mounting(&disk).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    disk.image().break_storage();
    load.write(2, HALF - MIB, 2 * MIB).expect("write");
    wait_until("the storage refuses", 60, || count(&mount, "errors") > 0);
    disk.image().mend_storage();
    load.sync().expect("fsync");
    also_in(&model, 1, 0, HALF);
    also_in(&model, 2, HALF - MIB, 2 * MIB);
    drop(load);
    mount.umount().ok();
    disk.compare_with(&model).expect("the storage holds every byte");
}

/// A bad sector fails the read that meets it, soon, and nothing else.
#[test]
fn reads_that_the_storage_refuses_are_errors_that_do_not_stick() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::Failing);
    let mount = mounting(&disk).start();
    disk.image().break_storage();
    assert_read_fails(&mount.file(), 0);
    disk.image().mend_storage();
    let direct = r#"dd if="$1" iflag=direct bs=1M status=none | cmp - "$2""#;
    sh(direct, [&mount.file(), &model], 60).ok();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    drop(load);
    mount.umount().ok();
    disk.compare_with(&model).expect("the storage holds every byte");
}
