//! Mounts that end in other ways than a normal umount: signals, a busy file, a server that dies. None of them
//! may hang, and none may report success for lost bytes.

use crate::rig::{MIB, Rig, TICKET, errno, pattern, settings};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{is_mounted, rhv_mount, rhv_mount_command};
use crate::support::redaction::Trace;
use crate::support::run::{run, scratch, stop, text, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Mounts in the foreground. The returned trace log is searched for the ticket when it is dropped.
fn mount_in_foreground(server: &Server, target: &Path) -> (Foreground, Trace) {
    let trace = Trace::of(&server.url());
    let mut program = rhv_mount_command(Some(&server.url()));
    program.args(trace.args()).arg("--foreground").arg(target);
    (Foreground::start(&mut program, target), trace)
}

pub(crate) fn slow_server() -> Server {
    let mut settings = settings(64 * MIB);
    settings.put_delay = Duration::from_millis(30);
    Server::start(settings)
}

pub(crate) fn open(target: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(target).unwrap()
}

fn a_signal_keeps_what_was_acknowledged(signal: Signal) {
    let server = slow_server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let (mut mount, _trace) = mount_in_foreground(&server, &target);
    let bytes = pattern(1, 24 * MIB as usize);
    let file = open(&target);
    file.write_all_at(&bytes, 0).unwrap();
    drop(file);
    mount.signal(signal);
    assert_eq!(mount.wait(120).code(), Some(0), "{}", mount.stderr());
    assert!(
        server.read_durable(0..24 * MIB) == bytes,
        "acknowledged bytes are lost"
    );
    assert!(!is_mounted(&target) && !target.exists(), "the mountpoint is left");
}

#[test]
fn sigterm_flushes_and_unmounts() {
    a_signal_keeps_what_was_acknowledged(Signal::SIGTERM);
}

#[test]
fn ctrl_c_flushes_and_unmounts() {
    a_signal_keeps_what_was_acknowledged(Signal::SIGINT);
}

/// A program that kept writing to the path after the end would otherwise write into an ordinary file instead
/// of the disk, without noticing.
#[test]
fn a_mountpoint_made_by_the_mount_is_gone_while_the_last_bytes_are_still_in_flight() {
    let server = slow_server();
    server.arm(Fault::always(Verb::Flush, Action::Stall(Duration::from_secs(8))));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let (mut mount, _trace) = mount_in_foreground(&server, &target);
    let file = open(&target);
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    mount.signal(Signal::SIGTERM);
    wait_until("the last flush is asked for", 60, || {
        server.count(Verb::Flush) > 0
    });
    assert!(!target.exists() && !mount.has_ended());
    // A file that somebody else creates there now must stay.
    File::create(&target).unwrap();
    assert_eq!(mount.wait(60).code(), Some(0));
    assert!(target.exists());
    assert!(server.read_durable(0..MIB) == pattern(1, MIB as usize));
}

#[test]
fn a_signal_while_a_writer_is_at_work_keeps_what_was_acknowledged_and_ends() {
    let server = slow_server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let (mut mount, _trace) = mount_in_foreground(&server, &target);
    let file = open(&target);
    let writer = std::thread::spawn(move || {
        let bytes = pattern(1, 64 * 1024);
        let mut steps = (0..1024_u64).take_while(|n| file.write_all_at(&bytes, n * 64 * 1024).is_ok());
        steps.by_ref().last().map_or(0, |last| (last + 1) * 64 * 1024)
    });
    std::thread::sleep(Duration::from_millis(150));
    mount.signal(Signal::SIGTERM);
    let status = mount.wait(60);
    let acknowledged = writer.join().unwrap();
    let bytes = pattern(1, 64 * 1024);
    let durable = server.read_durable(0..acknowledged);
    assert_eq!(status.code(), Some(0), "{}", mount.stderr());
    assert!(
        durable.chunks(64 * 1024).all(|block| block == bytes),
        "some of {acknowledged} acknowledged bytes are lost"
    );
    assert!(!is_mounted(&target));
}

#[test]
fn a_server_that_dies_with_unflushed_bytes_ends_in_errors_and_exit_7_within_a_bound() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let server = slow_server();
    let patience = ["--retry-time", "2"].map(Path::new);
    rhv_mount(Some(&server.url()), [&patience[..], &[&target]].concat()).ok();
    let file = open(&target);
    file.write_all_at(&pattern(1, 4 * MIB as usize), 0).unwrap();
    wait_until("a write is on the server", 60, || server.count(Verb::Put) > 0);
    drop(server);
    let start = Instant::now();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(file);
    let ran = rhv_mount(None, [Path::new("umount"), &target]);
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "it took {:?}",
        start.elapsed()
    );
    assert!(!is_mounted(&target) && !target.exists());
    assert!(!ran.stderr.contains(TICKET), "{ran}");
}

