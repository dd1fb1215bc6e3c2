//! What stat and lseek tell, and what programs make of it.

use crate::rig::{MIB, Rig, pattern, read_at, settings, used_server};
use crate::server::{Server, Verb};
use crate::support::run::{run, scratch};
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

const SIZE: u64 = 64 * MIB;

/// A copy skips the holes, and reads one piece of data after the other.
#[test]
fn a_copy_of_a_fragmented_disk_reads_ahead_over_the_holes() {
    let server = Server::start(settings(SIZE));
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
    assert!(gets < 100, "{gets} requests for {} pieces", SIZE / 65536 / 2);
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
