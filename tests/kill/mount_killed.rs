//! rhv-mount itself is killed, with unflushed bytes. `life::recovering` tests the flushed ones and all the
//! ways of `recover`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{
    DATA_MAY_BE_LOST, Load, SIZE, also_in, assert_nothing_deleted, assert_old_or_new, assert_told, copy_of,
    create, daemon, existing, mounting, recover, used_disk, used_image, wait_until_written,
};
use crate::support::content::MIB;
use crate::support::engine::{DiskState, Engine};
use crate::support::foreground::Foreground;
use crate::support::image::Backend;
use crate::support::mount::{Mount, is_mounted};
use crate::support::run::wait_until;

/// ENOTCONN: the answer of a mount without a process.
const NOT_CONNECTED: i32 = 107;

/// ECONNABORTED: the answer to an operation during which the process dies.
const ABORTED: i32 = 103;

/// EIO: the answer to a write that the kernel sends in two requests, when the process dies after the first.
const CUT: i32 = 5;

/// Writes one MiB that is flushed, two that the server has answered but not flushed, and one that may be on
/// its way; then kills the mount.
fn write_and_kill(mount: &Mount) {
    let load = Load::on(mount);
    load.write(1, 0, MIB).expect("write");
    load.sync().expect("fsync");
    load.write(2, 2 * MIB, 2 * MIB).expect("write");
    wait_until_written(mount, 3 * MIB);
    load.write(3, 6 * MIB, MIB).expect("write");
    mount.kill();
    let after = load.write(4, 0, MIB).and_then(|()| load.sync());
    let error = after.expect_err("a write to a dead mount");
    let answers = [Some(NOT_CONNECTED), Some(ABORTED), Some(CUT)];
    assert!(answers.contains(&error.raw_os_error()), "{error}");
    drop(load);
    assert!(is_mounted(mount.mountpoint()), "a dead mount stays in the tree");
    let seen = fs::metadata(mount.file()).expect_err("a dead mount has no file");
    assert_eq!(seen.raw_os_error(), Some(NOT_CONNECTED), "{seen}");
}

/// Adds the flushed bytes to the model `old`, and returns a model that has the unflushed ones too.
fn versions(old: &Path) -> PathBuf {
    also_in(old, 1, 0, MIB);
    let new = copy_of(old, "new");
    also_in(&new, 2, 2 * MIB, 2 * MIB);
    also_in(&new, 3, 6 * MIB, MIB);
    new
}

#[track_caller]
fn assert_freed(engine: &Engine, disk: &DiskState, old: &Path) {
    let disk = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!((disk.status.as_str(), disk.locked_by.len()), ("ok", 0));
    assert_old_or_new(&disk.path, old, &versions(old));
}

#[test]
fn without_an_engine_umount_says_what_may_be_lost_and_the_disk_can_be_mounted_again() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::RawNbd);
    let mount = mounting(&disk).start();
    write_and_kill(&mount);
    let point = mount.mountpoint().to_path_buf();
    let ran = mount.umount();
    assert_told(
        &ran,
        &[DATA_MAY_BE_LOST],
        &["may be lost", "write the image again"],
    );
    assert!(!is_mounted(&point));
    let again = mounting(&disk).start();
    let load = Load::on(&again);
    for (seed, at, length) in [(2, 2, 2), (3, 6, 1)] {
        load.write(seed, at * MIB, length * MIB).expect("write again");
    }
    drop(load);
    again.umount().ok();
    let new = versions(&model);
    disk.compare_with(&new).expect("the storage holds every byte");
}

#[test]
fn a_disk_that_was_there_is_freed_with_every_flushed_byte() {
    let engine = Engine::start();
    for options in [&[][..], &["--finalize"]] {
        let name = format!("web0{}", options.len());
        let (disk, model) = used_disk(&engine, &name, "raw");
        let mount = engine.mounting(existing(&name)).start();
        write_and_kill(&mount);
        let point = mount.mountpoint().to_path_buf();
        if options.is_empty() {
            assert_told(
                &mount.umount(),
                &[DATA_MAY_BE_LOST],
                &["may be lost", "rhv-mount recover"],
            );
        }
        recover(&engine, options, &point).ok();
        assert_freed(&engine, &disk, &model);
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_disk_that_it_made_is_kept_by_finalize_and_removed_by_cancel() {
    let engine = Engine::start();
    for option in ["--finalize", "--cancel"] {
        let mount = engine.mounting(create("new01")).start();
        write_and_kill(&mount);
        let point = mount.mountpoint().to_path_buf();
        let disk = engine.disk("new01").expect("the disk is there");
        recover(&engine, &[option], &point).ok();
        if option == "--finalize" {
            let zeros = engine.dir().join("zeros.raw");
            File::create(&zeros)
                .and_then(|file| file.set_len(SIZE))
                .expect("an empty image");
            assert_freed(&engine, &disk, &zeros);
        } else {
            wait_until("the disk is removed", 30, || engine.disk(&disk.id).is_none());
        }
        drop(mount);
        if option == "--finalize" {
            engine.change_disk(&disk.id, &json!({"name": "kept"}));
        }
    }
    assert!(engine.state_files().is_empty());
}

/// The file of a COMMAND that outlives the mount is dead.
#[test]
fn a_command_that_outlives_it_gets_an_error_for_each_write() {
    let engine = Engine::start();
    let (disk, model) = used_disk(&engine, "web01", "raw");
    let point = crate::life::point(&engine, "web01");
    let seen = engine.dir().join("seen");
    let script = format!(
        "dd if=/dev/zero of={{}} bs=1M count=1 conv=notrunc,fsync status=none; touch '{0}.ready'; \
         while dd if=/dev/zero of={{}} bs=1M count=1 conv=notrunc,fsync 2>'{0}'; do sleep 0.05; done; \
         touch '{0}.ended'",
        seen.display()
    );
    let mut command = crate::life::command(&engine, &existing("web01"), &point, &script);
    let mut mount = Foreground::spawn(&mut command);
    wait_until("the command has written", 40, || {
        seen.with_extension("ready").exists()
    });
    mount.signal(Signal::SIGKILL);
    mount.wait(60);
    wait_until("the command has got its error", 60, || {
        seen.with_extension("ended").exists()
    });
    let said = crate::support::run::text(&seen);
    assert!(
        said.contains("not connected") || said.contains("connection abort"),
        "{said}"
    );
    let ran = engine.run(["umount".as_ref(), point.as_os_str()], 60);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["may be lost", "rhv-mount recover"]);
    recover(&engine, &[], &point).ok();
    let zero = File::options().write(true).open(&model).expect("open the model");
    zero.write_all_at(&vec![0; MIB as usize], 0)
        .expect("write the model");
    crate::rig::assert_free(&engine, &disk.id, &model);
    assert_nothing_deleted(&engine);
}