#[test]
fn a_server_that_dies_with_nothing_unflushed_loses_nothing() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let server = slow_server();
    rhv_mount(Some(&server.url()), [&target]).ok();
    let file = open(&target);
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    file.sync_all().unwrap();
    drop((file, server));
    let ran = rhv_mount(None, [Path::new("umount"), &target]);
    assert_eq!(ran.code, Some(0), "every byte was durable: {ran}");
    assert!(!is_mounted(&target) && !target.exists());
}

#[test]
fn umount_with_the_file_open_elsewhere_never_hangs_and_loses_nothing() {
    let rig = Rig::start(settings(8 * MIB), &[]);
    let file = rig.read_write();
    let bytes = pattern(1, 2 * MIB as usize);
    file.write_all_at(&bytes, 0).unwrap();
    let ran = rhv_mount(None, [Path::new("umount"), rig.mount.mountpoint()]);
    if ran.code == Some(0) {
        assert!(
            rig.server.read_durable(0..2 * MIB) == bytes,
            "umount said done: {ran}"
        );
        assert!(!is_mounted(rig.mount.mountpoint()));
    } else {
        assert!(!ran.timed_out, "{ran}");
        assert!(
            ran.stderr.contains("busy") || ran.stderr.contains("in use"),
            "the message names no reason: {ran}"
        );
        file.sync_all().expect("a mount that did not end keeps working");
        assert!(rig.server.read_durable(0..2 * MIB) == bytes);
    }
}

#[test]
fn two_umounts_at_once_both_wait_for_the_outcome() {
    let server = slow_server();
    let rig = Rig::over(server, &[]);
    let bytes = pattern(1, 8 * MIB as usize);
    rig.read_write().write_all_at(&bytes, 0).unwrap();
    let target = rig.mount.mountpoint().to_path_buf();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| rhv_mount(None, [Path::new("umount"), &target])))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(
        results.iter().any(|ran| ran.code == Some(0)),
        "{} and {}",
        results[0],
        results[1]
    );
    for ran in results.iter().filter(|ran| ran.code == Some(0)) {
        assert!(
            rig.server.read_durable(0..8 * MIB) == bytes,
            "umount said done: {ran}"
        );
    }
}

#[test]
fn a_process_that_is_killed_while_umount_waits_is_reported_as_a_loss() {
    let server = slow_server();
    server.arm(Fault::always(Verb::Flush, Action::Stall(Duration::from_secs(20))));
    let rig = Rig::over(server, &[]);
    rig.read_write()
        .write_all_at(&pattern(1, MIB as usize), 0)
        .unwrap();
    let target = rig.mount.mountpoint().to_path_buf();
    let server = rig.mount.server();
    let ran = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rhv_mount(None, [Path::new("umount"), &target]));
        // An idle connection may be flushed before the mount has heard of the end.
        wait_until("it is unmounted, and the last flush is asked for", 60, || {
            !is_mounted(&target) && rig.server.count(Verb::Flush) > 0
        });
        kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(ran.stderr.contains("may be lost"), "{ran}");
}

/// The kernel closes the files of a killed process one after the other. Here somebody else listens in its
/// place, and does so slowly.
#[test]
fn a_killed_process_that_lets_go_of_its_socket_last_is_reported_as_a_loss() {
    let rig = Rig::start(settings(MIB), &[]);
    let target = rig.mount.mountpoint().to_path_buf();
    let socket = socket_of(&target);
    kill(Pid::from_raw(rig.mount.server()), Signal::SIGKILL).unwrap();
    wait_until("nobody listens", 60, || UnixStream::connect(&socket).is_err());
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let ran = std::thread::scope(|scope| {
        scope.spawn(move || {
            let (asking, _) = listener.accept().unwrap();
            BufReader::new(&asking).read_line(&mut String::new()).unwrap();
            let _ = asking.shutdown(Shutdown::Both);
            std::thread::sleep(Duration::from_millis(500));
        });
        rhv_mount(None, [Path::new("umount"), &target])
    });
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(ran.stderr.contains("may be lost"), "{ran}");
    assert!(!is_mounted(&target), "{ran}");
}

