//! `upload --verify` and `download --verify`: the bytes that pass are compared with those on the storage; one
//! that differs is exit 7, and no file or disk counts as good then.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::rig::{MIB, TICKET, assert_same, pattern, settings, used_server};
use crate::server::{Image, Server, Settings, Verb};
use crate::support::mount::rhv_mount;
use crate::support::run::{Ran, scratch};
use crate::verified::{Flipping, Way};

const DISK: u64 = 22 * MIB;
const IMAGE: u64 = 17 * MIB + 300;

/// An image with data at its beginning and over a border of blocks, and the bytes of a disk that holds it.
fn image(dir: &Path) -> (PathBuf, Image) {
    let path = dir.join("image.raw");
    let file = File::create(&path).expect("make an image");
    file.set_len(IMAGE).expect("size an image");
    let mut expected = Image::new(DISK);
    for (offset, length) in [
        (0, 5 * MIB),
        (11 * MIB + 4096, 3 * MIB + 777),
        (IMAGE - 1000, 1000),
    ] {
        let bytes = pattern(offset + 5, length as usize);
        file.write_all_at(&bytes, offset).expect("write an image");
        expected.write(offset, &bytes);
    }
    (path, expected)
}

fn copy(url: &str, what: &str, image: &Path) -> Ran {
    let ran = rhv_mount(
        Some(url),
        [what, "--verify", "--no-unix-socket", image.to_str().unwrap()],
    );
    assert!(!ran.stderr.contains(TICKET), "{ran}");
    ran
}

#[track_caller]
fn assert_differs(ran: &Ran) {
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(ran.stderr.contains("the first difference is in bytes"), "{ran}");
    assert!(!ran.stderr.contains("verified:"), "{ran}");
}

fn server(change: impl FnOnce(&mut Settings)) -> Server {
    let mut settings = settings(DISK);
    change(&mut settings);
    used_server(settings)
}

#[test]
fn an_upload_is_verified_by_the_server_without_a_second_read_of_either_side() {
    let dir = scratch();
    let server = server(|_| ());
    let (path, expected) = image(dir.path());
    let ran = copy(&server.url(), "upload", &path).ok();
    assert!(ran.stderr.contains("computed by the server"), "{ran}");
    assert_same("durable", &server.durable(), &expected);
    assert_eq!(server.count(Verb::Checksum), 1);
    let read: u64 = server.records_of(Verb::Get).iter().map(|get| get.length()).sum();
    assert!(read < MIB, "{read} bytes were read back");
}

#[test]
fn an_upload_to_a_server_without_a_checksum_is_read_back() {
    let dir = scratch();
    let (path, expected) = image(dir.path());
    let good = server(|settings| settings.checksum = false);
    let ran = copy(&good.url(), "upload", &path).ok();
    assert!(ran.stderr.contains("of what was read back"), "{ran}");
    assert_same("durable", &good.durable(), &expected);
}

#[test]
fn a_byte_that_the_storage_flips_fails_an_upload() {
    for checksum in [true, false] {
        let dir = scratch();
        let server = server(|settings| {
            settings.checksum = checksum;
            settings.decays = Some(13 * MIB + 1);
        });
        let (path, _) = image(dir.path());
        let ran = copy(&server.url(), "upload", &path);
        assert_differs(&ran);
        let place = format!("bytes {} to {} (block 3 of 6)", 12 * MIB, 16 * MIB - 1);
        assert!(ran.stderr.contains(&place), "{ran}");
    }
}

#[test]
fn a_byte_that_is_flipped_on_the_wire_fails_an_upload() {
    let dir = scratch();
    let server = server(|_| ());
    let proxy = Flipping::start(&server, Way::There);
    let (path, _) = image(dir.path());
    let ran = copy(&proxy.url, "upload", &path);
    assert!(proxy.has_flipped(), "it has flipped nothing: {ran}");
    assert_differs(&ran);
}

#[test]
fn a_download_is_verified_before_its_image_gets_its_name() {
    for checksum in [true, false] {
        let dir = scratch();
        let server = server(|settings| settings.checksum = checksum);
        let path = dir.path().join("disk.raw");
        let ran = copy(&server.url(), "download", &path).ok();
        assert!(ran.stderr.contains("verified:"), "{ran}");
        assert!(fs::read(&path).unwrap() == pattern(9, DISK as usize));
    }
}

#[test]
fn a_byte_that_is_flipped_on_the_wire_leaves_no_downloaded_file() {
    let dir = scratch();
    let server = server(|_| ());
    let proxy = Flipping::start(&server, Way::Back);
    let ran = copy(&proxy.url, "download", &dir.path().join("disk.raw"));
    assert!(proxy.has_flipped(), "it has flipped nothing: {ran}");
    assert_eq!(ran.code, Some(7), "{ran}");
    assert!(
        ran.stderr.contains("is not the same as what was read from it"),
        "{ran}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{ran}");
}
