//! `--progress json`, and `rhv-mount status --follow`: how a copy goes, for programs.

use crate::rig::{MIB, Rig, TICKET, pattern, settings};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::content::random_image;
use crate::support::foreground::Foreground;
use crate::support::mount::{rhv_mount, rhv_mount_command};
use crate::support::redaction::{Trace, assert_shows_none};
use crate::support::run::{run, scratch, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Parses each line.
#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(value.is_object(), "{line}");
        value
    };
    text.lines().map(object).collect()
}

#[test]
fn each_line_is_an_object_and_they_tell_a_copy_from_its_start_to_its_end() {
    let mut settings = settings(64 * MIB);
    settings.speed = Some(6 * MIB);
    let server = Server::start(settings);
    let dir = scratch();
    let (source, target) = (dir.path().join("source.raw"), dir.path().join("disk.raw"));
    random_image(&source, 24 * MIB, 4);
    let trace = Trace::of(&server.url());
    let mut program = rhv_mount_command(Some(&server.url()));
    program
        .args(trace.args())
        .args(["--memory", "8M", "--progress", "json"]);
    program
        .arg(&target)
        .args(["--", "dd", "of={}", "bs=1M", "conv=notrunc", "status=none"]);
    program.arg(format!("if={}", source.display()));
    let ran = run(&mut program, 90).ok();
    assert_shows_none(&ran, &[TICKET]);
    let told = objects(&ran.stderr);
    let stage = |name: &str| told.iter().position(|one| one["stage"] == name);
    let stages = ["opening", "mounted", "flushing", "ended"].map(stage);
    assert!(stages.iter().all(Option::is_some) && stages.is_sorted(), "{ran}");
    let copying = |one: &&Value| {
        one["stage"] == "mounted"
            && one["bytes_total"] == 24 * MIB
            && one["bytes_per_second"].as_u64() > Some(0)
            && one["seconds_left"].as_u64() > Some(0)
    };
    assert!(told.iter().any(|one| copying(&one)), "{ran}");
    let done: Vec<u64> = told.iter().filter_map(|one| one["bytes_done"].as_u64()).collect();
    assert!(done.is_sorted() && done.last() == Some(&(24 * MIB)), "{done:?}");
    let last = told.last().expect("a last line");
    assert_eq!(
        (&last["event"], &last["exit_status"], &last["bytes_written"]),
        (&"ended".into(), &0.into(), &(24 * MIB).into())
    );
    assert_eq!(
        (&last["bytes_unflushed"], &last["failure"]),
        (&0.into(), &Value::Null)
    );
    let others = told[..told.len() - 1]
        .iter()
        .all(|one| one["event"] == "progress");
    assert!(others, "{ran}");
}

#[test]
fn messages_and_records_of_the_log_are_objects_too() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let mut program = rhv_mount_command(Some(&server.url()));
    program.args(["--log-level", "info", "--progress", "json"]);
    program
        .arg(dir.path().join("disk.raw"))
        .args(["--", "/nonexistent/program"]);
    let ran = run(&mut program, 60);
    assert_eq!(ran.code, Some(127), "{ran}");
    assert_shows_none(&ran, &[TICKET]);
    let told = objects(&ran.stderr);
    let about = |event: &str, words: &str| {
        let fits = |one: &Value| {
            one["event"] == event && one["text"].as_str().is_some_and(|text| text.contains(words))
        };
        told.iter().any(fits)
    };
    assert!(about("message", "/nonexistent/program"), "{ran}");
    assert!(about("log", "disk open"), "{ran}");
    assert!(
        told.iter()
            .any(|one| one["event"] == "ended" && one["exit_status"] == 127),
        "{ran}"
    );
}

#[test]
fn a_server_that_is_away_is_told_while_it_is_asked_again() {
    let server = Server::start(settings(8 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(&server.url());
    let mut program = rhv_mount_command(Some(&server.url()));
    program.args(trace.args()).args(["-f", "--progress", "json"]);
    let mut mount = Foreground::start(program.arg(&target), &target);
    let file = crate::endings::open(&target);
    server.change(|settings| settings.most_connections = 0);
    server.cut(&server.connections_alive());
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    wait_until("the silence is told", 60, || {
        // The last line may be incomplete.
        let told = mount.stderr();
        told.contains("\"unanswered_seconds\":")
    });
    server.change(|settings| settings.most_connections = usize::MAX);
    wait_until("its end is told", 60, || {
        let told = mount.stderr();
        let last = told.lines().rfind(|line| line.ends_with('}'));
        last.is_some_and(|line| !line.contains("unanswered_seconds"))
    });
    drop(file);
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(0), "{}", mount.stderr());
    let told = objects(&mount.stderr());
    assert_eq!(told.last().map(|one| &one["event"]), Some(&"ended".into()));
    assert!(server.read_durable(0..MIB) == pattern(1, MIB as usize));
}

#[test]
fn nothing_is_told_on_a_pipe_unless_it_is_asked_for() {
    let server = Server::start(settings(8 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let point = target.to_str().unwrap();
    let copy = "printf x | dd of={} conv=notrunc status=none; sleep 1";
    for options in [&[][..], &["--quiet"], &["--progress", "none"]] {
        let args = [options, &[point, "--", "sh", "-c", copy]].concat();
        let ran = rhv_mount(Some(&server.url()), args).ok();
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            ("", ""),
            "{options:?}"
        );
    }
    let ran = rhv_mount(Some(&server.url()), ["--progress", "bar", point, "--", "true"]).ok();
    assert!(ran.stderr.contains("stderr is no terminal"), "{ran}");
}

#[test]
fn a_mount_in_the_background_shows_nothing_by_itself_and_says_what_does() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    for form in ["json", "bar"] {
        let ran = rhv_mount(
            Some(&server.url()),
            ["--progress", form, target.to_str().unwrap()],
        );
        assert_eq!(ran.code, Some(2), "{ran}");
        assert!(
            ran.stderr.contains("--foreground") && ran.stderr.contains("status --follow"),
            "{ran}"
        );
    }
}

#[test]
fn a_bar_and_quiet_exclude_each_other() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let options = ["--quiet", "--progress", "bar", target.to_str().unwrap()];
    let ran = rhv_mount(Some(&server.url()), [&options[..], &["--", "true"]].concat());
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.stderr.contains("--quiet shows no bar"), "{ran}");
}

