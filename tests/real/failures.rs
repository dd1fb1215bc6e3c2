//! Failures with a real daemon, certificate or host name: rhv-mount reports the object, the reason and the
//! remedy in one line, exits with the documented code, and leaves no mount behind (which `try_start` checks).

use std::path::PathBuf;
use std::process::Command;

use crate::support::content::MIB;
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, MountKind, Mounting};
use crate::support::refusing::RefusingPort;
use crate::support::run::{Ran, run, scratch, wait_until};

const TRANSFER_FAILED: i32 = 4;
const CANNOT_CONNECT: i32 = 5;
const DATA_MAY_BE_LOST: i32 = 7;

/// Checks that the mount does not start, with this exit code and with one message, beside that of another
/// attempt, that contains these words.
#[track_caller]
fn refused(mounting: Mounting, code: i32, words: &[&str]) -> Ran {
    let ran = match mounting.try_start() {
        Ok(_) => panic!("rhv-mount started, expected exit code {code} and {words:?}"),
        Err(ran) => ran,
    };
    assert_eq!(ran.code, Some(code), "{ran}");
    for word in words {
        assert!(
            ran.stderr.to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is missing: {ran}"
        );
    }
    let lines: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("rhv-mount:") && !line.contains("Trying again"))
        .collect();
    assert_eq!(
        lines.len(),
        1,
        "the number of lines that report the failure: {ran}"
    );
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    ran
}

fn small_disk(daemon: &Daemon) -> Disk {
    Disk::create(daemon, Backend::RawFile, MIB, Content::Fresh)
}

#[test]
fn an_unknown_ticket_is_a_failed_transfer() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let disk = small_disk(&daemon);
    daemon.remove_ticket(disk.url());
    refused(
        Mounting::new(disk.url()).args(disk.args()),
        TRANSFER_FAILED,
        &["403", "ticket"],
    );
}

#[test]
fn an_expired_ticket_is_a_failed_transfer() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let image = dir.path().join("image.raw");
    std::fs::write(&image, [0; 4096]).expect("make an image");
    let file_url = format!("file://{}", image.display());
    let url = daemon.ticket(&[("url", &file_url), ("size", "4096"), ("timeout", "1")]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let cafile = daemon.cafile();
    refused(
        Mounting::new(&url).arg("--cafile").arg(cafile),
        TRANSFER_FAILED,
        &["403", "expired"],
    );
}

#[test]
fn a_read_only_ticket_names_the_option_that_takes_it() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = Disk::read_only(&daemon, Backend::RawFile, MIB, Content::Fresh);
    refused(
        Mounting::new(disk.url()).args(disk.args()),
        TRANSFER_FAILED,
        &["--read-only"],
    );
    let mount = Mounting::new(disk.url())
        .args(disk.args())
        .arg("--read-only")
        .start();
    let ran = run(
        Command::new("dd")
            .arg("if=/dev/zero")
            .arg(output(&mount))
            .args(["bs=4k", "count=1"]),
        20,
    );
    assert!(!ran.success(), "a read-only mount was written: {ran}");
    mount.umount().ok();
}

#[test]
fn a_certificate_of_another_ca_names_the_option() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let other = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = small_disk(&daemon);
    let wrong = Mounting::new(disk.url()).arg("--cafile").arg(other.cafile());
    refused(wrong, CANNOT_CONNECT, &["certificate", "--cafile"]);
    refused(
        Mounting::new(disk.url()),
        CANNOT_CONNECT,
        &["certificate", "--cafile"],
    );
    Mounting::new(disk.url()).arg("--insecure").start().umount().ok();
}

#[test]
fn a_ca_file_that_is_not_there_is_named() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = small_disk(&daemon);
    refused(
        Mounting::new(disk.url()).args(["--cafile", "/nowhere/ca.pem"]),
        2,
        &["/nowhere/ca.pem"],
    );
}

#[test]
fn a_refused_connection_and_an_unknown_name_are_named() {
    let port = RefusingPort::bind();
    let address = port.address();
    let id = "0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60";
    let url = format!("http://{address}/images/{id}");
    refused(
        Mounting::new(&url),
        CANNOT_CONNECT,
        &[&address.to_string(), "refused"],
    );
    let url = format!("https://host.invalid:54322/images/{id}");
    refused(Mounting::new(&url), CANNOT_CONNECT, &["host.invalid"]);
}

#[test]
fn mixing_up_https_and_http_is_refused_in_time() {
    let tls = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = small_disk(&tls);
    let plain = disk.url().replace("https:", "http:");
    refused(Mounting::new(&plain), CANNOT_CONNECT, &["127.0.0.1"]);
    let http = Daemon::start(Scheme::Http, LocalSocket::None);
    let disk = small_disk(&http);
    let secure = disk.url().replace("http:", "https:");
    refused(
        Mounting::new(&secure).arg("--cafile").arg(tls.cafile()),
        CANNOT_CONNECT,
        &["127.0.0.1"],
    );
}

/// The storage goes away under a mount, so the written bytes are lost, and the outcome reports it.
#[test]
fn writes_that_never_reached_the_storage_are_reported_by_fsync_and_umount() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let mut disk = Disk::create(&daemon, Backend::RawNbd, 16 * MIB, Content::Fresh);
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    disk.stop_storage();
    assert_synced_write_fails(&mount);
    let again = run(Command::new("sync").arg(mount.file()), 100);
    assert!(
        !again.success() && !again.timed_out,
        "the error did not stick: {again}"
    );
    let unmounted = mount.umount();
    assert_eq!(unmounted.code, Some(DATA_MAY_BE_LOST), "{unmounted}");
}

/// The engine ends the transfer under a mount.
#[test]
fn a_ticket_that_is_removed_under_a_mount_is_reported_as_a_possible_loss() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let disk = Disk::create(&daemon, Backend::RawNbd, 16 * MIB, Content::Fresh);
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    daemon.remove_ticket(disk.url());
    assert_synced_write_fails(&mount);
    wait_until("the log names the reason", 60, || mount.log().contains("403"));
    let unmounted = mount.umount();
    assert_eq!(unmounted.code, Some(DATA_MAY_BE_LOST), "{unmounted}");
}

/// Writes 8 MiB with dd, which must report an error of a write or of the fsync at its end.
#[track_caller]
fn assert_synced_write_fails(mount: &Mount) {
    let ran = run(
        Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "count=8", "conv=fsync,notrunc"])
            .arg(output(mount)),
        150,
    );
    assert!(!ran.success() && !ran.timed_out, "{ran}");
}

/// Returns dd's `of=` argument for the mounted file.
fn output(mount: &Mount) -> PathBuf {
    PathBuf::from(format!("of={}", mount.file().display()))
}
