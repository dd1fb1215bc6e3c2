//! `rhv-mount upload` and `download` with the real daemon: the bytes on the storage, and in the image, are
//! those of the other side.

use std::path::Path;

use crate::support::content::{KIB, MIB, compare, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::rhv_mount;
use crate::support::run::{Ran, scratch, sh};

const SIZE: u64 = 16 * MIB;

fn copy(disk: &Disk, what: &str, image: &Path) -> Ran {
    let mut args = vec![what.into(), image.into()];
    args.extend(disk.args());
    rhv_mount(Some(disk.url()), args)
}

/// Checks with qemu-img that two images have the same bytes for a guest.
#[track_caller]
fn assert_identical(one: &Path, other: &Path) {
    sh(
        "qemu-img compare -p -f raw -F raw \"$1\" \"$2\"",
        [one, other],
        60,
    )
    .ok();
}

/// Copies an image of `size` bytes into a disk with `content`, and out of it.
#[track_caller]
fn there_and_back(local: LocalSocket, backend: Backend, content: Content<'_>, size: u64) {
    let daemon = Daemon::start(Scheme::Https, local);
    let dir = scratch();
    let image = dir.path().join("image.raw");
    sparse_image(&image, size, size);
    let mut disk = Disk::create(&daemon, backend, SIZE, content);
    copy(&disk, "upload", &image).ok();
    let out = dir.path().join("out.raw");
    copy(&disk, "download", &out).ok();
    assert_eq!(out.metadata().unwrap().len(), SIZE);
    compare(&out, &image).unwrap();
    assert_identical(&out, &image);
    disk.compare_with(&image).unwrap();
}

#[test]
fn a_sparse_image_onto_a_used_qcow2_disk_over_https() {
    there_and_back(
        LocalSocket::None,
        Backend::Qcow2Nbd,
        Content::Used { seed: 5 },
        SIZE,
    );
}

#[test]
fn an_image_of_an_odd_size_onto_a_used_raw_disk_over_the_unix_socket() {
    let odd = 9 * MIB + 300 * KIB + 1234;
    there_and_back(LocalSocket::Path, Backend::RawNbd, Content::Used { seed: 6 }, odd);
}

#[test]
fn a_sparse_image_onto_a_file() {
    there_and_back(
        LocalSocket::Path,
        Backend::RawFile,
        Content::Used { seed: 7 },
        SIZE,
    );
}

#[test]
fn a_sparse_image_onto_a_new_qcow2_disk() {
    there_and_back(LocalSocket::Path, Backend::Qcow2Nbd, Content::Fresh, SIZE - 512);
}
