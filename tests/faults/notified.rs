//! A service manager hears how a mount goes, from the process that it listens to; and nothing depends on
//! whether it does.

use crate::endings::open;
use crate::rig::{MIB, TICKET, pattern, settings};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::foreground::Foreground;
use crate::support::manager::{Manager, assert_in_order};
use crate::support::mount::{BINARY, clean_environment, is_mounted, rhv_mount, rhv_mount_command};
use crate::support::redaction::{Trace, shows};
use crate::support::run::{run, scratch, wait_until};
use nix::sys::signal::Signal;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn server() -> Server {
    Server::start(settings(8 * MIB))
}

/// `rhv-mount OPTIONS TARGET` under `manager`.
fn command(server: &Server, manager: &Manager, trace: &Trace, options: &[&str], target: &Path) -> Command {
    let mut command = rhv_mount_command(Some(&server.url()));
    command.args(trace.args()).args(options).arg(target);
    command.env("NOTIFY_SOCKET", manager.address());
    command
}

#[track_caller]
fn assert_no_secret(words: &[String]) {
    assert!(!words.iter().any(|word| shows(word, TICKET)), "{words:?}");
}

#[test]
fn start_work_and_end_are_told_in_their_order_and_a_slow_end_is_given_time() {
    for manager in [Manager::start(), Manager::start_abstract()] {
        let server = server();
        let dir = scratch();
        let target = dir.path().join("disk.raw");
        let trace = Trace::of(&server.url());
        let mut mount = Foreground::spawn(&mut command(&server, &manager, &trace, &["-f"], &target));
        manager.wait_for("READY=1", 40);
        assert!(is_mounted(&target), "it was told as ready too early");
        open(&target).write_all_at(&pattern(1, MIB as usize), 0).unwrap();
        manager.wait_for(
            &format!(
                "STATUS=disk on {}: 0 bytes read, 1.00 MiB written",
                target.display()
            ),
            30,
        );
        server.arm(Fault::always(Verb::Flush, Action::Stall(Duration::from_secs(8))));
        mount.signal(Signal::SIGTERM);
        assert_eq!(mount.wait(60).code(), Some(0), "{}", mount.stderr());
        manager.wait_for("STATUS=done", 10);
        let words = manager.words(mount.pid());
        assert_in_order(
            &words,
            &[
                "STATUS=opening the disk",
                "EXTEND_TIMEOUT_USEC=60000000",
                "READY=1",
                "STATUS=disk on",
                "STOPPING=1",
                "STATUS=flushing 1.00 MiB",
                "EXTEND_TIMEOUT_USEC=",
                "STATUS=flushing 1.00 MiB",
                "EXTEND_TIMEOUT_USEC=",
                "STATUS=done",
            ],
        );
        for once in ["READY=1", "STOPPING=1"] {
            assert_eq!(words.iter().filter(|word| *word == once).count(), 1, "{words:?}");
        }
        let ready = words.iter().position(|word| word == "READY=1").unwrap();
        let stopping = words.iter().position(|word| word == "STOPPING=1").unwrap();
        let asks = |word: &String| word.starts_with("EXTEND");
        assert!(
            !words[ready..stopping].iter().any(asks),
            "a mount at work needs no time"
        );
        assert_no_secret(&words);
    }
}

/// The launcher, whose words count at first, passes its part on: all that is said comes from the process that
/// is the main one at that moment.
#[test]
fn the_background_form_says_which_process_serves_before_that_process_speaks() {
    let (server, manager) = (server(), Manager::start());
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(&server.url());
    let mut launcher = Foreground::spawn(&mut command(&server, &manager, &trace, &[], &target));
    assert_eq!(launcher.wait(60).code(), Some(0), "{}", launcher.stderr());
    manager.wait_for("STATUS=disk on", 30);
    rhv_mount(None, [Path::new("umount"), &target]).ok();
    manager.wait_for("STATUS=done", 10);
    let words = manager.words(launcher.pid());
    assert_in_order(
        &words,
        &[
            "MAINPID=",
            "READY=1",
            "STATUS=disk on",
            "STOPPING=1",
            "STATUS=done",
        ],
    );
    assert!(words[0].starts_with("MAINPID="), "{words:?}");
    assert_no_secret(&words);
}

/// Programs below a service have the manager's socket, too.
#[test]
fn a_mount_that_somebody_elses_service_has_started_does_not_speak_for_it() {
    let (server, manager) = (server(), Manager::start());
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(&server.url());
    let below = || {
        let mut command = command(&server, &manager, &trace, &[], &target);
        // The number of a process that is no mount.
        command.env("SYSTEMD_EXEC_PID", std::process::id().to_string());
        command
    };
    run(&mut below(), 60).ok();
    assert!(is_mounted(&target));
    rhv_mount(None, [Path::new("umount"), &target]).ok();
    run(below().args(["--", "true"]), 60).ok();
    assert!(manager.messages().is_empty(), "{:?}", manager.messages());
}

