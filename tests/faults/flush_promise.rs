//! Rules 2 and 3: a successful fsync keeps its promise under load, and every fsync returns.
//!
//! The writers fill blocks with the block's number and a version; a table has, for each block, the last
//! version whose write(2) returned. An fsync keeps its promise when, after it has returned, the server has
//! durably stored every block that was in the table before the fsync began, in that version or a newer one.

use crate::rig::{MIB, Random, Rig, assert_same, close, pattern, punch_hole, settings, used_server};
use crate::server::{Image, Server};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCK: u64 = 64 * 1024;

/// Far more than an fsync takes on a busy machine, which sends what the writers have written before it.
const MAX_FSYNC: Duration = Duration::from_secs(60);

/// The last acknowledged version of each block; 0 means that the block was never written.
struct Acknowledged(Vec<AtomicU64>);

impl Acknowledged {
    fn new(blocks: u64) -> Acknowledged {
        Acknowledged((0..blocks).map(|_| AtomicU64::new(0)).collect())
    }

    fn snapshot(&self) -> Vec<u64> {
        self.0
            .iter()
            .map(|version| version.load(Ordering::SeqCst))
            .collect()
    }
}

fn block(index: u64, version: u64) -> Vec<u8> {
    (0..BLOCK / 16)
        .flat_map(|_| [index.to_le_bytes(), version.to_le_bytes()].concat())
        .collect()
}

/// Checks both ends of every block, because a write may have been split on its way.
fn assert_durable(server: &Server, promised: &[u64]) {
    let durable = server.durable();
    for (index, promised) in promised.iter().enumerate().filter(|(_, promised)| **promised > 0) {
        let start = index as u64 * BLOCK;
        for at in [start, start + BLOCK - 16] {
            let bytes = durable.read(at..at + 16);
            let (owner, version) = bytes.split_at(8);
            let (owner, version) = (owner.try_into().unwrap(), version.try_into().unwrap());
            let (owner, version) = (u64::from_le_bytes(owner), u64::from_le_bytes(version));
            assert!(
                owner == index as u64 && version >= *promised,
                "fsync returned, but version {version} of block {owner} is durable in place of the \
                 acknowledged version {promised} of block {index}"
            );
        }
    }
}

/// Writes random blocks of `blocks` until `stop` is set, or an fsync that they starve has waited too long.
fn write_blocks(rig: &Rig, acknowledged: &Acknowledged, blocks: std::ops::Range<u64>, stop: &AtomicBool) {
    let file = rig.read_write();
    let end = Instant::now() + 2 * MAX_FSYNC;
    let mut random = Random::new(blocks.start);
    let mut version = 0;
    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
        version += 1;
        let index = blocks.start + random.below(blocks.end - blocks.start);
        file.write_all_at(&block(index, version), index * BLOCK)
            .expect("write");
        acknowledged.0[index as usize].store(version, Ordering::SeqCst);
    }
}

/// Calls fsync so often and checks each promise, and that no fsync takes longer than [`MAX_FSYNC`].
fn sync_often(rig: &Rig, acknowledged: &Acknowledged, times: usize) {
    let file = rig.read_write();
    for _ in 0..times {
        let promised = acknowledged.snapshot();
        let start = Instant::now();
        file.sync_all().expect("fsync");
        let took = start.elapsed();
        assert!(took < MAX_FSYNC, "an fsync took {took:?}");
        assert_durable(&rig.server, &promised);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fsync_leaves_nothing_unflushed(connections: &str) {
    let size = 64 * MIB;
    let rig = Rig::start(settings(size), &["--connections", connections]);
    let mut model = Image::new(size);
    for round in 0..4 {
        let parts: Vec<(u64, Vec<u8>)> = (0..4)
            .map(|n| {
                (
                    (n * 4 + round) * 4 * MIB,
                    pattern(round * 4 + n, 3 * MIB as usize),
                )
            })
            .collect();
        std::thread::scope(|scope| {
            for (offset, bytes) in &parts {
                let rig = &rig;
                scope.spawn(move || {
                    let file = rig.read_write();
                    for (n, piece) in bytes.chunks(256 * 1024).enumerate() {
                        file.write_all_at(piece, offset + n as u64 * 256 * 1024).unwrap();
                    }
                });
            }
        });
        parts
            .iter()
            .for_each(|(offset, bytes)| model.write(*offset, bytes));
        rig.read_write().sync_all().unwrap();
        assert_eq!(
            rig.server.unflushed(),
            [],
            "after fsync {round} on {connections} connections"
        );
        assert_same("durable after fsync", &rig.server.durable(), &model);
    }
    rig.umount_expecting(&model);
}

#[test]
fn after_fsync_nothing_is_unflushed_on_one_connection() {
    fsync_leaves_nothing_unflushed("1");
}

#[test]
fn after_fsync_nothing_is_unflushed_on_any_of_four_connections() {
    fsync_leaves_nothing_unflushed("4");
}

#[test]
fn after_fsync_nothing_is_unflushed_on_any_of_eight_connections() {
    fsync_leaves_nothing_unflushed("8");
}

#[test]
fn two_threads_in_fsync_and_two_in_write_never_deadlock_and_every_promise_holds() {
    let mut settings = settings(32 * MIB);
    settings.flush_delay = Duration::from_millis(5);
    settings.put_delay = Duration::from_millis(1);
    let rig = Rig::start(settings, &[]);
    let blocks = 32 * MIB / BLOCK;
    let acknowledged = Acknowledged::new(blocks);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for half in [0..blocks / 2, blocks / 2..blocks] {
            scope.spawn(|| write_blocks(&rig, &acknowledged, half, &stop));
        }
        let syncers = [(); 2].map(|()| scope.spawn(|| sync_often(&rig, &acknowledged, 40)));
        let results = syncers.map(|thread| thread.join());
        stop.store(true, Ordering::Relaxed);
        for result in results {
            result.expect("a promise did not hold");
        }
    });
    assert!(
        acknowledged
            .snapshot()
            .iter()
            .filter(|version| **version > 0)
            .count()
            > 100,
        "hardly anything was written"
    );
    rig.read_write().sync_all().unwrap();
    assert_durable(&rig.server, &acknowledged.snapshot());
    assert_eq!(rig.server.violations(), Vec::<String>::new());
}

