//! A ticket ends under a mount: imageio has lost it (its tickets live in memory), and the mount goes on over
//! another transfer of the same disk. No writer or reader notices; nothing is deleted, and nothing stays
//! locked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::existing::{expected, write_and_sync};
use crate::recovering::recover;
use crate::rig::{
    DATA_MAY_BE_LOST, ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_refused, assert_told,
    create, existing, over, source, state_file, used_disk,
};
use crate::support::content::{MIB, Random};
use crate::support::engine::Engine;
use crate::support::run::{start, text, wait_until};

/// The request that starts a transfer, for a switch.
const START: &str = "^POST /ovirt-engine/api/imagetransfers$";

fn lose_ticket(engine: &Engine) {
    assert_eq!(engine.switch(&json!({"switch": "ticket_remove"}))["met"], 1);
}

/// Every byte is there after two losses, one with unflushed bytes on every connection and one while dd
/// writes.
#[test]
fn an_upload_whose_ticket_is_lost_goes_on_over_another_transfer() {
    let engine = Engine::start();
    let lose = engine.switch_line(&json!({"switch": "ticket_remove"}));
    for (name, args) in [
        ("cow", existing("cow")),
        ("raw", existing("raw")),
        ("new", create("new")),
    ] {
        if name != "new" {
            used_disk(&engine, name, name);
        }
        let (before, source) = (engine.transfers().len(), source(&engine, 71));
        let script = format!(
            "dd if='{0}' of={{}} bs=1M count=4 status=none; {lose}; \
             (sleep 0.2; {lose}) & \
             for n in 4 5 6 7; do \
             dd if='{0}' of={{}} bs=1M skip=$n seek=$n count=1 conv=notrunc status=none; sleep 0.1; \
             done; wait; cmp {{}} '{0}'",
            source.display()
        );
        over(&engine, &args, &script).ok();
        assert_free(&engine, name, &source);
        let transfers = engine.transfers().split_off(before);
        assert!(transfers.len() >= 2, "no ticket was lost: {transfers:?}");
        for transfer in transfers {
            assert_eq!(transfer.phase, "finished_success", "{transfer:?}");
        }
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_download_whose_ticket_is_lost_goes_on_over_another_transfer() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let lose = engine.switch_line(&json!({"switch": "ticket_remove"}));
    let script = format!(
        "for n in 0 1 2; do dd if={{}} bs=64k skip=$((n*8)) count=8 iflag=direct status=none | \
         cmp - <(dd if='{0}' bs=64k skip=$((n*8)) count=8 status=none); {lose}; done; \
         dd if={{}} bs=1M iflag=direct status=none | cmp - '{0}'",
        content.display()
    );
    let mut args = existing("web01");
    // A larger cache has all of the disk before its ticket is lost.
    args.extend(["--read-only", "--cache-size=2M"].map(Into::into));
    over(&engine, &args, &script).ok();
    assert!(engine.transfers().len() >= 2, "no ticket was lost");
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty());
}

/// The state file names the transfer that holds the disk now, so a mount that is killed later is recovered.
#[test]
fn a_mount_that_is_killed_after_a_renewal_is_recovered() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let first = engine.transfer().id;
    lose_ticket(&engine);
    write_and_sync(&mount.file(), MIB, MIB, 31);
    let second = engine.transfer().id;
    assert_ne!(first, second);
    let point = mount.mountpoint().to_path_buf();
    let note = text(&state_file(&point).expect("a state file"));
    assert!(note.contains(&second) && !note.contains(&first), "{note}");
    mount.kill();
    let ran = recover(&engine, &[], Some(&point)).ok();
    assert!(ran.stdout.contains(&second), "{ran}");
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 31));
    assert_nothing_deleted(&engine);
}

/// The storage stalls for longer than a request may be silent, and the same block is written anew: the end of
/// the transfer proves that no late request is left to strike over it.
#[test]
fn a_block_that_a_stall_has_left_in_doubt_can_be_rewritten() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01"));
    let mount = mount.args(["--timeout=2", "--retry-time=120"]).start();
    let stalled = engine.stall_storage();
    // Another process writes: its close waits for the storage, and so would the start of each program here.
    let first = engine.dir().join("first");
    fs::write(&first, Random::new(61).bytes(MIB as usize)).expect("write a file");
    let mut writer = Command::new("dd");
    writer.arg(format!("if={}", first.display()));
    writer.arg(format!("of={}", mount.file().display()));
    writer.args(["bs=1M", "seek=1", "conv=notrunc", "status=none"]);
    let mut writer = writer.spawn().expect("start dd");
    wait_until("the stalled request is given up", 60, || {
        let said = mount.status(&["-o", "json"]).ok().stdout;
        let status: Value = serde_json::from_str(&said).expect("the status");
        status["errors"].as_u64().is_some_and(|errors| errors > 0)
    });
    drop(stalled);
    assert!(writer.wait().expect("wait for dd").success());
    write_and_sync(&mount.file(), MIB, MIB, 62);
    assert!(engine.transfers().len() >= 2, "the transfer was not replaced");
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 62));
    assert_nothing_deleted(&engine);
}

