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

/// Copies what `convert` makes of a raw image (`$1` raw, `$2` the image) into a disk.
#[track_caller]
fn from_format(name: &str, convert: &str) {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let dir = scratch();
    let (raw, image) = (dir.path().join("image.raw"), dir.path().join(name));
    sparse_image(&raw, SIZE - 64 * KIB, 11);
    sh(convert, [&raw, &image], 60).ok();
    let mut disk = Disk::create(&daemon, Backend::RawNbd, SIZE, Content::Used { seed: 8 });
    copy(&disk, "upload", &image).ok();
    disk.compare_with(&raw).unwrap();
}

#[test]
fn a_compressed_qcow2_image_is_written_as_what_is_in_it() {
    from_format("image.qcow2", "qemu-img convert -c -O qcow2 \"$1\" \"$2\"");
}

#[test]
fn a_qcow2_image_over_a_chain_of_others_is_written_as_what_is_in_it() {
    from_format(
        "top.qcow2",
        "cd \"$(dirname \"$2\")\" && qemu-img convert -O qcow2 -o cluster_size=4k \"$1\" base.qcow2 &&
         qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2 &&
         qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 &&
         qemu-io -f qcow2 -c 'write -P 7 1M 300k' -c 'write -z 5M 1M' top.qcow2 &&
         qemu-img convert -O raw top.qcow2 \"$1\"",
    );
}

#[test]
fn a_vmdk_image_is_written_as_what_is_in_it() {
    from_format("image.vmdk", "qemu-img convert -O vmdk \"$1\" \"$2\"");
}

#[test]
fn a_download_into_qcow2_is_clean_and_has_every_byte() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let (raw, out) = (dir.path().join("image.raw"), dir.path().join("out.qcow2"));
    sparse_image(&raw, SIZE, 12);
    let disk = Disk::create(&daemon, Backend::Qcow2Nbd, SIZE, Content::Fresh);
    copy(&disk, "upload", &raw).ok();
    copy(&disk, "download", &out).ok();
    let script = "qemu-img check -q -f qcow2 \"$1\" && qemu-img compare -f qcow2 -F raw \"$1\" \"$2\"";
    sh(script, [&out, &raw], 60).ok();
}
