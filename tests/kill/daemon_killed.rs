//! imageio is killed. It stays away, or comes back on the same port as after a crash or a reboot of its host,
//! without the tickets, which it keeps in memory.

use std::time::Duration;

use crate::rig::{
    BOUND, DATA_MAY_BE_LOST, HALF, Load, SIZE, SOON, also_in, assert_eio, assert_eio_in_time, assert_free,
    assert_lost, assert_nothing_deleted, assert_old_or_written, assert_read_fails, assert_told, bytes,
    create, daemon, existing, mounting, read_mib, recover, used_disk, used_image, wait_until_written,
    write_flushed,
};
use crate::support::content::{MIB, random_image};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::image::{Backend, Content};
use crate::support::mount::is_mounted;
use crate::support::run::{sh, wait_until};

/// With only a transfer URL there is no way to get another ticket.
#[test]
fn without_an_engine_a_daemon_that_stays_away_is_an_error_that_sticks() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::RawNbd);
    let mount = mounting(&disk).args(SOON).start();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    load.write(2, 4 * MIB, 2 * MIB).expect("write");
    wait_until_written(&mount, 3 * MIB);
    daemon.kill();
    assert_eio_in_time("fsync", || load.sync());
    load.assert_broken();
    assert!(
        load.read(4 * MIB, 2 * MIB).expect("read back") == bytes(2, 2 * MIB),
        "acknowledged bytes stay readable as long as the mount lives"
    );
    drop(load);
    let ran = mount.umount();
    assert_lost(&ran, &["connection refused"]);
    assert_old_or_written(&disk.server_side(), &model, 2, 4 * MIB, 2 * MIB);
}

#[test]
fn without_an_engine_a_daemon_that_has_lost_the_ticket_is_an_error_at_once() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::RawNbd);
    // The default retry time, five minutes, must not be used up.
    let mount = mounting(&disk).start();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    load.write(2, 4 * MIB, 2 * MIB).expect("write");
    wait_until_written(&mount, 3 * MIB);
    daemon.kill();
    daemon.restart();
    assert_eio_in_time("fsync", || load.sync());
    load.assert_broken();
    drop(load);
    assert_lost(&mount.umount(), &["no such ticket"]);
    assert_old_or_written(&disk.server_side(), &model, 2, 4 * MIB, 2 * MIB);
}

/// The program that created the ticket creates it again.
#[test]
fn without_an_engine_a_daemon_that_is_given_the_ticket_again_is_not_noticed() {
    let daemon = daemon();
    let (mut disk, model, _dir) = used_image(&daemon, Backend::Qcow2Nbd);
    let mount = mounting(&disk).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    daemon.kill();
    daemon.restart();
    // No request has reached the daemon meanwhile, or it would have answered that there is no such ticket.
    disk.grant_again(&daemon);
    load.write(2, MIB, HALF).expect("write");
    also_in(&model, 1, 0, HALF);
    also_in(&model, 2, MIB, HALF);
    load.sync().expect("fsync");
    drop(load);
    mount.umount().ok();
    disk.compare_with(&model).expect("the storage holds every byte");
}

/// Nothing was written, so nothing can be lost.
#[test]
fn without_an_engine_reads_fail_until_the_daemon_is_back_and_the_mount_ends_well() {
    let daemon = daemon();
    let disk = Disk::read_only(&daemon, Backend::RawNbd, 64 * MIB, Content::Used { seed: 3 });
    let mount = mounting(&disk).args(SOON).arg("--read-only").start();
    let file = mount.file();
    read_mib(&file, 1, 60).ok();
    daemon.kill();
    assert_read_fails(&file, 50);
    daemon.restart();
    disk.grant_again(&daemon);
    read_mib(&file, 50, 60).ok();
    daemon.kill();
    mount.umount().ok();
}

/// Writes half of the disk, restarts imageio before a flush, writes the other half, and returns the model.
fn upload_over_a_restart(engine: &Engine, args: &[String], tcp: bool) -> std::path::PathBuf {
    let model = engine.dir().join("model.raw");
    random_image(&model, SIZE, 5);
    let mount = engine.mounting(args);
    let mount = if tcp { mount.arg("--no-unix-socket") } else { mount };
    let mount = mount.start();
    let load = Load::on(&mount);
    for half in 0..2 {
        load.write(half, half * HALF, HALF).expect("write");
        also_in(&model, half, half * HALF, HALF);
        if half == 0 {
            wait_until_written(&mount, HALF);
            engine.daemon().kill();
            engine.daemon().restart();
        }
    }
    load.sync().expect("fsync");
    drop(load);
    mount.umount().ok();
    model
}

#[test]
fn with_the_engine_an_upload_to_a_disk_that_was_there_goes_on_in_a_new_transfer() {
    for tcp in [true, false] {
        let engine = Engine::start();
        let (disk, _) = used_disk(&engine, "web01", "raw");
        let model = upload_over_a_restart(&engine, &existing("web01"), tcp);
        assert_free(&engine, &disk.id, &model);
        assert_nothing_deleted(&engine);
        let transfers = engine.transfers();
        let phases: Vec<&str> = transfers.iter().map(|one| one.phase.as_str()).collect();
        assert_eq!(
            phases, ["finished_success"; 2],
            "the lost transfer and the new one"
        );
        assert!(engine.state_files().is_empty());
    }
}

