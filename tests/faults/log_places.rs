//! The places of the log, what SIGUSR1 adds to it, and the same figures for programs.

use crate::rig::{MIB, Rig, TICKET, pattern, settings};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{
    APART, BINARY, Mount, Mounting, URL_VARIABLE, clean_environment, is_mounted, processes_with, rhv_mount,
    rhv_mount_command,
};
use crate::support::redaction::shows;
use crate::support::run::{is_root, run, scratch, text, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn ask_for_statistics(mount: &Mount) {
    for pid in mount.pids() {
        kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    }
}

/// logrotate moves the file away and signals nobody.
#[test]
fn sigusr1_logs_statistics_at_every_level_also_into_a_file_that_replaces_one_that_was_moved() {
    let server = Server::start(settings(8 * MIB));
    let mount = Mounting::new(&server.url()).log_level("error").start();
    let file = fs::OpenOptions::new().write(true).open(mount.file()).unwrap();
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert!(!mount.log().contains("[write"), "{}", mount.log());
    let is_told = || {
        let log = mount.log();
        log.contains("connection=1 [connection") && log.contains("[write") && log.contains("1.00 MiB written")
    };
    ask_for_statistics(&mount);
    wait_until("the statistics are in the log", 60, is_told);
    let (log, moved) = (mount.dir().join("log"), mount.dir().join("log.1"));
    fs::rename(&log, &moved).unwrap();
    wait_until("a new log is begun", 30, || {
        ask_for_statistics(&mount);
        std::thread::sleep(Duration::from_millis(200));
        log.exists() && is_told()
    });
    assert!(text(&moved).contains("[write"));
    assert!(is_mounted(mount.mountpoint()));
    mount.umount().ok();
}

#[test]
fn sigusr1_ends_no_mount_that_is_still_being_made_and_none_without_a_log() {
    let server = Server::start(settings(4 * MIB));
    server.arm(Fault::next(Verb::Options, Action::Stall(Duration::from_secs(2))));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let mut command = rhv_mount_command(Some(&server.url()));
    let mut mount = Foreground::spawn(command.arg("-f").arg(&target));
    wait_until("it connects", 40, || server.count(Verb::Options) > 0);
    mount.signal(Signal::SIGUSR1);
    wait_until("it is mounted", 40, || is_mounted(&target));
    wait_until("the statistics are on stderr", 60, || {
        mount.signal(Signal::SIGUSR1);
        std::thread::sleep(Duration::from_millis(50));
        mount.stderr().contains("connection=1 [connection")
    });
    assert!(!mount.has_ended());
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(40).code(), Some(0), "{}", mount.stderr());
    // The background form has no stderr any more.
    let mut command = rhv_mount_command(Some(&server.url()));
    run(command.arg(&target), 60).ok();
    let servers = || processes_with(target.as_os_str());
    wait_until("one process serves the mount", 60, || servers().len() == 1);
    kill(Pid::from_raw(servers()[0]), Signal::SIGUSR1).unwrap();
    rhv_mount(None, [Path::new("umount"), &target]).ok();
}

#[test]
fn statistics_for_programs_are_one_line_of_json() {
    let rig = Rig::start(settings(8 * MIB), &["--stats=json"]);
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 2 * MIB as usize), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let (ran, _server) = rig.umount();
    let line = ran.stderr.lines().find(|line| line.starts_with('{'));
    let told: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("{ran}"))).expect("JSON");
    assert_eq!(told["disk"]["bytes_written"], 2 * MIB, "{told}");
    let connections = told["connections"].as_array().expect("a list");
    assert_eq!(
        connections.len() as u64,
        told["disk"]["connections"].as_u64().unwrap()
    );
    let sum = |operation: &str, figure: &str| -> u64 {
        let figures = connections.iter().map(|one| one[operation][figure].as_u64());
        figures
            .map(|figure| figure.unwrap_or_else(|| panic!("{told}")))
            .sum()
    };
    assert_eq!(sum("write", "bytes"), 2 * MIB);
    assert!(sum("flush", "ops") >= 1 && sum("write", "errors") == 0);
    for operation in ["read", "write", "zero", "flush", "extents", "options"] {
        assert!(
            connections[0][operation]["seconds"].is_f64(),
            "{operation}: {told}"
        );
    }
}

