//! The bytes that programs cause to be sent, counted at the server: each byte of data once, and no long hole.

use crate::extents::{KIB, LONG_HOLE, bytes_of, extents, stretches, total};
use crate::rig::{MIB, Rig, settings};
use crate::server::Verb;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 384 * MIB;

/// Lower bound on a hole that a program writes as zeros and that is sent as a request to zero it, in bytes.
const LONG_ZEROS: u64 = 256 * KIB;

/// Makes the sparse file `path` with these extents.
fn sparse_file(path: &Path, seed: u64, extents: &[Range<u64>]) {
    let file = File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    for extent in extents {
        file.write_all_at(&bytes_of(seed, extent), extent.start).unwrap();
    }
}

/// Has `tool` copy the file $1 onto the disk $2, and checks the PUTs that come of it. The extents of the file
/// are multiples of `unit` bytes, and no hole of `hole` bytes or more may be sent.
fn assert_sent_once(seed: u64, tool: &str, unit: u64, hole: u64) {
    let extents = extents(seed, SIZE, unit);
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source.raw");
    sparse_file(&source, seed, &extents);
    let mut settings = settings(SIZE);
    settings.put_delay = Duration::from_millis(2);
    let rig = Rig::start(settings, &[]);
    let status = Command::new("sh")
        .args(["-c", tool, "sh"])
        .args([&source, &rig.mount.file()])
        .status()
        .unwrap();
    assert!(status.success(), "{tool}: {status}");
    let (ran, server) = rig.umount();
    assert_eq!(ran.code, Some(0), "{tool}: {ran}");
    let durable = server.durable();
    for extent in &extents {
        assert!(
            durable.read(extent.clone()) == bytes_of(seed, extent),
            "{tool}: {extent:?}"
        );
    }
    let stretches = stretches(&extents, hole);
    let puts = server.records_of(Verb::Put);
    for put in &puts {
        let at = stretches.partition_point(|stretch| stretch.end <= put.range.start);
        let around = stretches
            .get(at)
            .filter(|stretch| stretch.start <= put.range.start);
        assert!(
            around.is_some_and(|stretch| put.range.end <= stretch.end),
            "{tool}: a hole was sent: {:?}",
            put.range
        );
    }
    let (sent, wanted) = (
        puts.iter().map(|put| put.length()).sum::<u64>(),
        total(&stretches),
    );
    assert!(
        sent * 100 <= wanted * 101,
        "{tool}: {sent} bytes were sent for {wanted} bytes of data by {} requests",
        puts.len()
    );
}

#[test]
fn a_program_that_skips_holes_has_each_byte_of_data_sent_once() {
    for (seed, tool) in [
        (1, "qemu-img convert -f raw -O raw \"$1\" \"$2\""),
        (2, "qemu-img convert -n -W -f raw -O raw \"$1\" \"$2\""),
        (3, "cp \"$1\" \"$2\""),
        (4, "cp --sparse=always \"$1\" \"$2\""),
    ] {
        assert_sent_once(seed, tool, 4 * KIB, LONG_HOLE);
    }
}

/// Shorter holes than [`LONG_ZEROS`] go as data: a request takes longer than they do.
#[test]
fn a_program_that_writes_holes_as_zeros_has_each_byte_of_data_sent_once() {
    for (seed, tool) in [
        (5, "dd if=\"$1\" of=\"$2\" bs=1M status=none"),
        (6, "dd if=\"$1\" of=\"$2\" bs=64k status=none"),
        (7, "dd if=\"$1\" of=\"$2\" bs=4M conv=fsync,notrunc status=none"),
    ] {
        assert_sent_once(seed, tool, LONG_HOLE, LONG_ZEROS);
    }
}
