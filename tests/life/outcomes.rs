//! `--outcome` and `--once`: what a copy leaves to programs, and what a later run makes of it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::copying;
use crate::rig::{
    DONE, ENGINE_FAILED, LIMIT, USAGE, assert_free, assert_nothing_deleted, assert_told, existing, source,
    used_disk,
};
use crate::support::content::{compare, random_image};
use crate::support::engine::{Engine, PASSWORD, USER};
use crate::support::foreground::Foreground;
use crate::support::run::{Ran, run, sh, text, wait_until};

const ID: &str = "5b5c1f0e-3c5e-4c57-9f0a-0d4a3b6f7e11";
const OTHER_ID: &str = "5b5c1f0e-3c5e-4c57-9f0a-0d4a3b6f7e12";

fn outcomes(engine: &Engine) -> PathBuf {
    engine.dir().join("outcomes.jsonl")
}

/// The lines, as they are after now.
fn lines(engine: &Engine) -> Vec<Value> {
    let kept = text(&outcomes(engine));
    assert!(!kept.contains(PASSWORD), "{kept}");
    let lines = kept.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("each line is an object")
}

fn words(of: &[&str]) -> Vec<String> {
    of.iter().map(|&word| word.to_owned()).collect()
}

/// The arguments that make the disk `web01` with [`ID`].
fn made() -> Vec<String> {
    made_as(ID)
}

/// The same with another id.
fn made_as(id: &str) -> Vec<String> {
    words(&["--create", "web01", "--disk-id", id, "--storage-domain", "data"])
}

fn command(engine: &Engine, what: &str, image: &Path, args: &[String]) -> std::process::Command {
    let mut command = copying::command(engine, what, image, args);
    command.arg("--verify").arg("--outcome").arg(outcomes(engine));
    command
}

#[track_caller]
fn copy(engine: &Engine, what: &str, image: &Path, args: &[String]) -> Ran {
    copying::finished(command(engine, what, image, args))
}

/// Removes a disk over the API, as its owner may do.
fn remove(engine: &Engine, id: &str) {
    let script = r#"
        token=$(curl -sf --cacert "$2" -H 'Accept: application/json' "$1/ovirt-engine/sso/oauth/token" \
            -d grant_type=password -d scope=ovirt-app-api -d "username=$4" --data-urlencode "password=$5" |
            sed 's/.*"access_token": *"\([^"]*\)".*/\1/')
        curl -sf --cacert "$2" -H "Authorization: Bearer $token" -H 'Accept: application/json' \
            -X DELETE "$1/ovirt-engine/api/disks/$3""#;
    let ca = engine.cafile().to_str().expect("UTF-8");
    sh(script, [engine.url(), ca, id, USER, PASSWORD], 30).ok();
    wait_until("the disk is gone", 60, || engine.disk(id).is_none());
}

#[track_caller]
fn once(engine: &Engine, what: &str, image: &Path, args: &[String]) -> Ran {
    copy(engine, what, image, &[args, &words(&["--once"])].concat())
}

