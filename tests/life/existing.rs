//! `--disk`: an existing disk is read and written, and survives every failure. rhv-mount never cancels its
//! upload, because the engine would then remove the disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::rig::{
    DATA_MAY_BE_LOST, ENGINE_FAILED, MOUNT_FAILED, assert_free, assert_nothing_deleted, assert_nothing_local,
    assert_told, command, existing, over, point, source, state_file, used_disk,
};
use crate::support::content::{MIB, Random};
use crate::support::engine::{DiskState, Engine};
use crate::support::foreground::Foreground;
use crate::support::mount::processes_with;
use crate::support::run::{Ran, run, sh, wait_until};

/// Writes `length` bytes of `seed` at `offset` of the mounted file, and flushes them.
pub(crate) fn write_and_sync(file: &Path, offset: u64, length: u64, seed: u64) {
    let file = File::options().write(true).open(file).expect("open the disk");
    let bytes = Random::new(seed).bytes(length as usize);
    file.write_all_at(&bytes, offset).expect("write to the disk");
    file.sync_all().expect("flush the disk");
}

/// Returns a file with the bytes that a disk with `content` holds after `write_and_sync`.
pub(crate) fn expected(content: &Path, offset: u64, length: u64, seed: u64) -> PathBuf {
    let path = content.with_extension(format!("after-{seed}"));
    fs::copy(content, &path).expect("copy the content");
    let file = File::options().write(true).open(&path).expect("open the copy");
    file.write_all_at(&Random::new(seed).bytes(length as usize), offset)
        .expect("write to the copy");
    path
}

/// Asserts that the message about a transfer that is left names the transfer, the disk, the host, and the
/// remedy.
#[track_caller]
fn assert_names_what_is_left(engine: &Engine, ran: &Ran, disk: &DiskState) {
    let transfer = engine.transfer().id;
    assert_told(
        ran,
        &[ran.code.unwrap_or(-1)],
        &[&transfer, &disk.id, &engine.host_id(), "rhv-mount recover"],
    );
}

/// Asserts that `recover` ends the transfer that is left, and that the disk still exists.
#[track_caller]
fn assert_recovers(engine: &Engine, point: &Path, disk: &DiskState) {
    assert!(
        state_file(point).is_some(),
        "the transfer that is left has no state file"
    );
    let mut args = vec!["recover".into(), "--finalize".into()];
    args.extend(engine.args());
    args.push(point.into());
    engine.run(args, 60).ok();
    assert!(
        state_file(point).is_none(),
        "the state file of an ended transfer is left"
    );
    let after = engine.disk(&disk.id).expect("the disk is there");
    assert_eq!(
        (after.status.as_str(), after.locked_by.len()),
        ("ok", 0),
        "after recover"
    );
    assert_nothing_deleted(engine);
}

#[test]
fn a_disk_is_taken_by_its_name_or_its_id_and_keeps_what_is_not_written() {
    let engine = Engine::start();
    for (format, by_id) in [("raw", false), ("cow", true)] {
        let (disk, content) = used_disk(&engine, format, format);
        let which = if by_id { &disk.id } else { &disk.name };
        let mount = engine.mounting(existing(which)).start();
        sh(r#"cmp "$1" "$2""#, [&mount.file(), &content], 30).ok();
        write_and_sync(&mount.file(), MIB, MIB / 2, 11);
        mount.umount().ok();
        assert_free(&engine, &disk.id, &expected(&content, MIB, MIB / 2, 11));
    }
    assert_nothing_deleted(&engine);
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

#[test]
fn a_command_that_fails_leaves_the_disk_with_what_it_wrote() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "cow");
    let source = source(&engine, 41);
    let ran = over(
        &engine,
        &existing("web01"),
        &format!("cp '{}' {{}}; exit 42", source.display()),
    );
    assert_eq!(ran.code, Some(42), "{ran}");
    assert_free(&engine, &disk.id, &source);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_command_that_is_not_there_leaves_the_disk_as_it_was() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = point(&engine, "web01");
    let mut args = engine.args();
    args.extend(["--disk".into(), "web01".into(), point.clone().into()]);
    args.extend(["--".into(), "no-such-program-here".into()]);
    let ran = engine.run(args, 60);
    assert_eq!(ran.code, Some(127), "{ran}");
    assert_nothing_local(&point, &ran);
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// The storage goes away, so not every acknowledged byte is on it: the transfer is left paused, and a message
/// says so.
#[test]
fn a_write_error_leaves_the_disk_and_the_choice_to_the_user() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let script = format!(
        "dd if=/dev/urandom of={{}} bs=1M count=1 conv=notrunc,fsync status=none; {}; \
         dd if=/dev/urandom of={{}} bs=1M count=4 conv=notrunc status=none || true",
        engine.kill_storage_line()
    );
    let point = point(&engine, "web01");
    let ran = over(&engine, &existing("web01"), &script);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["data may be lost"]);
    assert_names_what_is_left(&engine, &ran, &disk);
    assert_nothing_deleted(&engine);
    let phase = engine.transfer().phase;
    assert!(phase.starts_with("paused"), "the transfer is {phase}");
    assert_recovers(&engine, &point, &disk);
    let size = content.metadata().expect("the content").len();
    assert_eq!(
        fs::metadata(&disk.path).expect("the disk's file").len(),
        size,
        "the disk's size"
    );
}

