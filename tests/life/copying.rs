//! `upload` and `download` through the engine: what becomes of the disk and of its transfer.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::recovering::recover;
use crate::rig::{
    DATA_MAY_BE_LOST, DONE, ENGINE_FAILED, LIMIT, SIZE, USAGE, assert_free, assert_nothing_deleted,
    assert_told, existing, source, used_disk,
};
use crate::support::content::{compare, random_image};
use crate::support::engine::{Engine, PASSWORD};
use crate::support::foreground::Foreground;
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, run, wait_until};

/// The arguments that create a disk as large as the image.
fn made(name: &str) -> Vec<String> {
    ["--create", name, "--storage-domain", "data"]
        .map(str::to_owned)
        .to_vec()
}

/// `rhv-mount WHAT IMAGE ARGS`, not yet started.
pub(crate) fn command(engine: &Engine, what: &str, image: &Path, args: &[String]) -> Command {
    let mut command = engine.program();
    command.arg(what).arg(image).args(engine.args()).args(args);
    command
}

#[track_caller]
fn copy(engine: &Engine, what: &str, image: &Path, args: &[String]) -> Ran {
    finished(command(engine, what, image, args))
}

/// Runs it to its end, and checks that it shows no secret.
#[track_caller]
pub(crate) fn finished(mut command: Command) -> Ran {
    let ran = run(&mut command, LIMIT);
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!ran.timed_out && !ran.stderr.contains("panicked"), "{ran}");
    ran
}

#[test]
fn a_new_disk_has_the_size_of_the_image_and_its_bytes() {
    let engine = Engine::start();
    let image = source(&engine, 61);
    copy(&engine, "upload", &image, &made("web01")).ok();
    assert_eq!(engine.disk("web01").expect("it is made").size, SIZE);
    assert_free(&engine, "web01", &image);
    assert_eq!(engine.transfer().phase, "finished_success");
    assert!(engine.state_files().is_empty());

    let out = engine.dir().join("out.raw");
    copy(&engine, "download", &out, &existing("web01")).ok();
    compare(&out, &image).unwrap();
    assert_free(&engine, "web01", &image);
}

#[test]
fn a_size_that_is_too_small_is_refused_before_anything_is_made() {
    let engine = Engine::start();
    let image = source(&engine, 62);
    let args = [made("web01"), ["--size", "7M"].map(str::to_owned).to_vec()].concat();
    let ran = copy(&engine, "upload", &image, &args);
    assert_told(
        &ran,
        &[USAGE],
        &["--size 7340032 is smaller than the image", "8388608 bytes"],
    );
    assert!(engine.disks().is_empty() && engine.transfers().is_empty());
}

#[test]
fn an_image_that_does_not_fit_leaves_a_disk_that_was_there_as_it_was() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let image = engine.dir().join("large.raw");
    random_image(&image, SIZE + 4096, 7);
    let ran = copy(&engine, "upload", &image, &existing("web01"));
    assert_told(&ran, &[USAGE], &["needs a larger disk, and nothing was written"]);
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