/// Between the two transfers the state file holds no transfer's id, and the one that recover finds may be
/// somebody else's.
#[test]
fn a_mount_that_is_killed_between_two_transfers_is_recovered() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), MIB, MIB, 32);
    // The engine performs the request and is slow to answer; nothing depends on how slow.
    engine.switch(&json!({"switch": "answer_slow", "value": 30, "match": START}));
    lose_ticket(&engine);
    let point = mount.mountpoint().to_path_buf();
    let writer = {
        let file = mount.file();
        std::thread::spawn(move || {
            let file = std::fs::File::options().write(true).open(file)?;
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 0)?;
            file.sync_all()
        })
    };
    wait_until("the engine has started the next transfer", 60, || {
        engine.transfers().len() == 2
    });
    let note = text(&state_file(&point).expect("a state file"));
    assert!(
        note.contains("\"transfer\": null"),
        "its id is known already: {note}"
    );
    mount.kill();
    assert!(
        writer.join().expect("the writer ends").is_err(),
        "its mount was killed"
    );
    let ran = recover(&engine, &[], Some(&point));
    assert_refused(&ran, &[ENGINE_FAILED], &["--finalize"]);
    assert!(ran.stdout.contains(&engine.transfer().id), "{ran}");
    recover(&engine, &["--finalize"], Some(&point)).ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 32));
    assert_nothing_deleted(&engine);
    assert!(state_file(&point).is_none());
}

/// No other transfer can be started: an existing disk stays, free, with its flushed bytes; a disk that this
/// run created is removed. A message tells the user either way.
#[test]
fn a_lost_ticket_without_another_transfer_is_a_loss_that_is_told() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let lose = engine.switch_line(&json!({"switch": "ticket_remove"}));
    let refuse = engine.switch_line(&json!({"switch": "transfer_fault"}));
    let script = format!(
        "printf early | dd of={{}} conv=notrunc,fsync status=none; {refuse}; {lose}; \
         ! (printf late | dd of={{}} seek=1 bs=4k conv=notrunc,fsync status=none)"
    );
    let ran = over(&engine, &existing("web01"), &script);
    let transfer = engine.transfer().id;
    assert_told(
        &ran,
        &[DATA_MAY_BE_LOST],
        &[&transfer, &disk.id, "once more", "free"],
    );
    let after = expected_early(&content);
    assert_free(&engine, &disk.id, &after);
    assert_nothing_deleted(&engine);
    engine.clear_switches();
    let ran = over(&engine, &create("web02"), &script);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["web02", "removed"]);
    wait_until("the disk is removed", 60, || engine.disk("web02").is_none());
    assert!(engine.state_files().is_empty());
}

fn expected_early(content: &Path) -> std::path::PathBuf {
    let path = content.with_extension("early");
    let mut bytes = std::fs::read(content).expect("the content");
    bytes[..5].copy_from_slice(b"early");
    std::fs::write(&path, bytes).expect("write the expected content");
    path
}

/// The engine answers 503 for a while, just when it is needed.
#[test]
fn an_engine_that_is_away_while_a_ticket_is_lost_is_waited_for() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "cow");
    let mount = engine.mounting(existing("web01")).start();
    engine.switch(&json!({"switch": "unavailable", "times": 25}));
    lose_ticket(&engine);
    write_and_sync(&mount.file(), MIB, MIB, 33);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 33));
    assert_nothing_deleted(&engine);
}

/// The transfer is asked for on this host, whose imageio may be the one that fails; the next one is not: an
/// upload that a host can't start costs the disk.
#[test]
fn another_transfer_is_started_on_whichever_host_the_engine_chooses() {
    let engine = Engine::with(["--hardware-id", "this-machine"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let id = engine.dir().join("vdsm.id");
    std::fs::write(&id, "this-machine\n").expect("write the machine's id");
    let mount = engine
        .mounting(existing("web01"))
        .env("RHV_MOUNT_VDSM_ID", &id)
        .start();
    lose_ticket(&engine);
    write_and_sync(&mount.file(), MIB, MIB, 38);
    mount.umount().ok();
    let starts = engine.requests("POST", "/imagetransfers");
    let hosts: Vec<_> = starts.iter().map(|one| &one["body"]["host"]).collect();
    assert_eq!(hosts, [&json!({"id": engine.host_id()}), &json!(null)]);
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 38));
    assert_nothing_deleted(&engine);
}