#[test]
fn a_place_for_the_log_that_does_not_exist_is_named() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    for (options, word) in [
        (&["--log-target", "journald", "--log-file", "x"][..], "--log-file"),
        (&["--log-target", "elsewhere"], "elsewhere"),
    ] {
        let args = options.iter().map(Path::new).chain([target.as_path()]);
        let ran = rhv_mount(Some(&server.url()), args.collect::<Vec<_>>());
        assert_eq!(ran.code, Some(2), "{ran}");
        assert!(ran.stderr.contains(word), "{ran}");
    }
}

/// Returns the lines that a mount sent to the daemon at `socket` until `done`.
fn received(socket: &UnixDatagram, done: &AtomicBool) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut all, mut record) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        let ended = done.load(Ordering::Relaxed);
        match socket.recv(&mut record) {
            Ok(length) => all.push(String::from_utf8_lossy(&record[..length]).into_owned()),
            Err(_) if ended => return all,
            Err(_) => {}
        }
    }
}

/// The mount is in a namespace where the sockets of the daemons are the test's.
#[test]
fn syslog_and_journald_get_every_record_without_a_secret() {
    if !is_root() {
        return;
    }
    let script = r#"
        mount -t tmpfs none /run
        mkdir -p /run/systemd/journal "$1/dev"
        mount --bind "$1/journal" /run/systemd/journal
        mount -t tmpfs none "$1/dev"
        cp -a /dev/null /dev/zero /dev/random /dev/urandom /dev/fuse "$1/dev"
        ln -s "$1/syslog" "$1/dev/log"
        mount --bind "$1/dev" /dev
        shift
        exec "$@""#;
    for place in ["syslog", "journald"] {
        let server = Server::start(settings(4 * MIB));
        let dir = scratch();
        fs::create_dir(dir.path().join("journal")).unwrap();
        let path = match place {
            "syslog" => dir.path().join("syslog"),
            _ => dir.path().join("journal/socket"),
        };
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut unshare = Command::new("unshare");
        clean_environment(&mut unshare);
        unshare.args([
            "--mount",
            "--propagation",
            "private",
            APART,
            "bash",
            "-euc",
            script,
            "sh",
        ]);
        unshare
            .arg(dir.path())
            .args([BINARY, "--log-level", "trace", "--log-target", place]);
        unshare.arg(dir.path().join("disk.raw"));
        unshare
            .args(["--", "sh", "-c", "echo written > {}"])
            .env(URL_VARIABLE, server.url());
        let done = AtomicBool::new(false);
        let (ran, records) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| received(&daemon, &done));
            let ran = run(&mut unshare, 120);
            done.store(true, Ordering::Relaxed);
            (ran, reading.join().unwrap())
        });
        ran.ok();
        assert!(records.len() > 20, "{place}: {records:?}");
        assert!(
            records.iter().any(|record| record.contains("/images/***")),
            "{place} has no request"
        );
        for record in &records {
            assert!(!shows(record, TICKET), "{place}: {record}");
            let begins = match place {
                "syslog" => record.starts_with('<') && record.contains(">rhv-mount["),
                _ => record.starts_with("SYSLOG_IDENTIFIER=rhv-mount\nPRIORITY="),
            };
            assert!(begins, "{place}: {record}");
        }
        if place == "journald" {
            let opened = records.iter().find(|record| record.contains("MESSAGE=disk open"));
            let opened = opened.expect("a record with fields");
            assert!(opened.contains("\nRHV_MOUNT_CONNECTIONS=4\n"), "{opened}");
            assert!(opened.contains("\nRHV_MOUNT_TRANSPORT=http\n"), "{opened}");
        }
    }
}
