//! The answers of stat and statfs, and the use that programs make of them.

use crate::rig::{MIB, Rig, pattern, read_at, settings, used_server};
use crate::server::{Server, Verb};
use crate::support::run::{run, scratch};
use nix::sys::statvfs::statvfs;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 64 * MIB;

/// Checks that so many bytes are free. An image of that size fits together with a bitmap of its sectors.
#[track_caller]
fn assert_free(rig: &Rig, bytes: u64) {
    let all = statvfs(&rig.mount.file()).unwrap();
    let in_bytes = |blocks: u64| blocks * all.fragment_size();
    assert_eq!(all.blocks_free(), all.blocks_available());
    for (got, expected) in [(all.blocks(), SIZE), (all.blocks_free(), bytes)] {
        let got = in_bytes(got);
        let least = expected + expected.div_ceil(4096);
        assert!(
            (least..=expected + 2 * MIB).contains(&got),
            "{got} instead of {expected}"
        );
    }
}

#[test]
fn what_is_not_data_is_free() {
    let server = Server::start(settings(SIZE));
    server.preset(0, &pattern(9, 3 * MIB as usize));
    let rig = Rig::over(server, &[]);
    assert_free(&rig, SIZE - 3 * MIB);
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 2 * MIB as usize), 2 * MIB).unwrap();
    assert_free(&rig, SIZE - 4 * MIB);
    file.set_len(MIB).unwrap();
    assert_free(&rig, SIZE - MIB);
}

#[test]
fn where_the_server_tells_no_zeros_what_was_not_written_is_free() {
    for extents in [true, false] {
        let server = used_server(settings(SIZE));
        server.change(|settings| (settings.one_extent, settings.extents) = (true, extents));
        let rig = Rig::over(server, &[]);
        assert_free(&rig, SIZE);
        let file = rig.read_write();
        file.write_all_at(&pattern(1, MIB as usize), 5 * MIB).unwrap();
        file.write_all_at(&pattern(2, MIB as usize), 5 * MIB).unwrap();
        assert_free(&rig, SIZE - MIB);
        file.set_len(0).unwrap();
        assert_free(&rig, SIZE);
    }
    let mut settings = settings(SIZE);
    settings.read_only = true;
    let rig = Rig::over(used_server(settings), &["--read-only"]);
    assert_eq!(statvfs(&rig.mount.file()).unwrap().blocks_free(), 0);
}

/// A copy skips the holes, and reads one piece of data after the other.
#[test]
fn a_copy_of_a_fragmented_disk_reads_ahead_over_the_holes() {
    let mut settings = settings(SIZE);
    settings.delay = Duration::from_millis(10);
    let server = Server::start(settings);
    for n in (0..SIZE / 65536).step_by(2) {
        server.preset(n * 65536, &pattern(n, 65536));
    }
    let expected = server.visible().read(0..SIZE);
    let rig = Rig::over(server, &["--read-only"]);
    let dir = scratch();
    let copy = dir.path().join("copy");
    run(Command::new("cp").arg(rig.mount.file()).arg(&copy), 60).ok();
    assert!(std::fs::read(&copy).unwrap() == expected);
    let allocated = std::fs::metadata(&copy).unwrap().blocks() * 512;
    assert!(
        allocated < SIZE * 3 / 4,
        "{allocated} bytes: the holes were filled"
    );
    let gets = rig.server.count(Verb::Get);
    assert!(gets <= 514, "{gets} requests for {} pieces", SIZE / 65536 / 2);
    assert!(
        rig.server.most_at_once(Verb::Get) >= 3,
        "the pieces were asked for one by one"
    );
}

/// Programs with buffers of their own take `st_blksize` as their size.
#[test]
fn random_reads_of_one_block_fetch_about_as_much_as_they_ask_for() {
    let rig = Rig::over(used_server(settings(SIZE)), &[]);
    let file = rig.open(OpenOptions::new().read(true));
    let block = file.metadata().unwrap().blksize();
    assert!((512..=4096).contains(&block), "{block}");
    for n in 0..300 {
        let at = n * 2_654_435_761 % (SIZE / block) * block;
        read_at(&file, at..at + block).unwrap();
    }
    let fetched: u64 = rig
        .server
        .records_of(Verb::Get)
        .iter()
        .map(|get| get.length())
        .sum();
    assert!(fetched < 20 * 300 * block, "{fetched} bytes for {}", 300 * block);
}
