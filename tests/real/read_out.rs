//! Every program that reads gets every byte from a read-only mount, over HTTPS and over the unix socket, from
//! each kind of storage; and the mount does not change the disk.

use crate::support::content::{KIB, MIB, compare, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, MountKind};
use crate::support::run::{scratch, sh};
use crate::tools::READERS;

const SIZE: u64 = 24 * MIB + 512 * KIB;

#[test]
fn every_program_reads_every_byte_over_https() {
    read_all(LocalSocket::None);
}

#[test]
fn every_program_reads_every_byte_over_the_unix_socket() {
    read_all(LocalSocket::Path);
}

fn read_all(local: LocalSocket) {
    let daemon = Daemon::start(Scheme::Https, local);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, SIZE, 5);
    let mut failures = Vec::new();
    for backend in [Backend::Qcow2Nbd, Backend::RawNbd, Backend::RawFile] {
        let mut disk = Disk::read_only(&daemon, backend, SIZE, Content::File(&source));
        for reader in READERS {
            // Each program has its own mount, because a cache filled by an earlier one would hide a wrong
            // answer.
            let mount = Mount::start(disk.url(), read_only(&disk), MountKind::Directory);
            let copy = dir.path().join("copy.raw");
            let _ = std::fs::remove_file(&copy);
            let ran = sh(reader.script, [mount.file().as_path(), &copy, dir.path()], 90);
            let compared = if ran.success() {
                compare(&copy, &source)
            } else {
                Err(ran.to_string())
            };
            let unmounted = mount.umount();
            let ended = if unmounted.success() {
                Ok(())
            } else {
                Err(unmounted.to_string())
            };
            if let Err(reason) = compared.and(ended) {
                failures.push(format!(
                    "{local:?} socket, {backend:?}, {}: {reason}",
                    reader.name
                ));
            }
        }
        disk.compare_with(&source).expect("the disk is as it was");
    }
    assert!(
        failures.is_empty(),
        "{} combinations failed:\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

/// The disk holds a qcow2 file, as a backup tool may find it.
#[test]
fn qemu_img_reads_a_qcow2_file_that_is_the_disks_content() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let (source, qcow2) = (dir.path().join("source.raw"), dir.path().join("source.qcow2"));
    sparse_image(&source, SIZE, 6);
    sh(
        r#"qemu-img convert -f raw -O qcow2 "$1" "$2""#,
        [&source, &qcow2],
        60,
    )
    .ok();
    let disk = Disk::read_only(&daemon, Backend::RawNbd, 2 * SIZE, Content::File(&qcow2));
    let mount = Mount::start(disk.url(), read_only(&disk), MountKind::Directory);
    let copy = dir.path().join("copy.raw");
    sh(
        r#"qemu-img convert -f qcow2 -O raw "$1" "$2""#,
        [&mount.file(), &copy],
        60,
    )
    .ok();
    compare(&copy, &source).expect("the copy is the image in the qcow2 file");
    mount.umount().ok();
}

fn read_only(disk: &Disk) -> Vec<std::ffi::OsString> {
    let mut args = disk.args();
    args.push("--read-only".into());
    args
}
