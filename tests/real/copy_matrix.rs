//! The copy matrix: every program that copies, onto a used and onto a new disk, over HTTPS and over the unix
//! socket, with qcow2 over NBD, raw over NBD and a raw file behind imageio. After `rhv-mount umount` has
//! exited with 0, the storage holds the source, followed by zeros, or by the old bytes where the program does
//! not truncate.
//!
//! A source is as large as the disk, or smaller and of an odd size. By default the two alternate from one
//! combination to the next; with `RHV_MOUNT_FULL_MATRIX=1` every combination has both. All failures of a
//! column are reported together.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use crate::support::content::{KIB, MIB, compare, overlay, random_image, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::{Mount, MountKind};
use crate::support::run::{run, scratch, sh};
use crate::tools::{WRITERS, Writer};

const DISK_SIZE: u64 = 16 * MIB;
const SMALL_SIZE: u64 = 9 * MIB + 300 * KIB + 1234;
const USED_SEED: u64 = 99;
const TOOL_SECONDS: u64 = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Https,
    Unix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Used,
    Fresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    DiskSize,
    Smaller,
}

#[test]
fn every_program_writes_every_byte_over_https_to_qcow2() {
    column(Transport::Https, Backend::Qcow2Nbd);
}

#[test]
fn every_program_writes_every_byte_over_https_to_raw_nbd() {
    column(Transport::Https, Backend::RawNbd);
}

#[test]
fn every_program_writes_every_byte_over_https_to_a_raw_file() {
    column(Transport::Https, Backend::RawFile);
}

#[test]
fn every_program_writes_every_byte_over_the_unix_socket_to_qcow2() {
    column(Transport::Unix, Backend::Qcow2Nbd);
}

#[test]
fn every_program_writes_every_byte_over_the_unix_socket_to_raw_nbd() {
    column(Transport::Unix, Backend::RawNbd);
}

#[test]
fn every_program_writes_every_byte_over_the_unix_socket_to_a_raw_file() {
    column(Transport::Unix, Backend::RawFile);
}

fn column(transport: Transport, backend: Backend) {
    let local = match transport {
        Transport::Https => LocalSocket::None,
        Transport::Unix => LocalSocket::Path,
    };
    let daemon = Daemon::start(Scheme::Https, local);
    let full = std::env::var_os("RHV_MOUNT_FULL_MATRIX").is_some_and(|value| value == "1");
    // Each column starts at another turn, so that over all columns each program meets each size with each
    // disk.
    let mut turn = [Backend::Qcow2Nbd, Backend::RawNbd, Backend::RawFile]
        .iter()
        .position(|&each| each == backend)
        .expect("a backend of the matrix")
        + usize::from(transport == Transport::Unix);
    let mut failures = Vec::new();
    let mut count = 0;
    for writer in WRITERS {
        for before in [Before::Used, Before::Fresh] {
            turn += 1;
            for source in [Source::DiskSize, Source::Smaller] {
                let mine = usize::from(source == Source::Smaller) == turn % 2;
                if writer.qcow2 && source == Source::DiskSize || !(full || mine || writer.qcow2) {
                    continue;
                }
                count += 1;
                if let Err(reason) = combination(&daemon, backend, writer, before, source) {
                    failures.push(format!(
                        "{transport:?}, {backend:?}, {before:?} disk, {source:?} source, {}: {reason}",
                        writer.name
                    ));
                }
            }
        }
        turn += 1;
    }
    if transport == Transport::Unix {
        assert!(daemon.has_written_locally(), "the unix socket was not used");
    }
    let failed = failures.len();
    assert!(
        failures.is_empty(),
        "{failed} of {count} combinations failed:\n{}",
        failures.join("\n\n")
    );
}

fn combination(
    daemon: &Daemon,
    backend: Backend,
    writer: &Writer,
    before: Before,
    source: Source,
) -> Result<(), String> {
    let dir = scratch();
    let size = match source {
        Source::DiskSize => DISK_SIZE,
        Source::Smaller => SMALL_SIZE.next_multiple_of(writer.unit),
    };
    let image = dir.path().join("source.raw");
    sparse_image(&image, size, size ^ writer.name.len() as u64);
    let content = match before {
        Before::Used => Content::Used { seed: USED_SEED },
        Before::Fresh => Content::Fresh,
    };
    let mut disk = Disk::create(daemon, backend, DISK_SIZE, content);
    let mount = Mount::start(disk.url(), disk.args(), MountKind::Directory);
    let copied = sh(
        writer.script,
        [image.as_path(), &mount.file(), dir.path()],
        TOOL_SECONDS,
    );
    let seen = if writer.qcow2 {
        Ok(())
    } else {
        compare_through(&mount, writer, &image)
    };
    let log_end = mount.log_end();
    let unmounted = mount.umount();
    if !copied.success() {
        return Err(format!("{copied}\nthe mount's log ends with:\n{log_end}"));
    }
    if !unmounted.success() {
        return Err(format!("{unmounted}\nthe mount's log ends with:\n{log_end}"));
    }
    let stored = disk.server_side();
    if writer.qcow2 {
        let mut compare = std::process::Command::new("qemu-img");
        compare
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .arg(&image)
            .arg(&stored);
        let compared = run(&mut compare, 60);
        return if compared.success() {
            Ok(())
        } else {
            Err(compared.to_string())
        };
    }
    compare(&stored, &expected(dir.path(), writer, before, &image))?;
    seen.map_err(|reason| format!("the storage is right, but read through the mount: {reason}"))
}

/// Compares the source with the bytes that the mount returns before it is unmounted, up to the end of the
/// source.
fn compare_through(mount: &Mount, writer: &Writer, image: &Path) -> Result<(), String> {
    let script = if writer.truncates {
        r#"cmp "$1" "$2""#
    } else {
        r#"cmp -n "$(stat -c %s "$1")" "$1" "$2""#
    };
    let compared = sh(script, [image, &mount.file()], TOOL_SECONDS);
    if compared.success() {
        Ok(())
    } else {
        Err(compared.to_string())
    }
}

/// Returns a file with the bytes that the disk must hold, followed by zeros up to the disk's size.
fn expected(dir: &Path, writer: &Writer, before: Before, image: &Path) -> PathBuf {
    if writer.truncates {
        return image.to_path_buf();
    }
    let path = dir.join("expected.raw");
    match before {
        Before::Used => random_image(&path, DISK_SIZE, USED_SEED),
        Before::Fresh => {
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .open(&path);
            file.and_then(|file| file.set_len(DISK_SIZE))
                .expect("make an empty image");
        }
    }
    overlay(&path, image);
    path
}
