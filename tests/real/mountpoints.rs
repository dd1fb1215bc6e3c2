//! Mountpoints of the three kinds, as root and as an ordinary user; the results of a second mount, of
//! `status` and of `ps`; and the ends of mounts, also after a crash.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::content::{MIB, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::foreground::Foreground;
use crate::support::image::{Backend, Content};
use crate::support::mount::{
    BINARY, MountKind, Mounting, URL_VARIABLE, is_mounted, rhv_mount, rhv_mount_command,
};
use crate::support::redaction::Trace;
use crate::support::run::{is_root, run, scratch, sh, wait_until};

const MOUNT_FAILED: i32 = 6;

fn used_disk(daemon: &Daemon) -> Disk {
    Disk::create(daemon, Backend::Qcow2Nbd, 8 * MIB, Content::Used { seed: 12 })
}

fn mounting(disk: &Disk) -> Mounting {
    Mounting::new(disk.url()).args(disk.args())
}

/// Copies through each kind of mountpoint; returns true when the data went over the daemon's local socket.
fn each_kind_of_mountpoint(local: LocalSocket, start: impl Fn(&Disk) -> Mounting) -> bool {
    let daemon = Daemon::start(Scheme::Https, local);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, 7 * MIB + 77, 21);
    for kind in [MountKind::Directory, MountKind::File, MountKind::New] {
        let mut disk = used_disk(&daemon);
        let mount = start(&disk).kind(kind).start();
        let shell = |script: &str| {
            let mut command = mount.command("bash");
            command
                .args(["-euc", script, "sh"])
                .arg(&source)
                .arg(mount.file());
            run(&mut command, 60).ok().stdout
        };
        assert_eq!(
            shell(r#"stat -c %s "$2""#).trim(),
            disk.size().to_string(),
            "{kind:?}: the file's size"
        );
        shell(r#"cat "$1" > "$2"; cmp "$1" "$2""#);
        mount.umount().ok();
        disk.compare_with(&source)
            .unwrap_or_else(|reason| panic!("{kind:?}: {reason}"));
    }
    daemon.has_written_locally()
}

#[test]
fn each_kind_of_mountpoint_works() {
    each_kind_of_mountpoint(LocalSocket::None, mounting);
    assert!(
        each_kind_of_mountpoint(LocalSocket::Path, mounting),
        "the unix socket was not used"
    );
}

/// The daemon of these tests belongs to root, so an ordinary user may not inspect its process. Such a user's
/// mount cannot prove that the socket is the server's, and uses TCP instead.
#[test]
fn each_kind_of_mountpoint_works_for_an_ordinary_user() {
    if !is_root() {
        eprintln!(
            "not tested: needs root to become another user (each_kind_of_mountpoint_works ran as a user)"
        );
        return;
    }
    let local = each_kind_of_mountpoint(LocalSocket::Abstract, |disk| mounting(disk).by_nobody());
    assert!(!local, "an unproven socket was used");
}

#[test]
fn plain_http_works_too() {
    let daemon = Daemon::start(Scheme::Http, LocalSocket::None);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, 5 * MIB, 2);
    let mut disk = used_disk(&daemon);
    let mount = Mounting::new(disk.url()).kind(MountKind::New).start();
    sh(r#"cp "$1" "$2""#, [&source, &mount.file()], 60).ok();
    mount.umount().ok();
    disk.compare_with(&source).expect("the disk holds the copy");
}

#[test]
fn no_unix_socket_keeps_the_mount_off_the_unix_socket() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let disk = used_disk(&daemon);
    let mount = mounting(&disk).arg("--no-unix-socket").start();
    sh(r#"cat "$1" > /dev/null"#, [mount.file()], 60).ok();
    mount.umount().ok();
    // The daemon tells of a connection when it sees its end.
    wait_until("all connections are closed", 60, || {
        let log = daemon.log();
        log.matches("OPEN connection=").count() == log.matches("CLOSE connection=").count()
    });
    let log = daemon.log();
    let reads = log
        .lines()
        .filter(|line| line.contains("CLOSE") && line.contains("[read "));
    let clients: Vec<bool> = reads.map(|line| line.contains("client=local")).collect();
    assert!(!clients.is_empty() && !clients.contains(&true), "{log}");
}

#[test]
fn a_second_mount_on_a_mountpoint_in_use_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let (disk, other) = (used_disk(&daemon), used_disk(&daemon));
    let mount = mounting(&disk).start();
    let mut args = other.args();
    args.push(mount.mountpoint().into());
    let ran = rhv_mount(Some(other.url()), args);
    assert_eq!(ran.code, Some(MOUNT_FAILED), "{ran}");
    assert!(
        ran.stderr.contains(mount.mountpoint().to_str().expect("UTF-8")),
        "{ran}"
    );
    sh(r#"head -c 100 "$1" | cmp -n 100 - "$1""#, [mount.file()], 20).ok();
    mount.umount().ok();
}

#[test]
fn status_shows_the_mount_and_no_ticket() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = used_disk(&daemon);
    let ticket = disk.url().rsplit('/').next().expect("a ticket id").to_owned();
    let mount = mounting(&disk).start();
    sh(r#"cat "$1" > /dev/null"#, [mount.file()], 60).ok();
    let point = mount.mountpoint().to_str().expect("UTF-8").to_owned();
    let text = mount.status(&[]).ok().stdout;
    assert!(text.contains("127.0.0.1") && !text.contains(&ticket), "{text}");
    let json = mount.status(&["-o", "json"]).ok().stdout;
    let value: serde_json::Value =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert!(
        value.to_string().contains(&point) && !json.contains(&ticket),
        "{json}"
    );
    mount.umount().ok();
    let after = rhv_mount(None, ["status", &point]);
    assert!(!after.success() && after.stderr.contains(&point), "{after}");
}

#[test]
fn ps_shows_no_ticket_while_a_foreground_mount_has_it_as_an_argument() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let mut disk = used_disk(&daemon);
    let ticket = disk.url().rsplit('/').next().expect("a ticket id").to_owned();
    let dir = scratch();
    let point = dir.path().join("disk.raw");
    let trace = Trace::of(disk.url());
    let mut command = rhv_mount_command(None);
    command
        .args(trace.args())
        .args(["--foreground", "--transfer-url", disk.url()])
        .args(disk.args())
        .arg(&point);
    let mut foreground = Foreground::start(&mut command, &point);
    let shown = run(Command::new("ps").args(["auxww"]), 20).ok().stdout;
    assert!(
        shown.contains(point.to_str().expect("UTF-8")),
        "the mount is not in ps: {shown}"
    );
    assert!(!shown.contains(&ticket), "ps shows the ticket");
    let source = dir.path().join("source.raw");
    sparse_image(&source, 3 * MIB, 17);
    sh(r#"cp "$1" "$2""#, [&source, &point], 30).ok();
    foreground.signal(Signal::SIGTERM);
    assert_eq!(foreground.wait(60).code(), Some(0), "{}", foreground.stderr());
    assert!(!is_mounted(&point) && !point.exists(), "the mountpoint is left");
    disk.compare_with(&source)
        .expect("the disk holds the bytes written before SIGTERM");
}

#[test]
fn ctrl_c_ends_a_foreground_mount_in_order() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let mut disk = used_disk(&daemon);
    let dir = scratch();
    let (point, source) = (dir.path().join("disk.raw"), dir.path().join("source.raw"));
    sparse_image(&source, 8 * MIB, 18);
    let trace = Trace::of(disk.url());
    let mut command = rhv_mount_command(Some(disk.url()));
    command
        .args(trace.args())
        .arg("--foreground")
        .args(disk.args())
        .arg(&point);
    let mut foreground = Foreground::start(&mut command, &point);
    sh(r#"cp "$1" "$2""#, [&source, &point], 30).ok();
    foreground.signal(Signal::SIGINT);
    assert_eq!(foreground.wait(60).code(), Some(0), "{}", foreground.stderr());
    assert!(!is_mounted(&point) && !point.exists(), "the mountpoint is left");
    disk.compare_with(&source)
        .expect("the disk holds the bytes written before ctrl-C");
}

#[test]
fn a_start_in_the_background_closes_its_output() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = used_disk(&daemon);
    let dir = scratch();
    let point = dir.path().join("disk.raw");
    let ca = daemon.cafile();
    let script =
        r#"trap '"$1" umount "$3"' EXIT; text=$("$1" --cafile "$2" "$3" 2>&1 </dev/null); test -s "$3""#;
    let mut command = Command::new("bash");
    command
        .args(["-euc", script, "sh", BINARY])
        .args([&ca, &point])
        .env(URL_VARIABLE, disk.url());
    run(&mut command, 40).ok();
    assert!(!is_mounted(&point), "the mount is left");
}