#[test]
fn the_background_form_fails_with_the_same_code_and_reason_with_a_manager_as_without() {
    let (server, manager, dir) = (server(), Manager::start(), scratch());
    server.change(|settings| settings.revoked = true);
    let target = dir.path().join("disk.raw");
    let without = rhv_mount(Some(&server.url()), [&target]);
    let trace = Trace::of(&server.url());
    let with = run(&mut command(&server, &manager, &trace, &[], &target), 60);
    assert!(without.code.is_some_and(|code| code > 1), "{without}");
    assert_eq!((with.code, &with.stderr), (without.code, &without.stderr));
    assert!(manager.messages().is_empty(), "{:?}", manager.messages());
    assert!(!target.exists(), "{with}");
}

#[test]
fn why_a_start_or_an_end_failed_is_the_last_status() {
    let manager = Manager::start();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let failed = {
        let server = server();
        server.arm(Fault::always(Verb::Flush, Action::Status(500, "broken")));
        let trace = Trace::of(&server.url());
        let options = ["-f", "--retry-time", "1"];
        let mut mount = Foreground::spawn(&mut command(&server, &manager, &trace, &options, &target));
        manager.wait_for("READY=1", 40);
        open(&target).write_all_at(&pattern(1, MIB as usize), 0).unwrap();
        mount.signal(Signal::SIGTERM);
        assert_eq!(mount.wait(60).code(), Some(7), "{}", mount.stderr());
        manager.wait_for("STATUS=data may be lost", 10);
        let words = manager.words(mount.pid());
        assert!(
            words.last().unwrap().starts_with("STATUS=data may be lost"),
            "{words:?}"
        );
        server
    };
    let manager = Manager::start();
    let trace = Trace::of(&failed.url());
    failed.change(|settings| settings.revoked = true);
    let mut mount = Foreground::spawn(&mut command(&failed, &manager, &trace, &["-f"], &target));
    assert_ne!(mount.wait(60).code(), Some(0));
    let words = manager.words(mount.pid());
    assert!(!words.iter().any(|word| word == "READY=1"), "{words:?}");
    let last = words.last().unwrap();
    assert!(last.starts_with("STATUS=") && last.contains("403"), "{words:?}");
    assert_no_secret(&words);
}

#[test]
fn a_watchdog_hears_of_either_form_and_only_of_the_process_that_it_means() {
    let server = server();
    // The variable names the process that the manager starts.
    let script = r#"WATCHDOG_PID=$$ WATCHDOG_USEC=1000000 exec "$0" "$@""#;
    let elsewhere = r#"WATCHDOG_PID=1 WATCHDOG_USEC=1000000 exec "$0" "$@""#;
    for (script, options, watched) in [
        (script, &["-f"][..], true),
        (script, &[], true),
        (elsewhere, &["-f"], false),
    ] {
        let (manager, dir) = (Manager::start(), scratch());
        let target = dir.path().join("disk.raw");
        let trace = Trace::of(&server.url());
        let mounting = command(&server, &manager, &trace, options, &target);
        let mut shell = Command::new("sh");
        clean_environment(&mut shell);
        shell.args(["-c", script, BINARY]).args(mounting.get_args());
        shell.envs(
            mounting
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let mount = Foreground::spawn(&mut shell);
        manager.wait_for("STATUS=disk on", 40);
        let pings = || {
            let words = manager.words(mount.pid());
            words.iter().filter(|word| *word == "WATCHDOG=1").count()
        };
        if watched {
            let before = pings();
            wait_until("two signs of life more", 30, || pings() >= before + 2);
        }
        rhv_mount(None, [Path::new("umount"), &target]).ok();
        manager.wait_for("STATUS=done", 10);
        assert_eq!(pings() > 0, watched, "{:?}", manager.messages());
    }
}

#[test]
fn a_manager_that_does_not_read_holds_no_mount_up() {
    let server = server();
    let dir = scratch();
    let (target, path) = (dir.path().join("disk.raw"), dir.path().join("notify"));
    let manager = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"X=1\n", &path).is_ok() {}
    let bytes = pattern(2, MIB as usize);
    let source = dir.path().join("source");
    std::fs::write(&source, &bytes).unwrap();
    let copy = format!("cat '{}' > {{}}", source.display());
    let mut command = rhv_mount_command(Some(&server.url()));
    command.env("NOTIFY_SOCKET", &path).arg(&target);
    run(command.args(["--", "sh", "-c", &copy]), 120).ok();
    assert!(server.read_durable(0..MIB) == bytes);
    drop(manager);
}

#[test]
fn a_command_cannot_speak_for_the_mount() {
    let (server, manager) = (server(), Manager::start());
    let dir = scratch();
    let trace = Trace::of(&server.url());
    let mut command = command(&server, &manager, &trace, &[], &dir.path().join("disk.raw"));
    command.env("WATCHDOG_USEC", "60000000").args(["--", "env"]);
    let ran = run(&mut command, 60).ok();
    assert!(ran.stdout.contains("RHV_MOUNT_FILE="), "{ran}");
    for variable in ["NOTIFY_SOCKET", "WATCHDOG"] {
        assert!(!ran.stdout.contains(variable), "{ran}");
    }
    manager.wait_for("STATUS=done", 10);
}
