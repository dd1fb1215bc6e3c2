//! `rhv-mount MOUNTPOINT -- COMMAND`: the command sees the disk as a file and no secret. rhv-mount exits with
//! the command's status, or with its own code when data may be lost.

use std::ffi::OsString;
use std::path::Path;

use crate::support::content::{MIB, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{is_mounted, processes_with, rhv_mount};
use crate::support::run::{Ran, scratch};

fn with_command(disk: &Disk, mountpoint: &Path, command: &[&str]) -> Ran {
    let mut args = disk.args();
    args.push(mountpoint.into());
    args.push("--".into());
    args.extend(command.iter().map(OsString::from));
    let ran = rhv_mount(Some(disk.url()), args);
    assert!(!is_mounted(mountpoint), "still mounted after: {ran}");
    assert!(
        processes_with(mountpoint.as_os_str()).is_empty(),
        "still running after: {ran}"
    );
    assert!(
        !mountpoint.exists(),
        "the mountpoint that rhv-mount made is still there: {ran}"
    );
    ran
}

#[test]
fn the_files_path_replaces_braces_and_is_in_the_environment() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let dir = scratch();
    let point = dir.path().join("disk.raw");
    for how in [
        r#"cat "$1" > {}"#,
        r#"cat "$1" > "$RHV_MOUNT_FILE""#,
        r#"test -f "$2" && cat "$1" > "$2""#,
    ] {
        let source = dir.path().join("source.raw");
        sparse_image(&source, 6 * MIB, how.len() as u64);
        let mut disk = Disk::create(&daemon, Backend::Qcow2Nbd, 8 * MIB, Content::Used { seed: 3 });
        let source_name = source.to_str().expect("a path in UTF-8");
        with_command(&disk, &point, &["sh", "-c", how, "sh", source_name, "{}"]).ok();
        disk.compare_with(&source)
            .unwrap_or_else(|reason| panic!("{how}: {reason}"));
    }
}

#[test]
fn the_commands_status_is_the_exit_code_and_its_bytes_are_kept() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let point = dir.path().join("disk.raw");
    let mut disk = Disk::create(&daemon, Backend::Qcow2Nbd, MIB, Content::Fresh);
    let ran = with_command(&disk, &point, &["sh", "-c", "printf kept > {}; exit 42"]);
    assert_eq!(ran.code, Some(42), "{ran}");
    let source = dir.path().join("source.raw");
    std::fs::write(&source, "kept").expect("write the expected content");
    disk.compare_with(&source)
        .expect("the disk holds the command's bytes");
}

#[test]
fn a_missing_command_is_named_and_leaves_the_disk_as_it_was() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, MIB, 4);
    let mut disk = Disk::create(&daemon, Backend::RawNbd, MIB, Content::File(&source));
    let ran = with_command(
        &disk,
        &dir.path().join("disk.raw"),
        &["no-such-program-here", "{}"],
    );
    assert!(!ran.success() && ran.code.is_some(), "{ran}");
    assert!(ran.stderr.contains("no-such-program-here"), "{ran}");
    disk.compare_with(&source).expect("the disk is as it was");
}

#[test]
fn no_secret_is_in_the_commands_environment() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let disk = Disk::create(&daemon, Backend::RawNbd, MIB, Content::Fresh);
    // `with_command` searches the output for the ticket.
    let ran = with_command(&disk, &dir.path().join("disk.raw"), &["env"]).ok();
    assert!(ran.stdout.contains("RHV_MOUNT_FILE="), "{ran}");
    assert!(!ran.stdout.contains("RHV_MOUNT_TRANSFER_URL"), "{ran}");
}

#[test]
fn lost_data_decides_the_exit_code_although_the_command_succeeded() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let disk = Disk::create(&daemon, Backend::RawNbd, 4 * MIB, Content::Fresh);
    let script = format!(
        "{}; dd if=/dev/urandom of={{}} bs=1M count=2 conv=notrunc; true",
        disk.stop_line()
    );
    let ran = with_command(&disk, &dir.path().join("disk.raw"), &["sh", "-c", &script]);
    assert_eq!(ran.code, Some(7), "{ran}");
}