#[test]
fn every_end_of_a_copy_leaves_one_line() {
    let engine = Engine::start();
    let image = source(&engine, 71);
    let missing = engine.dir().join("none.raw");
    assert_told(
        &copy(&engine, "upload", &missing, &existing("web01")),
        &[USAGE],
        &[],
    );
    let nobody = copy(&engine, "upload", &image, &existing("web01"));
    assert_told(&nobody, &[ENGINE_FAILED], &["web01"]);
    copy(&engine, "upload", &image, &made()).ok();
    let out = engine.dir().join("out.qcow2");
    copy(&engine, "download", &out, &existing("web01")).ok();

    let told = lines(&engine);
    let facts = |line: &Value| {
        let of = |name: &str| line[name].clone();
        json!([
            of("task"),
            of("exit_status"),
            of("verified"),
            of("disk"),
            of("disk_id"),
            of("attempt")
        ])
    };
    let facts: Vec<Value> = told.iter().map(facts).collect();
    let expected = json!([
        ["upload", 2, false, "web01", null, 1],
        ["upload", 4, false, "web01", null, 1],
        ["upload", 0, true, "web01", ID, 1],
        ["download", 0, true, "web01", ID, 1],
    ]);
    assert_eq!(json!(facts), expected, "{told:#?}");
    for line in &told[..2] {
        assert!(
            line["message"].as_str().is_some_and(|why| !why.is_empty()),
            "{line}"
        );
        assert_eq!(line["unverified"], "copy failed");
    }
    for line in &told[2..] {
        assert_eq!(line["disk_size"], json!(8 << 20), "{line}");
        assert!(
            line["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0),
            "{line}"
        );
        assert!(
            line.get("message").is_none() && line.get("unverified").is_none(),
            "{line}"
        );
        assert_eq!(line["checksum"], told[2]["checksum"]);
    }
    assert_eq!(told[2]["image"], json!(image));
    assert_eq!(told[3]["image"], json!(out));
}

#[test]
fn a_copy_that_is_done_is_not_made_again() {
    let engine = Engine::start();
    let image = source(&engine, 72);
    let out = engine.dir().join("out.raw");
    for run in 0..2 {
        once(&engine, "upload", &image, &made()).ok();
        let ran = once(&engine, "download", &out, &existing("web01")).ok();
        if run == 1 {
            assert_told(&ran, &[DONE], &["nothing is copied", "verified"]);
        }
        assert_free(&engine, ID, &image);
        compare(&out, &image).unwrap();
    }
    assert_eq!((engine.transfers().len(), engine.disks().len()), (2, 1));
    assert_eq!(lines(&engine).len(), 2);
    assert_nothing_deleted(&engine);
}

/// A line that does not say `verified` is not enough for a run that is to verify.
#[test]
fn a_copy_that_was_not_proven_is_made_again_where_a_proof_is_asked_for() {
    let engine = Engine::start();
    let image = source(&engine, 73);
    once(&engine, "upload", &image, &made()).ok();
    let kept = text(&outcomes(&engine)).replace("\"verified\":true", "\"verified\":false");
    fs::write(outcomes(&engine), kept).unwrap();
    once(&engine, "upload", &image, &made()).ok();
    assert_eq!((engine.transfers().len(), engine.disks().len()), (2, 1));
    let told = lines(&engine);
    assert_eq!(
        (&told[1]["attempt"], &told[1]["verified"]),
        (&json!(2), &json!(true))
    );
}

/// Kills a copy while its transfer is being finalized: its bytes are there, and it is not known to be done.
fn killed_at_the_end(engine: &Engine, what: &str, image: &Path, args: &[String]) {
    engine.switch(&json!({"switch": "finalize_slow", "value": 8, "times": 1}));
    let args = [args, &words(&["--once"])].concat();
    let mut killed = Foreground::spawn(&mut command(engine, what, image, &args));
    wait_until("the transfer is being finalized", 60, || {
        let all = engine.transfers();
        all.iter().any(|transfer| transfer.phase == "finalizing_success")
    });
    killed.signal(Signal::SIGKILL);
    killed.wait(60);
    assert_eq!(engine.state_files().len(), 1, "no note of a killed copy");
    assert!(lines(engine).is_empty(), "a killed process has left a line");
}

#[test]
fn an_upload_that_was_killed_goes_on_with_the_disk_that_it_has_made() {
    let engine = Engine::start();
    let image = source(&engine, 74);
    killed_at_the_end(&engine, "upload", &image, &made());
    once(&engine, "upload", &image, &made()).ok();
    assert_eq!(
        (engine.transfers().len(), engine.disks().len()),
        (2, 1),
        "it is made twice"
    );
    assert_free(&engine, ID, &image);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_download_that_was_killed_behind_its_last_byte_is_compared_and_done() {
    let engine = Engine::start();
    let (_, content) = used_disk(&engine, "web01", "raw");
    let out = engine.dir().join("out.raw");
    killed_at_the_end(&engine, "download", &out, &existing("web01"));
    let ran = once(&engine, "download", &out, &existing("web01")).ok();
    assert_told(&ran, &[DONE], &["verified: the disk holds the same"]);
    compare(&out, &content).unwrap();
    assert_free(&engine, "web01", &content);
    assert_eq!(lines(&engine)[0]["verified"], json!(true));
    assert!(engine.state_files().is_empty());
}

/// Nobody can look at the head of the raw disk then, so its transfer is never finalized: the engine might
/// remove the disk. It was made for the killed run, which nothing is lost with.
#[test]
fn an_upload_that_was_killed_and_has_lost_its_ticket_makes_its_disk_again() {
    let engine = Engine::start();
    let image = source(&engine, 81);
    let args = [made(), words(&["--once"])].concat();
    let mut killed = Foreground::spawn(&mut command(&engine, "upload", &image, &args));
    wait_until("the transfer moves data", 60, || {
        engine
            .transfers()
            .iter()
            .any(|transfer| transfer.phase == "transferring")
    });
    killed.signal(Signal::SIGKILL);
    killed.wait(60);
    engine.switch(&json!({"switch": "ticket_remove"}));
    engine.switch(&json!({"switch": "pause_now"}));
    once(&engine, "upload", &image, &made()).ok();
    assert_eq!(engine.disks().len(), 1);
    assert_free(&engine, ID, &image);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_new_disk_is_never_taken_for_one_with_another_name() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "db01", "raw");
    let image = source(&engine, 75);
    let theirs = made_as(&disk.id);
    let ran = once(&engine, "upload", &image, &theirs);
    assert_told(&ran, &[USAGE], &["is the id of the disk", "db01"]);
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn an_upload_whose_disk_is_gone_is_made_again_and_one_whose_image_has_changed_is_refused() {
    let engine = Engine::start();
    let image = source(&engine, 76);
    once(&engine, "upload", &image, &made()).ok();
    random_image(&image, 8 << 20, 9);
    let ran = once(&engine, "upload", &image, &made());
    assert_told(&ran, &[USAGE], &["has changed since", "leave --once out"]);
    assert_eq!(engine.transfers().len(), 1);

    let other = source(&engine, 77);
    let args = words(&[
        "--create",
        "web02",
        "--disk-id",
        OTHER_ID,
        "--storage-domain",
        "data",
    ]);
    once(&engine, "upload", &other, &args).ok();
    remove(&engine, OTHER_ID);
    once(&engine, "upload", &other, &args).ok();
    assert_free(&engine, OTHER_ID, &other);
    assert_eq!(engine.transfers().len(), 3);
}

#[test]
fn a_file_without_a_line_is_compared_and_never_replaced() {
    let engine = Engine::start();
    let (_, content) = used_disk(&engine, "web01", "raw");
    let out = engine.dir().join("out.raw");
    fs::copy(&content, &out).unwrap();
    let ran = once(&engine, "download", &out, &existing("web01")).ok();
    assert_told(&ran, &[DONE], &["verified: the disk holds the same"]);
    assert_eq!(lines(&engine)[0]["verified"], json!(true));

    for (name, bytes) in [("other.raw", 8 << 20), ("short.raw", 4096)] {
        let other = engine.dir().join(name);
        random_image(&other, bytes, 11);
        let before = fs::read(&other).unwrap();
        let ran = once(&engine, "download", &other, &existing("web01"));
        assert_told(&ran, &[1], &["not known to be a copy of the disk", "--force"]);
        assert_eq!(fs::read(&other).unwrap(), before);
        assert_eq!(lines(&engine).last().unwrap()["exit_status"], json!(1));
    }
    let forced = engine.dir().join("other.raw");
    let args = [existing("web01"), words(&["--force"])].concat();
    once(&engine, "download", &forced, &args).ok();
    compare(&forced, &content).unwrap();
    assert_free(&engine, "web01", &content);
}

/// The lines tell of a copy that was done, and of one that has taken its place since.
#[test]
fn a_disk_that_holds_another_image_by_now_is_neither_called_done_nor_written_over() {
    let engine = Engine::start();
    let (image, other) = (source(&engine, 82), source(&engine, 83));
    once(&engine, "upload", &image, &made()).ok();
    copy(&engine, "upload", &other, &existing(ID)).ok();
    let ran = once(&engine, "upload", &image, &made());
    assert_told(&ran, &[USAGE], &["has been written since", "leave --once out"]);
    let third = source(&engine, 84);
    let ran = once(&engine, "upload", &third, &made());
    assert_told(&ran, &[USAGE], &["has been written", "leave --once out"]);
    assert_free(&engine, ID, &other);
    once(&engine, "upload", &other, &existing(ID)).ok();
    assert_eq!((engine.transfers().len(), engine.disks().len()), (2, 1));
}

/// As where the lines of the run that has made it are in another file.
#[test]
fn a_disk_that_a_vm_has_is_not_what_a_killed_run_has_left() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.add_vms(&json!([{"name": "web", "attachments": [{"disk": disk.id}]}]));
    let image = source(&engine, 89);
    let new = made_as(&disk.id);
    let ran = once(&engine, "upload", &image, &new);
    assert_told(&ran, &[USAGE], &["is attached to a VM", "leave --once out"]);
    // Nor is it what a run has left that has failed once: that has removed its disk.
    let mut failed = lines(&engine).pop().expect("the line of the refusal");
    for (name, value) in [
        ("exit_status", json!(7)),
        ("transfer", json!("x")),
        ("disk_id", json!(disk.id)),
    ] {
        failed[name] = value;
    }
    let mut done = failed.clone();
    (done["exit_status"], done["verified"]) = (json!(0), json!(true));
    for lines in [format!("{failed}\n"), format!("{done}\n{failed}\n")] {
        fs::write(outcomes(&engine), lines).expect("write the lines");
        let ran = once(&engine, "upload", &image, &new);
        assert_told(&ran, &[USAGE], &["is attached to a VM", "leave --once out"]);
    }
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn an_upload_that_was_done_and_has_failed_since_is_made_again() {
    let engine = Engine::start();
    let image = source(&engine, 85);
    once(&engine, "upload", &image, &made()).ok();
    let done = text(&outcomes(&engine));
    let failed = done.replace("\"exit_status\":0", "\"exit_status\":7");
    assert_ne!(done, failed);
    fs::write(outcomes(&engine), done + &failed).unwrap();
    once(&engine, "upload", &image, &made()).ok();
    assert_eq!((engine.transfers().len(), engine.disks().len()), (2, 1));
    assert_eq!(lines(&engine)[2]["attempt"], json!(3));
}

/// The last byte of the copy is long on the disk when the engine has ended its transfer.
#[test]
fn an_image_that_changes_between_its_copy_and_its_line_has_changed() {
    let engine = Engine::start();
    let image = source(&engine, 86);
    engine.switch(&json!({"switch": "finalize_slow", "value": 8, "times": 1}));
    let args = [made(), words(&["--once"])].concat();
    let mut copying = Foreground::spawn(&mut command(&engine, "upload", &image, &args));
    wait_until("the transfer is being finalized", 60, || {
        let all = engine.transfers();
        all.iter().any(|transfer| transfer.phase == "finalizing_success")
    });
    random_image(&image, 8 << 20, 9);
    copying.wait(60);
    assert_eq!(lines(&engine)[0]["exit_status"], json!(0));
    let ran = once(&engine, "upload", &image, &made());
    assert_told(&ran, &[USAGE], &["has changed since"]);
}

#[test]
fn an_image_has_changed_where_its_backing_file_has() {
    let engine = Engine::start();
    let base = source(&engine, 87);
    let image = engine.dir().join("top.qcow2");
    let script = r#"qemu-img create -q -f qcow2 -F raw -b "$1" "$2""#;
    sh(script, [base.to_str().unwrap(), image.to_str().unwrap()], 30).ok();
    once(&engine, "upload", &image, &made()).ok();
    once(&engine, "upload", &image, &made()).ok();
    assert_eq!(engine.transfers().len(), 1);
    random_image(&base, 8 << 20, 9);
    let ran = once(&engine, "upload", &image, &made());
    assert_told(&ran, &[USAGE], &["has changed since"]);
}

/// It is made for a run that was killed. A run that names it as a disk that is there would not make it again.
#[test]
fn a_disk_that_is_asked_for_as_one_that_is_there_is_never_removed_to_be_made_again() {
    let engine = Engine::start();
    let image = source(&engine, 88);
    let args = [made(), words(&["--once"])].concat();
    engine.switch(&json!({"switch": "unavailable", "match": "^POST .*/finalize$"}));
    let mut killed = Foreground::spawn(&mut command(&engine, "upload", &image, &args));
    wait_until("the transfer moves data", 60, || {
        let all = engine.transfers();
        all.iter().any(|transfer| transfer.phase == "transferring")
    });
    killed.signal(Signal::SIGKILL);
    killed.wait(60);
    engine.clear_switches();
    engine.switch(&json!({"switch": "ticket_remove"}));
    engine.switch(&json!({"switch": "pause_now"}));
    let ran = once(&engine, "upload", &image, &existing(ID));
    assert_told(&ran, &[7], &["is not finalized"]);
    assert!(engine.disk(ID).is_some());
    assert_nothing_deleted(&engine);
}

#[test]
fn what_once_could_not_tell_again_is_refused_at_once() {
    let engine = Engine::start();
    let image = source(&engine, 78);
    let without_id = words(&["--create", "web01", "--storage-domain", "data"]);
    let ran = once(&engine, "upload", &image, &without_id);
    assert_told(&ran, &[USAGE], &["--once needs --disk-id"]);
    let ran = once(&engine, "download", Path::new("-"), &existing("web01"));
    assert_told(&ran, &[USAGE], &["--once needs an image that is a file"]);
    let ran = once(&engine, "download", Path::new("/dev/null"), &existing("web01"));
    assert_told(&ran, &[USAGE], &["is a device"]);
    let mut url = engine.program();
    url.arg("download").arg(engine.dir().join("out.raw"));
    url.args([
        "--transfer-url",
        "https://127.0.0.1:1/images/none",
        "--once",
        "--outcome",
    ]);
    let ran = run(url.arg(outcomes(&engine)), LIMIT);
    assert_told(&ran, &[USAGE], &["--once needs an engine"]);
    assert!(engine.transfers().is_empty() && engine.disks().is_empty());
    let nowhere = engine.dir().join("none/outcomes");
    let mut unwritable = engine.program();
    unwritable
        .arg("upload")
        .arg(&image)
        .args(engine.args())
        .args(made());
    let ran = run(unwritable.arg("--outcome").arg(&nowhere), LIMIT);
    assert_told(&ran, &[USAGE], &["cannot use the file of --outcome"]);
    assert!(engine.disks().is_empty());
}