/// Without a time limit umount would wait for the stopped process for ever. The mount ends after SIGCONT.
#[test]
fn umount_of_a_stopped_process_ends_and_reports_it() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let written = pattern(1, MIB as usize);
    rig.read_write().write_all_at(&written, 0).unwrap();
    let mut expected = rig.server.visible();
    expected.write(0, &written);
    let target = rig.mount.mountpoint().to_path_buf();
    let pid = rig.mount.server();
    stop(pid);
    let ran = run(rhv_mount_command(None).arg("umount").arg(&target), 120);
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(ran.stderr.contains("does not answer"), "{ran}");
    assert!(ran.stderr.contains(&pid.to_string()), "{ran}");
    // Now the process handles the request to end.
    wait_until("the mount has ended", 60, || !is_mounted(&target));
    wait_until("every byte is durable", 60, || {
        rig.server.durable().first_difference(&expected).is_none()
    });
}

/// Silence is no death: the mount goes on where it was as soon as the process does. The kernel keeps only so
/// many connections for a process that takes none.
#[test]
fn status_of_a_stopped_process_says_so_however_many_ask() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let target = rig.mount.mountpoint().to_path_buf();
    let pid = rig.mount.server();
    stop(pid);
    let json = rig.mount.status(&["-o", "json"]).ok();
    let socket = socket_of(&target);
    // More than the kernel takes.
    let mut held = Vec::new();
    while held.len() < 10_000 {
        let one = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_NONBLOCK | nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let address = nix::sys::socket::UnixAddr::new(&socket).unwrap();
        if nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&one), &address).is_err() {
            break;
        }
        held.push(one);
    }
    let full = run(rhv_mount_command(None).arg("status").arg(&target), 60);
    let umount = run(rhv_mount_command(None).arg("umount").arg(&target), 120);
    drop(held);
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json.stdout).expect("an object");
    assert_eq!(status["phase"], "silent", "{json}");
    assert_eq!(status["pid"], pid, "{json}");
    for said in [
        status["failure"].as_str().unwrap_or_default(),
        &full.clone().ok().stdout,
    ] {
        assert!(said.contains(&format!("kill -CONT {pid}")), "{said}");
        assert!(!said.contains("killed"), "{said}");
    }
    assert_eq!(umount.code, Some(7), "{umount}");
    assert!(umount.stderr.contains("does not answer"), "{umount}");
    assert!(is_mounted(&target), "it was removed: {umount}");
    assert_eq!(rig.umount().0.code, Some(0));
}

/// Returns the control socket of the mount on `target`, which is beside its record.
fn socket_of(target: &Path) -> std::path::PathBuf {
    let records = fs::read_dir("/run/rhv-mount")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let name = format!("\"{}\"", target.display());
    let mut ours =
        records.filter(|path| path.extension().is_some_and(|e| e == "json") && text(path).contains(&name));
    ours.next().expect("a record").with_extension("sock")
}

#[test]
fn a_forced_unmount_leaves_no_dead_mount_behind() {
    let server = slow_server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let (mut mount, _trace) = mount_in_foreground(&server, &target);
    let file = open(&target);
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    let _ = run(Command::new("umount").arg("-f").arg(&target), 20);
    drop(file);
    // The acknowledged bytes are durable, although no process was left to receive an error.
    assert_eq!(mount.wait(120).code(), Some(0));
    assert!(server.read_durable(0..MIB) == pattern(1, MIB as usize));
    assert!(!is_mounted(&target) && !target.exists(), "the mountpoint is left");
}

/// Anybody can create a directory in `/tmp` with the name of another user's directory.
#[test]
fn root_ignores_records_in_a_directory_that_does_not_belong_to_the_user_in_its_name() {
    let forged = Path::new("/tmp/rhv-mount-42424242");
    let _ = fs::remove_dir_all(forged);
    let rig = Rig::start(settings(MIB), &[]);
    let target = rig.mount.mountpoint().display();
    fs::create_dir(forged).unwrap();
    let record = format!(r#"{{"mountpoint":"{target}","pid":1,"created":true,"read_only":true}}"#);
    fs::write(forged.join("0123456789abcdef.json"), record).unwrap();
    let listed = rhv_mount(None, ["status", "-o", "json"]);
    fs::remove_dir_all(forged).unwrap();
    // There may be other mounts on this machine, also dead ones.
    let all: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).expect("a list");
    let phases: Vec<_> = all
        .iter()
        .filter(|one| one["mountpoint"] == target.to_string())
        .map(|one| one["phase"].as_str())
        .collect();
    assert_eq!(phases, [Some("mounted")], "{listed}");
    rig.umount().0.ok();
}