/// Settings that contradict each other, and an engine that nobody can log in to.
#[test]
fn an_error_before_the_mount_is_an_object_too() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let password = dir.path().join("password");
    crate::support::engine::write_private(&password, "a-password");
    let password = format!("--password-file={}", password.display());
    let nobody = [
        "--insecure",
        "--engine-url",
        "https://127.0.0.1:1",
        "--username",
        "u@internal",
    ];
    let nobody = [&nobody[..], &[&password, "--disk", "web01", "--retry-time", "1"]].concat();
    let contradiction = [
        "--insecure",
        "--cafile",
        "/etc/hostname",
        "--transfer-url",
        "https://127.0.0.1:1/images/ticket",
    ];
    for (options, code) in [(&contradiction[..], 2), (&nobody, 4)] {
        let mut program = rhv_mount_command(None);
        program.args(["--progress", "json"]).args(options).arg(&target);
        let ran = run(program.args(["--", "true"]), 120);
        assert_eq!(ran.code, Some(code), "{ran}");
        let told = objects(&ran.stderr);
        let message = |one: &Value| one["event"] == "message" && one["text"].as_str() > Some("");
        assert!(told.last().is_some_and(message), "{ran}");
    }
}

#[test]
fn a_mount_in_the_background_is_followed_until_it_is_gone() {
    let rig = Rig::start(settings(8 * MIB), &[]);
    let mut program = rig.mount.program();
    program
        .args(["status", "--follow", "-o", "json"])
        .arg(rig.mount.mountpoint());
    let mut followed = Foreground::spawn(&mut program);
    wait_until("the first look is told", 60, || followed.stdout().ends_with('\n'));
    let file = rig.read_write();
    file.write_all_at(&pattern(2, 2 * MIB as usize), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let written = format!("\"bytes_written\":{}", 2 * MIB);
    wait_until("the bytes are told", 60, || followed.stdout().contains(&written));
    let shown = rig.mount.status(&[]).ok().stdout;
    assert!(
        shown.contains("2.00 MiB written, 0 bytes zeroed, 0 bytes not flushed"),
        "{shown}"
    );
    assert_eq!(rig.umount().0.code, Some(0));
    assert_eq!(followed.wait(60).code(), Some(0), "{}", followed.stderr());
    let told = objects(&followed.stdout());
    assert!(told.len() >= 2, "{told:?}");
    assert!(
        told.iter()
            .all(|one| one["pid"].is_u64() && one["bytes_done"].is_u64()),
        "{told:?}"
    );
}

#[test]
fn following_a_mount_that_ends_badly_fails() {
    let server = Server::start(settings(8 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(&server.url());
    let mut program = rhv_mount_command(Some(&server.url()));
    program
        .args(trace.args())
        .args(["--retry-time", "0", "--foreground"])
        .arg(&target);
    let mut mount = Foreground::start(&mut program, &target);
    let mut follow = rhv_mount_command(None);
    follow.args(["status", "--follow", "-o", "json"]).arg(&target);
    let mut followed = Foreground::spawn(&mut follow);
    wait_until("the first look is told", 60, || followed.stdout().ends_with('\n'));
    server.arm(Fault::always(Verb::Put, Action::Status(500, "broken")));
    // Whether the program hears of it is not the matter here.
    let _ = std::fs::write(&target, "x");
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(7), "{}", mount.stderr());
    assert_eq!(followed.wait(60).code(), Some(1), "{}", followed.stdout());
    let told = objects(&followed.stdout());
    assert_eq!(told.last().unwrap()["phase"], "failed", "{told:?}");
    // It is heard of, and so forgotten.
    let heard = run(rhv_mount_command(None).arg("umount").arg(&target), 60);
    assert_eq!(heard.code, Some(7), "{heard}");
}

#[test]
fn the_speed_and_the_share_of_what_is_read_are_in_the_status() {
    let mut settings = settings(32 * MIB);
    settings.delay = Duration::from_millis(100);
    let server = crate::rig::used_server(settings);
    server.change(|settings| settings.read_only = true);
    let rig = Rig::over(server, &["--read-only", "--connections", "1"]);
    let file = std::fs::File::open(rig.mount.file()).unwrap();
    wait_until("speed, share and time are told", 90, || {
        for n in 0..16 {
            file.read_exact_at(&mut vec![0; MIB as usize], n * MIB).unwrap();
        }
        let told: Value = serde_json::from_str(&rig.mount.status(&["-o", "json"]).ok().stdout).unwrap();
        let text = rig.mount.status(&[]).ok().stdout;
        let shown = text
            .lines()
            .any(|line| line.contains("progress") && line.contains(" % of 32.00 MiB"));
        told["bytes_total"] == 32 * MIB && told["bytes_per_second"].as_u64() > Some(0) && shown
    });
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
}