/// A created disk is removed when COMMAND fails, whichever transfer holds it by then.
#[test]
fn a_created_disk_is_removed_by_a_failed_command_after_a_renewal() {
    let engine = Engine::start();
    let lose = engine.switch_line(&json!({"switch": "ticket_remove"}));
    let script = format!("{lose}; printf x | dd of={{}} conv=fsync status=none; exit 42");
    let ran = over(&engine, &create("web01"), &script);
    assert_eq!(ran.code, Some(42), "{ran}");
    assert_eq!(engine.transfers().len(), 2);
    wait_until("the disk is removed", 60, || engine.disk("web01").is_none());
    assert!(engine.state_files().is_empty());
}

/// The ticket expires in a pause that did not end in time: a resume brings the same ticket back.
#[test]
fn an_expired_ticket_is_brought_back_by_a_resume() {
    let engine = Engine::with(["--ticket-validity", "3", "--ticket-refresh", "2"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), 0, MIB, 34);
    engine.switch(&json!({"switch": "unavailable", "match": "resume"}));
    engine.switch(&json!({"switch": "pause_now"}));
    // In a pause neither the engine nor any traffic renews the ticket, so it expires.
    sleep(Duration::from_secs(5));
    engine.clear_switches();
    write_and_sync(&mount.file(), MIB, MIB, 35);
    mount.umount().ok();
    let content = expected(&content, 0, MIB, 34);
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 35));
    assert_eq!(engine.transfers().len(), 1, "no second transfer");
    assert_nothing_deleted(&engine);
}

/// The watcher has resumed the transfer, and its ticket is prolonged only once the engine gets to it: what is
/// refused until then is no reason for another transfer.
#[test]
fn a_resume_that_takes_its_time_is_waited_for() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    engine.switch(&json!({"switch": "resume_slow", "value": 10.0}));
    engine.switch(&json!({"switch": "pause_now"}));
    let transfer = engine.transfer().id;
    wait_until("the watcher resumes it", 60, || {
        engine.phases(&transfer).iter().any(|phase| phase == "resuming")
    });
    engine.switch(&json!({"switch": "ticket_expire"}));
    write_and_sync(&mount.file(), MIB, MIB, 39);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 39));
    assert_eq!(engine.transfers().len(), 1, "no second transfer");
    assert_nothing_deleted(&engine);
}

/// The engine has started the next transfer, its answer is lost, and it is unavailable for a while.
#[test]
fn a_start_whose_answer_is_lost_is_found_again() {
    find_again(&Engine::start());
}

/// The engine locks the disk first, and saves the transfer later: a list without it proves nothing.
#[test]
fn a_start_that_the_engine_is_still_at_is_found_later() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "transfer_unlisted", "times": 1, "match": "web01"}));
    find_again(&engine);
    assert_eq!(engine.state("switches")["transfer_unlisted"], json!([]));
}

/// The engine does not list it in the time that a mount has at its end, and the disk is locked: by that
/// transfer, or by somebody who has taken the disk.
#[test]
fn a_start_that_is_not_listed_at_the_end_is_left_to_recover() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).arg("--retry-time=20").start();
    write_and_sync(&mount.file(), 0, MIB, 36);
    let path = "/ovirt-engine/api/imagetransfers$";
    engine.switch(&json!({"switch": "cut_after", "times": 1, "match": format!("^POST {path}")}));
    engine.switch(&json!({"switch": "transfer_unlisted", "match": "web01"}));
    lose_ticket(&engine);
    let mut reader = Command::new("dd");
    reader.arg(format!("if={}", mount.file().display()));
    let mut reader = start(reader.args(["of=/dev/null", "bs=1M", "skip=2", "count=1", "iflag=direct"]));
    wait_until("another transfer is started", 120, || {
        engine.log("transfer_created").len() == 2
    });
    reader.kill().expect("kill dd");
    reader.wait().expect("wait for dd");
    let ran = mount.umount();
    assert_told(
        &ran,
        &[ENGINE_FAILED, DATA_MAY_BE_LOST],
        &["whether another one was started", "recover"],
    );
    assert!(!engine.state_files().is_empty(), "{ran}");
}

fn find_again(engine: &Engine) {
    let (disk, content) = used_disk(engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).arg("--retry-time=90").start();
    write_and_sync(&mount.file(), 0, MIB, 36);
    let path = "/ovirt-engine/api/imagetransfers$";
    engine.switch(&json!({"switch": "cut_after", "times": 1, "match": format!("^POST {path}")}));
    engine.switch(&json!({"switch": "unavailable", "times": 12, "match": format!("^GET {path}")}));
    lose_ticket(engine);
    write_and_sync(&mount.file(), MIB, MIB, 37);
    mount.umount().ok();
    let content = expected(&content, 0, MIB, 36);
    assert_free(engine, &disk.id, &expected(&content, MIB, MIB, 37));
    assert_eq!(engine.transfers().len(), 2, "no third transfer");
    assert_nothing_deleted(engine);
    assert!(engine.state_files().is_empty());
}