/// A shell that runs `script`, in which `$@` is `program`.
pub(crate) fn in_shell(program: &Command, script: &str) -> Command {
    let mut shell = Command::new("bash");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
        .args(["-c", script, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    shell
}

/// A stream that ends early is a copy that fails.
fn fails(engine: &Engine, args: &[String]) -> Ran {
    let program = command(engine, "upload", Path::new("-"), args);
    let mut shell = in_shell(&program, "head -c 3000000 /dev/urandom | \"$@\"");
    let ran = run(shell.args(["--size", "8M"]), LIMIT);
    assert_told(&ran, &[1], &["stdin ended after 3000000 bytes"]);
    ran
}

#[test]
fn a_disk_that_was_made_for_a_copy_that_fails_is_removed_and_kept_on_request() {
    let engine = Engine::start();
    let ran = fails(&engine, &made("web01"));
    assert_told(&ran, &[1], &["was made for this run and is removed again"]);
    wait_until("the engine removes the disk", 60, || engine.disks().is_empty());
    let keep = [made("web02"), vec!["--keep-on-failure".to_owned()]].concat();
    fails(&engine, &keep);
    let kept = engine.disk("web02").expect("it is kept");
    assert_eq!((kept.status.as_str(), kept.locked_by.len()), ("ok", 0));
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_disk_that_was_there_is_freed_after_a_copy_that_fails() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let ran = fails(&engine, &existing("web01"));
    assert_told(
        &ran,
        &[1],
        &["holds a mix of what was there and what was written", &disk.id],
    );
    let after = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!((after.status.as_str(), after.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn an_image_in_another_format_is_never_written_as_its_bytes_onto_a_raw_disk() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let image = engine.dir().join("image.qcow2");
    fs::write(&image, [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 4088]].concat()).unwrap();
    let args = [
        existing("web01"),
        ["--image-format", "raw"].map(str::to_owned).to_vec(),
    ]
    .concat();
    let ran = copy(&engine, "upload", &image, &args);
    assert_told(
        &ran,
        &[USAGE],
        &["begin like a qcow2 image", "nothing was written"],
    );
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// The process is gone while it removes the disk of a copy that has failed. Nobody is told to keep it.
#[test]
fn a_disk_that_was_being_removed_by_a_killed_copy_is_not_told_as_whole() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "cut_before", "match": "^POST .*/cancel$"}));
    let program = command(&engine, "upload", Path::new("-"), &made("web01"));
    let mut shell = in_shell(&program, "exec \"$@\" < <(head -c 3000000 /dev/urandom)");
    let mut copy = Foreground::spawn(shell.args(["--size", "8M"]));
    wait_until("the transfer is being cancelled", 60, || {
        assert!(!copy.has_ended(), "{}", copy.stderr());
        !engine.requests("POST", "/cancel").is_empty()
    });
    copy.signal(Signal::SIGKILL);
    copy.wait(60);
    engine.clear_switches();
    let transfer = engine.transfer().id;
    let left = engine.run(["status"], 60);
    let remedy = format!("rhv-mount recover --cancel {transfer}");
    assert!(
        left.stdout.contains("was to be removed") && left.stdout.contains(&remedy),
        "{left}"
    );
    let kept = recover(&engine, &[], Some(Path::new(&transfer))).ok();
    assert!(kept.stdout.contains("write the image again"), "{kept}");
}

/// Starts an upload of a stream of which 4,000,000 bytes come and no more, and waits until some of them are
/// taken. `then` is run before the rest is waited for.
fn half_way(engine: &Engine, args: &[String], then: &str) -> Foreground {
    let program = command(engine, "upload", Path::new("-"), args);
    let mut shell = in_shell(
        &program,
        &format!("exec \"$@\" < <(head -c 4000000 /dev/urandom; {then}; tail -f /dev/null --pid=$$)"),
    );
    let copy = Foreground::spawn(shell.args(["--size", "8M", "--progress", "json"]));
    let is_under_way = || {
        let lines = copy.stderr();
        let objects = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut done = objects.filter_map(|object| object["bytes_done"].as_u64());
        done.any(|bytes| bytes > 0)
    };
    wait_until("the copy is at work", 60, is_under_way);
    copy
}