#[test]
fn a_killed_mount_leaves_the_disk_with_every_flushed_byte() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "cow");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), 2 * MIB, MIB, 12);
    let point = mount.mountpoint().to_path_buf();
    mount.kill();
    assert_recovers(&engine, &point, &disk);
    assert_free(&engine, &disk.id, &expected(&content, 2 * MIB, MIB, 12));
    drop(mount);
}

#[test]
fn ctrl_c_flushes_and_finalizes() {
    let engine = Engine::start();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let name = signal.as_str();
        let (disk, content) = used_disk(&engine, name, "raw");
        let point = point(&engine, name);
        let mut program = engine.program();
        program.args(engine.args()).args(existing(name));
        program.arg("--foreground").arg(&point);
        let mut mount = Foreground::start(&mut program, &point);
        let file = File::options().write(true).open(&point).expect("open the disk");
        file.write_all_at(&Random::new(13).bytes(MIB as usize), MIB)
            .expect("write to the disk");
        drop(file);
        mount.signal(signal);
        assert_eq!(mount.wait(60).code(), Some(0), "{}", mount.stderr());
        assert!(processes_with(point.as_os_str()).is_empty() && !point.exists());
        assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 13));
    }
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

/// The second signal comes while the engine is slow to finalize: rhv-mount gives up in an orderly way.
#[test]
fn ctrl_c_twice_gives_up_and_leaves_the_disk() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "finalize_slow", "value": 20}));
    let point = point(&engine, "web01");
    let mut program = engine.program();
    program.args(engine.args()).args(existing("web01"));
    program.arg("--foreground").arg(&point);
    let mut mount = Foreground::start(&mut program, &point);
    write_and_sync(&point, MIB, MIB, 14);
    mount.signal(Signal::SIGINT);
    wait_until("it asks to finalize", 60, || {
        !engine.requests("POST", "/finalize").is_empty()
    });
    mount.signal(Signal::SIGINT);
    let status = mount.wait(15);
    assert!(
        status.code().is_some_and(|code| code != 0),
        "it was not done: {status:?}"
    );
    let said = mount.stderr();
    assert!(
        said.contains(&engine.transfer().id) && said.contains("rhv-mount recover"),
        "{said}"
    );
    // The user may not have seen that message, so the next umount repeats it.
    let told = engine.run(["umount".as_ref(), point.as_os_str()], 20);
    assert_told(&told, &[DATA_MAY_BE_LOST], &["rhv-mount recover"]);
    assert_recovers(&engine, &point, &disk);
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 14));
}

/// The second signal kills the command; the disk is free and has every flushed byte.
#[test]
fn ctrl_c_twice_under_a_command_leaves_the_disk() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = point(&engine, "web01");
    let ready = engine.dir().join("command-runs");
    let script = format!(
        "trap '' INT TERM; touch '{}'; while :; do sleep 0.1; done",
        ready.display()
    );
    let mut program = command(&engine, &existing("web01"), &point, &script);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the command runs", 30, || ready.exists());
    mount.signal(Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(200));
    mount.signal(Signal::SIGINT);
    let status = mount.wait(60);
    assert_eq!(
        status.code(),
        Some(128 + 9),
        "COMMAND was killed: {}",
        mount.stderr()
    );
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

/// imageio has lost the ticket and every byte was flushed: the transfer ends well.
#[test]
fn a_lost_ticket_with_nothing_unflushed_loses_nothing() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    write_and_sync(&mount.file(), 3 * MIB, MIB, 15);
    engine.switch(&json!({"switch": "ticket_remove"}));
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, 3 * MIB, MIB, 15));
    assert_nothing_deleted(&engine);
}

