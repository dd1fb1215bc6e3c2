//! The checksum is that of ovirt-imageio: of its client for local images, and of its server for disks.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::content::{KIB, MIB, random_image, sparse_image};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::disk::Disk;
use crate::support::image::{Backend, Content};
use crate::support::mount::rhv_mount;
use crate::support::run::{run, scratch, sh, top};

const TIB: u64 = 1 << 40;

/// Runs imageio's client; it prints the checksum of an image.
const CLIENT: &str = "import sys; from ovirt_imageio import client; \
                      print(client.checksum(sys.argv[1], algorithm=sys.argv[2], \
                      block_size=int(sys.argv[3]))['checksum'])";

fn of_client(image: &Path, algorithm: &str, block_size: u64) -> String {
    let python = top().join("target/venv/bin/python");
    let mut command = Command::new(python);
    command.args(["-c", CLIENT]).arg(image);
    command.args([algorithm, &block_size.to_string()]);
    run(&mut command, 300).ok().stdout.trim().to_owned()
}

fn ours(args: &[&OsStr]) -> String {
    let ran = rhv_mount(None, [&[OsStr::new("checksum")], args].concat()).ok();
    ran.stdout
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A raw image of 9 MiB and 100 KiB, with data and holes.
fn raw(dir: &Path) -> PathBuf {
    let path = dir.join("image.raw");
    sparse_image(&path, 9 * MIB + 100 * KIB, 4);
    path
}

#[test]
fn a_local_image_has_the_checksum_that_imageios_client_computes() {
    let dir = scratch();
    let raw = raw(dir.path());
    for (algorithm, block_size) in [
        ("blake2b", 4 * MIB),
        ("blake2b", MIB),
        ("sha256", 4 * MIB),
        ("sha1", 2 * MIB + 4 * KIB),
    ] {
        let got = ours(&[
            "--algorithm".as_ref(),
            algorithm.as_ref(),
            "--block-size".as_ref(),
            block_size.to_string().as_ref(),
            raw.as_os_str(),
        ]);
        assert_eq!(
            got,
            of_client(&raw, algorithm, block_size),
            "{algorithm}, {block_size}"
        );
    }
    let empty = dir.path().join("zeros.raw");
    File::create(&empty).unwrap().set_len(5 * MIB).unwrap();
    let full = dir.path().join("full.raw");
    random_image(&full, 8 * MIB + 512, 3);
    for image in [&empty, &full] {
        assert_eq!(
            ours(&[image.as_os_str()]),
            of_client(image, "blake2b", 4 * MIB),
            "{image:?}"
        );
    }
}

/// The guest's bytes count: those of a qcow2, compressed or with a backing file, are those of the raw image.
#[test]
fn a_qcow2_has_the_checksum_of_its_guests_bytes() {
    let dir = scratch();
    let raw = raw(dir.path());
    let expected = of_client(&raw, "blake2b", 4 * MIB);
    let make = r#"cd "$1" && qemu-img convert -f raw -O qcow2 image.raw plain.qcow2 &&
        qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k image.raw small.qcow2 &&
        qemu-img create -q -f qcow2 -b plain.qcow2 -F qcow2 over.qcow2"#;
    sh(make, [dir.path()], 60).ok();
    for name in ["plain.qcow2", "small.qcow2", "over.qcow2"] {
        let image = dir.path().join(name);
        assert_eq!(of_client(&image, "blake2b", 4 * MIB), expected, "{name}");
        assert_eq!(ours(&[image.as_os_str()]), expected, "{name}");
    }
}

#[test]
fn an_image_of_sectors_that_is_no_multiple_of_a_block_has_that_of_imageios_client() {
    let dir = scratch();
    let image = dir.path().join("odd.raw");
    random_image(&image, 4 * MIB + 7 * 512, 8);
    assert_eq!(ours(&[image.as_os_str()]), of_client(&image, "blake2b", 4 * MIB));
}

#[test]
fn eight_tebibytes_with_little_data_take_the_time_of_their_data() {
    let dir = scratch();
    let image = dir.path().join("huge.raw");
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&image)
        .unwrap();
    file.set_len(8 * TIB - 512).unwrap();
    for offset in [0, 3 * TIB + 12345, 8 * TIB - 513] {
        file.write_all_at(b"x", offset).unwrap();
    }
    let began = Instant::now();
    let got = ours(&[image.as_os_str()]);
    // Reading 8 TiB takes an hour.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(got, of_client(&image, "blake2b", 4 * MIB));
}

#[test]
fn a_disk_has_the_checksum_of_its_bytes_on_every_kind_of_storage() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, 24 * MIB, 6);
    let expected = ours(&[source.as_os_str()]);
    for backend in [Backend::Qcow2Nbd, Backend::RawNbd, Backend::RawFile] {
        let disk = Disk::read_only(&daemon, backend, 24 * MIB, Content::File(&source));
        let mut args = vec!["checksum".into(), "--output".into(), "json".into()];
        args.extend(disk.args());
        let ran = rhv_mount(Some(disk.url()), args).ok();
        assert!(ran.stdout.contains(&expected), "{backend:?}: {expected}, {ran}");
        assert!(ran.stdout.contains("\"server\""), "{backend:?}: {ran}");
    }
    assert!(daemon.log().contains("CHECKSUM"), "the server was not asked");
}

#[test]
fn a_copy_is_verified_by_the_server() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::Path);
    let dir = scratch();
    let source = dir.path().join("source.raw");
    sparse_image(&source, 24 * MIB, 7);
    let script = r#"qemu-img convert -n -f raw -O raw "$1" "$2""#;
    for verify in [format!("--verify={}", source.display()), "--verify".to_owned()] {
        let mut disk = Disk::create(&daemon, Backend::Qcow2Nbd, 24 * MIB, Content::Used { seed: 3 });
        let mut args = disk.args();
        args.extend([verify.clone().into(), dir.path().join("disk").into(), "--".into()]);
        args.extend(["sh", "-c", script, "sh"].map(Into::into));
        args.extend([source.as_os_str().to_owned(), "{}".into()]);
        let ran = rhv_mount(Some(disk.url()), args).ok();
        assert!(
            ran.stderr.contains("verified:") && ran.stderr.contains("by the server"),
            "{ran}"
        );
        disk.compare_with(&source).expect("the disk is the image");
    }
}