#[test]
fn with_the_engine_an_upload_to_a_disk_that_it_made_goes_on_in_a_new_transfer() {
    let engine = Engine::start();
    let model = upload_over_a_restart(&engine, &create("new01"), true);
    assert_free(&engine, "new01", &model);
    assert_nothing_deleted(&engine);
    assert_eq!(engine.transfers().len(), 2);
    assert!(engine.state_files().is_empty());
}

/// Nothing listens on the old port any more; the engine knows the new one.
#[test]
fn with_the_engine_an_upload_goes_on_where_another_transfer_is_served() {
    let engine = Engine::start();
    let (disk, model) = used_disk(&engine, "web01", "cow");
    let mount = engine.mounting(existing("web01")).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    engine.daemon().kill();
    engine.daemon().restart_elsewhere();
    load.write(2, MIB, HALF).expect("write");
    load.sync().expect("fsync");
    also_in(&model, 1, 0, HALF);
    also_in(&model, 2, MIB, HALF);
    drop(load);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &model);
    assert_nothing_deleted(&engine);
    assert_eq!(engine.transfers().len(), 2);
    assert!(engine.state_files().is_empty());
}

#[test]
fn with_the_engine_a_download_goes_on_in_a_new_transfer() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "cow");
    // A larger cache has all of the disk, and then nothing is asked for after the loss.
    let args = ["--read-only", "--cache-size=2M"];
    let mount = engine.mounting(existing("web01")).args(args).start();
    let direct = r#"dd if="$1" iflag=direct bs=1M status=none | cmp - "$2""#;
    sh(direct, [&mount.file(), &content], 60).ok();
    engine.daemon().kill();
    engine.daemon().restart();
    sh(direct, [&mount.file(), &content], BOUND).ok();
    mount.umount().ok();
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty());
}

/// The daemon does not come back within the retry time: the disk is kept, with every flushed byte.
#[test]
fn with_the_engine_a_daemon_that_stays_away_leaves_the_disk_to_recover() {
    let engine = Engine::start();
    let (disk, model) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).args(SOON).start();
    let point = mount.mountpoint().to_path_buf();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    engine.daemon().kill();
    load.write(2, 4 * MIB, MIB).expect("write");
    assert_eio("fsync", load.sync());
    load.assert_broken();
    drop(load);
    let ran = mount.umount();
    assert_told(
        &ran,
        &[DATA_MAY_BE_LOST],
        &["data may be lost", "rhv-mount recover", &disk.id],
    );
    assert!(!is_mounted(&point));
    let left = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!(left.locked_by.len(), 1, "the paused transfer holds the lock");
    wait_until("the transfer is paused", 60, || {
        engine.transfer().phase.starts_with("paused")
    });
    engine.daemon().restart();
    recover(&engine, &["--finalize"], &point).ok();
    assert_free(&engine, &disk.id, &model);
    assert_nothing_deleted(&engine);
}

/// A renewal at work takes minutes, as the engine waits for the host; the requests that need it fail in time.
#[test]
fn with_the_engine_requests_fail_within_the_retry_time() {
    let engine = Engine::start();
    let (disk, model) = used_disk(&engine, "web01", "raw");
    let args = ["--retry-time", "13", "--timeout", "5"];
    let mount = engine.mounting(existing("web01")).args(args).start();
    let load = Load::on(&mount);
    write_flushed(&load, &model);
    engine.daemon().kill();
    load.write(2, 4 * MIB, MIB).expect("write");
    assert_eio_in_time("fsync", || load.sync());
    let log = mount.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    let deadlines = told
        .iter()
        .filter(|line| line.contains("--retry-time 13"))
        .count();
    assert_eq!(deadlines, 1, "{told:?}");
    engine.daemon().restart();
    drop(load);
    assert_lost(&mount.umount(), &[]);
    assert!(engine.disk(&disk.id).is_some(), "the disk is kept");
    assert_nothing_deleted(&engine);
}

/// The disk was created for this run and is incomplete. The engine can't end the transfer before imageio is
/// back.
#[test]
fn with_the_engine_a_disk_that_it_made_is_removed_when_the_daemon_comes_back_too_late() {
    let engine = Engine::start();
    let mount = engine.mounting(create("new01")).args(SOON).start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    engine.daemon().kill();
    assert_eio("fsync", load.sync());
    load.assert_broken();
    drop(load);
    let ran = std::thread::scope(|scope| {
        let ending = scope.spawn(|| mount.umount());
        wait_until("the engine is ending the transfer", 60, || {
            engine.transfer().phase.starts_with("finalizing")
        });
        std::thread::sleep(Duration::from_secs(1));
        assert!(!ending.is_finished(), "umount waits for the disk's fate");
        assert!(
            engine.disk("new01").is_some(),
            "the transfer holds the disk's lock"
        );
        engine.daemon().restart();
        ending.join().expect("no panic")
    });
    assert_lost(&ran, &["connection refused"]);
    assert!(engine.disk("new01").is_none(), "umount has seen the removal");
    assert!(engine.state_files().is_empty());
}