/// Writes come after the loss: they arrive, or are reported lost. The flushed bytes are on the disk either
/// way.
#[test]
fn a_lost_ticket_never_costs_a_flushed_byte() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let point = mount.mountpoint().to_path_buf();
    write_and_sync(&mount.file(), 3 * MIB, MIB, 16);
    let flushed = expected(&content, 3 * MIB, MIB, 16);
    engine.switch(&json!({"switch": "ticket_remove"}));
    let late = File::options()
        .write(true)
        .open(mount.file())
        .expect("open the disk");
    let written = late
        .write_all_at(&Random::new(17).bytes(MIB as usize), 5 * MIB)
        .and_then(|()| late.sync_all());
    drop(late);
    let ran = mount.umount();
    if written.is_ok() {
        assert_eq!(ran.code, Some(0), "{ran}");
        assert_free(&engine, &disk.id, &expected(&flushed, 5 * MIB, MIB, 17));
    } else {
        assert_told(&ran, &[DATA_MAY_BE_LOST], &["data may be lost"]);
        assert_names_what_is_left(&engine, &ran, &disk);
        assert_recovers(&engine, &point, &disk);
        assert_begins_with(&engine, &disk, &flushed, 5 * MIB);
    }
    assert_nothing_deleted(&engine);
}

/// The engine's verification pauses the transfer: the disk is illegal and kept, and rhv-mount does not retry
/// for ever.
#[test]
fn a_finalize_that_fails_is_a_loss_and_leaves_the_disk() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "finalize_pause", "times": 1}));
    let ran = over(&engine, &existing("web01"), "true");
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["paused", "rhv-mount recover"]);
    assert_names_what_is_left(&engine, &ran, &disk);
    assert_nothing_deleted(&engine);
    let after = engine.disk(&disk.id).expect("the disk is there");
    engine.compare(&after, &content).expect("the disk's bytes");
    assert_recovers(&engine, &point(&engine, "web01"), &disk);
}

/// A mount that fails after the transfer has started ends it.
#[test]
fn a_mount_that_fails_after_the_start_leaves_the_disk_free() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = engine.dir().join("a-directory");
    fs::create_dir(&point).expect("make the mountpoint");
    engine.switch(&json!({"switch": "stay_initializing", "value": 1.5, "times": 1}));
    let mut program = engine.program();
    program.args(engine.args()).args(existing("web01"));
    program.arg("--foreground").arg(&point);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the transfer is started", 60, || !engine.transfers().is_empty());
    fs::remove_dir(&point).expect("take the mountpoint away");
    assert_eq!(mount.wait(60).code(), Some(MOUNT_FAILED), "{}", mount.stderr());
    assert!(mount.stderr().contains("a-directory"), "{}", mount.stderr());
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

/// The process dies with the session and ends nothing, so only the state file leads `recover` to the
/// transfer.
#[test]
fn a_mount_killed_while_it_starts_leaves_something_that_recover_finds() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    // The answer, and with it the id of the transfer, comes when the process is gone.
    let start = "^POST .*/imagetransfers$";
    engine.switch(&json!({"switch": "answer_slow", "value": 60.0, "times": 1, "match": start}));
    let point = point(&engine, "web01");
    let mut program = engine.program();
    program.args(engine.args()).args(existing("web01"));
    program.arg("--foreground").arg(&point);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the transfer is started", 60, || !engine.transfers().is_empty());
    wait_until("its state is written", 60, || state_file(&point).is_some());
    kill(Pid::from_raw(mount.pid()), Signal::SIGKILL).expect("kill the mount");
    mount.wait(60);
    // The state file does not hold the transfer's id. The transfer might be somebody else's, so the user
    // decides.
    let mut args = vec!["recover".into()];
    args.extend(engine.args());
    args.push(point.clone().into());
    let ran = engine.run(args, 60);
    assert_told(&ran, &[ENGINE_FAILED], &["somebody else", "--finalize"]);
    assert!(
        ran.stdout.contains(&engine.transfer().id),
        "the transfer is not named: {ran}"
    );
    assert_recovers(&engine, &point, &disk);
    assert_free(&engine, &disk.id, &content);
    let _ = fs::remove_file(&point);
}

/// Asserts that the first `length` bytes of the disk are those of `content`.
#[track_caller]
fn assert_begins_with(engine: &Engine, disk: &DiskState, content: &Path, length: u64) {
    let disk = engine.disk(&disk.id).expect("the disk is there");
    let mut compare = std::process::Command::new("cmp");
    compare
        .args(["-n", &length.to_string()])
        .arg(&disk.path)
        .arg(content);
    run(&mut compare, 30).ok();
}