#[test]
fn a_stream_of_writes_does_not_starve_an_fsync() {
    let mut settings = settings(32 * MIB);
    settings.put_delay = Duration::from_millis(5);
    let rig = Rig::start(settings, &[]);
    let blocks = 32 * MIB / BLOCK;
    let acknowledged = Acknowledged::new(blocks);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (rig, acknowledged, stop) = (&rig, &acknowledged, &stop);
            scope.spawn(move || write_blocks(rig, acknowledged, n * blocks / 4..(n + 1) * blocks / 4, stop));
        }
        let result = scope.spawn(|| sync_often(&rig, &acknowledged, 10)).join();
        stop.store(true, Ordering::Relaxed);
        result.expect("a promise did not hold");
    });
}

#[test]
fn close_returns_when_the_server_has_every_byte() {
    let mut settings = settings(16 * MIB);
    settings.put_delay = Duration::from_millis(100);
    let rig = Rig::start(settings, &[]);
    let bytes = pattern(1, 8 * MIB as usize);
    let file = rig.read_write();
    for (n, piece) in bytes.chunks(MIB as usize).enumerate() {
        file.write_all_at(piece, n as u64 * MIB).unwrap();
    }
    close(file).unwrap();
    assert!(
        rig.server.visible().read(0..8 * MIB) == bytes,
        "close returned before the server had every write"
    );
}

#[test]
fn umount_leaves_every_byte_durable_without_an_fsync() {
    let size = 16 * MIB;
    let mut settings = settings(size);
    settings.put_delay = Duration::from_millis(20);
    let rig = Rig::start(settings, &[]);
    let mut model = Image::new(size);
    let mut random = Random::new(5);
    let file = rig.read_write();
    for seed in 0..200 {
        let bytes = pattern(seed, 1 + random.below(100_000) as usize);
        let offset = random.below(size - bytes.len() as u64);
        file.write_all_at(&bytes, offset).unwrap();
        model.write(offset, &bytes);
    }
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn fdatasync_promises_the_same_as_fsync() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let file = rig.read_write();
    let bytes = pattern(3, MIB as usize + 17);
    file.write_all_at(&bytes, 1000).unwrap();
    file.sync_data().unwrap();
    assert_eq!(rig.server.unflushed(), []);
    assert!(rig.server.read_durable(1000..1000 + bytes.len() as u64) == bytes);
}

#[test]
fn fsync_covers_what_was_written_through_another_descriptor() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let (writer, syncer) = (rig.read_write(), rig.open(OpenOptions::new().read(true)));
    let bytes = pattern(3, MIB as usize);
    writer.write_all_at(&bytes, 0).unwrap();
    syncer.sync_all().unwrap();
    assert!(rig.server.read_durable(0..MIB) == bytes);
}

#[test]
fn a_write_through_a_synchronous_descriptor_is_durable_when_it_returns() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    for (n, flag) in [libc::O_SYNC, libc::O_DSYNC].into_iter().enumerate() {
        let file = rig.open(OpenOptions::new().write(true).custom_flags(flag));
        let bytes = pattern(n as u64, 10_000);
        let offset = n as u64 * MIB;
        file.write_all_at(&bytes, offset).unwrap();
        assert!(
            rig.server.read_durable(offset..offset + 10_000) == bytes,
            "flag {flag:#x}"
        );
    }
}

#[test]
fn zeroes_are_durable_after_fsync_too() {
    let size = 8 * MIB;
    let rig = Rig::over(used_server(settings(size)), &[]);
    let mut model = rig.server.visible();
    let file = rig.read_write();
    file.write_all_at(&vec![0; 2 * MIB as usize], MIB).unwrap();
    punch_hole(&file, 4 * MIB + 100..6 * MIB).unwrap();
    file.sync_all().unwrap();
    model.zero(MIB..3 * MIB);
    model.zero(4 * MIB + 100..6 * MIB);
    assert_same("durable after fsync", &rig.server.durable(), &model);
    assert_eq!(rig.server.unflushed(), []);
}