#[test]
fn a_signal_stops_an_upload_and_the_disk_that_was_made_goes() {
    let engine = Engine::start();
    let mut copy = half_way(&engine, &made("web01"), "true");
    let away = engine.away();
    copy.signal(Signal::SIGINT);
    wait_until("the answer", 30, || {
        copy.stderr().contains("SIGINT: the copy is stopped")
    });
    assert!(
        copy.stderr()
            .contains("was made for this run and is removed again"),
        "{}",
        copy.stderr()
    );
    drop(away);
    assert_eq!(copy.wait(120).code(), Some(1), "{}", copy.stderr());
    wait_until("the engine removes the disk", 60, || engine.disks().is_empty());
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_signal_stops_an_upload_and_a_disk_that_was_there_is_freed() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let mut copy = half_way(&engine, &existing("web01"), "true");
    copy.signal(Signal::SIGTERM);
    assert_eq!(copy.wait(120).code(), Some(1), "{}", copy.stderr());
    assert!(
        copy.stderr().contains("holds a mix of what was there"),
        "{}",
        copy.stderr()
    );
    let after = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!((after.status.as_str(), after.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn what_a_killed_upload_has_left_is_recovered() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let mut killed = half_way(&engine, &existing("web01"), "true");
    killed.signal(Signal::SIGKILL);
    killed.wait(60);
    assert_eq!(engine.state_files().len(), 1, "no note of a killed upload");
    let image = source(&engine, 64);
    let again = copy(&engine, "upload", &image, &existing("web01"));
    assert_told(
        &again,
        &[ENGINE_FAILED],
        &["an upload of - has left it", "rhv-mount recover"],
    );
    recover(&engine, &[], Some(Path::new(&engine.transfer().id))).ok();
    assert!(engine.state_files().is_empty(), "the note is left");
    let after = engine.disk(&disk.id).expect("the disk is kept");
    assert_eq!((after.status.as_str(), after.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&engine);
    copy(&engine, "upload", &image, &existing("web01")).ok();
    assert_free(&engine, &disk.id, &image);
}

/// Starts a download that the kernel kills when its image has 4 MiB, half of what it will have.
fn killed_half_way(engine: &Engine, image: &Path) {
    let program = command(engine, "download", image, &existing("web01"));
    let killed = run(&mut in_shell(&program, "ulimit -c 0 -f 4096; exec \"$@\""), LIMIT);
    assert!(killed.signal.is_some(), "{killed}");
}

#[test]
fn what_a_killed_download_has_left_is_recovered_with_its_unfinished_image() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (real, link) = (engine.dir().join("real"), engine.dir().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let names = || -> Vec<String> {
        let names = fs::read_dir(&real).expect("look into a directory");
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    killed_half_way(&engine, &link.join("out.qcow2"));
    let [left] = names().try_into().expect("the unfinished image");
    assert!(
        left.starts_with(".out.qcow2.") && left.ends_with(".part"),
        "{left}"
    );
    fs::write(real.join(".out.qcow2.of-somebody-else.part"), "theirs").unwrap();
    assert_eq!(engine.state_files().len(), 1, "no note of a killed download");
    // It is found by another name of its folder.
    let ran = recover(&engine, &[], Some(&real.join("out.qcow2"))).ok();
    assert!(ran.stdout.contains("the unfinished image"), "{ran}");
    assert_eq!(names(), [".out.qcow2.of-somebody-else.part"]);
    assert!(engine.state_files().is_empty(), "the note is left");
    assert_free(&engine, &disk.id, &content);
    let out = real.join("out.raw");
    copy(&engine, "download", &out, &existing("web01")).ok();
    compare(&out, &content).unwrap();
}

#[test]
fn one_image_goes_to_two_disks_at_once() {
    let engine = Engine::start();
    let image = source(&engine, 65);
    let one = command(&engine, "upload", &image, &made("web01"));
    let two = command(&engine, "upload", &image, &made("web02"));
    let mut both = [one, two].map(|mut command| Foreground::spawn(&mut command));
    for copy in &mut both {
        assert_eq!(copy.wait(120).code(), Some(DONE), "{}", copy.stderr());
    }
    for name in ["web01", "web02"] {
        assert_free(&engine, name, &image);
    }
}

#[test]
fn a_storage_that_is_gone_loses_data_and_a_disk_that_was_there_stays_locked() {
    let engine = Engine::start();
    let (disk, _) = used_disk(&engine, "web01", "raw");
    let retry = ["--retry-time", "1"].map(str::to_owned).to_vec();
    let kill = format!(
        "{}; head -c 4388608 /dev/urandom; exit",
        engine.kill_storage_line()
    );
    let mut copy = half_way(&engine, &[existing("web01"), retry].concat(), &kill);
    assert_eq!(copy.wait(120).code(), Some(DATA_MAY_BE_LOST), "{}", copy.stderr());
    let told = copy.stderr();
    assert!(
        told.contains("data may be lost") && told.contains("rhv-mount recover"),
        "{told}"
    );
    assert!(engine.disk(&disk.id).is_some(), "the disk is gone");
    assert_nothing_deleted(&engine);
}