#[test]
fn a_mountpoint_left_by_a_crash_is_named_with_its_remedy_and_umount_clears_it() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = used_disk(&daemon);
    for nobody in [false, true] {
        if nobody && !is_root() {
            continue;
        }
        let start = mounting(&disk);
        let mount = if nobody {
            start.by_nobody().start()
        } else {
            start.start()
        };
        mount.kill();
        assert!(is_mounted(mount.mountpoint()), "nothing is left to clear");
        let mut again = mount.program();
        again
            .args(disk.args())
            .arg(mount.mountpoint())
            .env(URL_VARIABLE, disk.url());
        let refused = run(&mut again, 30);
        assert_eq!(refused.code, Some(MOUNT_FAILED), "{refused}");
        assert!(refused.stderr.contains("rhv-mount umount"), "{refused}");
        let cleared = mount.umount();
        assert!(cleared.code.is_some_and(|code| code != 2), "{cleared}");
    }
    mounting(&disk).start().umount().ok();
}

#[test]
fn umount_of_a_path_that_is_not_mounted_is_an_error() {
    let dir = scratch();
    let path = dir.path().to_str().expect("UTF-8");
    let ran = rhv_mount(None, ["umount", path]);
    assert!(!ran.success() && ran.stderr.contains(path), "{ran}");
}
