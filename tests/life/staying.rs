//! A transfer stays usable as long as the mount lives, despite inactivity, an expired session, a pause, or a
//! ticket that is not renewed.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::existing::{expected, write_and_sync};
use crate::rig::{
    assert_free, assert_nothing_deleted, assert_told, copy_command, create, existing, over, used_disk,
};
use crate::support::content::{MIB, random_image};
use crate::support::engine::Engine;
use crate::support::run::{sh, wait_until};

/// In that time the engine pauses the transfer and imageio closes its connections three times.
#[test]
fn a_mount_idle_for_three_times_the_limit_is_written_again() {
    let engine = Engine::with(["--inactivity-cap", "2"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (other, other_content) = used_disk(&engine, "web02", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let reader = engine.mounting(existing("web02")).arg("--read-only").start();
    assert_eq!(engine.transfer().inactivity_timeout, 2);
    write_and_sync(&mount.file(), 0, MIB, 21);
    sleep(Duration::from_millis(6500));
    let direct = r#"dd if="$1" bs=1M iflag=direct status=none | cmp - "$2""#;
    sh(direct, [&reader.file(), &other_content], 60).ok();
    write_and_sync(&mount.file(), 4 * MIB, MIB, 22);
    mount.umount().ok();
    reader.umount().ok();
    let content = expected(&content, 0, MIB, 21);
    assert_free(&engine, &disk.id, &expected(&content, 4 * MIB, MIB, 22));
    assert_free(&engine, &other.id, &other_content);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_session_that_expired_while_mounted_does_not_keep_it_from_ending() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mut mount = engine.mounting(existing("web01")).start();
    for secret in engine.secrets() {
        mount.add_secret(&secret);
    }
    write_and_sync(&mount.file(), MIB, MIB, 23);
    engine.switch(&json!({"switch": "expire_sessions"}));
    assert_eq!(engine.sessions(), 0);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 23));
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

/// `dd` writes for about a second and does not notice three pauses.
#[test]
fn a_transfer_that_is_paused_while_dd_runs_is_resumed() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "cow");
    let content = engine.dir().join("new.raw");
    random_image(&content, crate::rig::SIZE, 9);
    let pause = engine.switch_line(&json!({"switch": "pause_now"}));
    let script = format!(
        "(for n in 1 2 3; do sleep 0.3; {pause}; done) & \
         for n in 0 1 2 3 4 5 6 7; do \
         dd if='{0}' of={{}} bs=64k skip=$((n*16)) seek=$((n*16)) count=16 oflag=direct conv=notrunc \
         status=none; sleep 0.15; done; wait",
        content.display()
    );
    over(&engine, &existing("web01"), &script).ok();
    assert_free(&engine, &disk.id, &content);
    let transfers = engine.transfers();
    assert_eq!(transfers.len(), 1, "one transfer, resumed");
    let phases = engine.phases(&transfers[0].id);
    assert!(phases.contains(&"paused_system".to_owned()), "{phases:?}");
    assert_nothing_deleted(&engine);
}

/// After a pause by the system the transfer is resumed before its ticket, which the engine does not renew in
/// a pause, expires.
#[test]
fn a_pause_outlives_no_ticket() {
    let engine = Engine::with(["--ticket-validity", "4", "--ticket-refresh", "2"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), 0, MIB, 24);
    engine.switch(&json!({"switch": "pause_now"}));
    sleep(Duration::from_secs(1));
    write_and_sync(&mount.file(), MIB, MIB, 25);
    mount.umount().ok();
    let content = expected(&content, 0, MIB, 24);
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 25));
}

/// The renewal fails twice in a row and the system stops the transfer; activity has kept the ticket itself
/// alive.
#[test]
fn a_ticket_that_could_not_be_renewed_is_resumed() {
    let engine = Engine::with(["--ticket-validity", "6", "--ticket-refresh", "5"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "extend_fails", "times": 2}));
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), 0, MIB, 26);
    wait_until("the system stops the transfer", 60, || {
        let phases = engine.phases(&engine.transfer().id);
        phases.contains(&"paused_system".to_owned())
    });
    write_and_sync(&mount.file(), MIB, MIB, 27);
    mount.umount().ok();
    let content = expected(&content, 0, MIB, 26);
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 27));
}

/// The ticket stays usable in a pause, so the data can still be flushed.
#[test]
fn a_transfer_that_does_not_resume_still_ends_well() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "resume_fails"}));
    let mount = engine.mounting(existing("web01")).start();
    engine.switch(&json!({"switch": "pause_now"}));
    write_and_sync(&mount.file(), MIB, MIB, 28);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 28));
    assert_nothing_deleted(&engine);
}

/// A user cancels in the engine's web page, which removes the disk: rhv-mount must report the loss.
#[test]
fn a_transfer_that_somebody_else_cancels_is_a_loss() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let cancel = engine.switch_line(&json!({"switch": "cancel_now"}));
    let script = format!("printf early | dd of={{}} conv=notrunc,fsync status=none; {cancel}; sleep 0.5");
    let ran = over(&engine, &existing("web01"), &script);
    let transfer = engine.transfer();
    assert_told(
        &ran,
        &[crate::rig::DATA_MAY_BE_LOST],
        &["cancelled|failed|gone", &transfer.id],
    );
    assert!(engine.disk(&disk.id).is_none(), "the stand-in removes it");
    assert_nothing_deleted(&engine);
}

/// The engine finalizes a download by itself when every byte was read; later reads must still get the bytes.
#[test]
fn a_read_only_mount_goes_on_after_every_byte_was_read() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).arg("--read-only").start();
    let direct = r#"dd if="$1" bs=1M iflag=direct status=none | cmp - "$2""#;
    for _ in 0..2 {
        sh(direct, [&mount.file(), &content], 60).ok();
        sleep(Duration::from_millis(500));
    }
    mount.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

/// A whole copy needs only one transfer, although each session lives for only a few requests.
#[test]
fn sessions_that_live_for_a_few_requests_are_renewed() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "token_requests", "value": 4}));
    let source = crate::rig::source(&engine, 61);
    over(&engine, &create("web01"), &copy_command(&source)).ok();
    assert_free(&engine, "web01", &source);
    assert_eq!(engine.transfers().len(), 1);
}
