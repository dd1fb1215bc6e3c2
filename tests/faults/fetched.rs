//! The bytes that readers cause to be fetched, counted at the server: each byte of data once, and no hole of
//! 64 KiB or more.

use crate::extents::{KIB, LONG_HOLE, bytes_of, extents, stretches, total};
use crate::rig::{MIB, Random, Rig, pattern, read_at, settings};
use crate::server::{Image, Record, Server, Verb};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::process::Command;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

const SIZE: u64 = 768 * MIB;

/// A disk of extents of 4 KiB to 15 MiB, and the stretches of its data.
fn disk_of_extents(seed: u64, delay: Duration) -> (Server, Vec<Range<u64>>) {
    let mut settings = settings(SIZE);
    settings.delay = delay;
    let server = Server::start(settings);
    let extents = extents(seed, SIZE, 4 * KIB);
    for extent in &extents {
        server.preset(extent.start, &bytes_of(seed, extent));
    }
    let stretches = stretches(&extents, LONG_HOLE);
    (server, stretches)
}

/// Returns the GETs but for that of one byte, which tells a mount the size of the disk.
fn gets(server: &Server) -> Vec<Record> {
    let mut gets = server.records_of(Verb::Get);
    gets.retain(|get| get.range != (0..1));
    gets
}

/// Checks the GETs for the data in `wanted`.
#[track_caller]
fn assert_fetched_once(server: &Server, stretches: &[Range<u64>], wanted: u64) {
    let gets = gets(server);
    for get in &gets {
        let at = stretches.partition_point(|stretch| stretch.end <= get.range.start);
        let around = stretches
            .get(at)
            .filter(|stretch| stretch.start <= get.range.start);
        assert!(
            around.is_some_and(|stretch| get.range.end <= stretch.end),
            "a hole was fetched: {:?}, where the data is {:?}",
            get.range,
            &stretches[at.saturating_sub(1)..stretches.len().min(at + 2)]
        );
    }
    let fetched: u64 = gets.iter().map(|get| get.length()).sum();
    assert!(
        fetched * 100 <= wanted * 101,
        "{fetched} bytes were fetched for {wanted} bytes of data by {} requests",
        gets.len()
    );
}

#[track_caller]
fn assert_read(server: &Server, range: Range<u64>, bytes: &[u8]) {
    assert!(
        server.visible().read(range.clone()) == bytes,
        "the bytes of {range:?}"
    );
}

fn mount(server: Server) -> (Rig, File) {
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(OpenOptions::new().read(true));
    (rig, file)
}

/// Returns the reads of a program that skips the holes and reads `step` bytes at once.
fn reads(stretches: &[Range<u64>], step: u64) -> Vec<Range<u64>> {
    let cut = |stretch: &Range<u64>| {
        let end = stretch.end;
        stretch
            .clone()
            .step_by(step as usize)
            .map(move |at| at..end.min(at + step))
    };
    stretches.iter().flat_map(cut).collect()
}

/// The reads that are taken and not done, as `qemu-img convert` has them: at most eight after the oldest one.
struct Turns<'a> {
    reads: &'a [Range<u64>],
    state: Mutex<(usize, BTreeSet<usize>)>,
    moved: Condvar,
}

impl<'a> Turns<'a> {
    fn new(reads: &'a [Range<u64>]) -> Self {
        Turns {
            reads,
            state: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    fn take(&self) -> Option<(usize, Range<u64>)> {
        let state = self.state.lock().unwrap();
        let far =
            |(next, busy): &mut (usize, BTreeSet<usize>)| busy.first().is_some_and(|old| old + 8 <= *next);
        let mut state = self.moved.wait_while(state, far).unwrap();
        let (next, busy) = &mut *state;
        let read = self.reads.get(*next)?.clone();
        busy.insert(*next);
        *next += 1;
        Some((*next - 1, read))
    }

    fn done(&self, n: usize) {
        self.state.lock().unwrap().1.remove(&n);
        self.moved.notify_all();
    }
}

/// Has `workers` threads take the reads in turn, each of which dawdles now and then.
fn read_out_of_order(file: &File, reads: &[Range<u64>], workers: u64, check: &Image) {
    let turns = Turns::new(reads);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let turns = &turns;
            scope.spawn(move || {
                let mut random = Random::new(worker);
                while let Some((n, range)) = turns.take() {
                    if random.below(16) == 0 {
                        std::thread::sleep(Duration::from_millis(random.below(8)));
                    }
                    let bytes = read_at(file, range.clone()).unwrap();
                    assert!(check.read(range.clone()) == bytes, "the bytes of {range:?}");
                    turns.done(n);
                }
            });
        }
    });
}

#[test]
fn a_sequential_reader_of_any_step_fetches_each_byte_once() {
    for (seed, step) in [(1, 4 * KIB), (2, 128 * KIB), (3, MIB), (4, 3 * MIB + 4096)] {
        let (server, stretches) = disk_of_extents(seed, Duration::ZERO);
        let (rig, file) = mount(server);
        let image = rig.server.visible();
        read_out_of_order(&file, &reads(&stretches, step), 1, &image);
        assert_fetched_once(&rig.server, &stretches, total(&stretches));
    }
}

#[test]
fn a_reader_of_holes_and_data_alike_fetches_the_data_once() {
    let (server, stretches) = disk_of_extents(5, Duration::ZERO);
    let (rig, file) = mount(server);
    for at in (0..SIZE).step_by(MIB as usize) {
        let bytes = read_at(&file, at..at + MIB).unwrap();
        assert_read(&rig.server, at..at + MIB, &bytes);
    }
    assert_fetched_once(&rig.server, &stretches, total(&stretches));
}

#[test]
fn eight_reads_at_once_out_of_order_fetch_each_byte_once() {
    for (seed, delay) in [(6, 0), (7, 5)] {
        let (server, stretches) = disk_of_extents(seed, Duration::from_millis(delay));
        let (rig, file) = mount(server);
        let image = rig.server.visible();
        read_out_of_order(&file, &reads(&stretches, 2 * MIB), 8, &image);
        assert_fetched_once(&rig.server, &stretches, total(&stretches));
    }
}

#[test]
fn two_readers_of_different_regions_fetch_each_byte_once() {
    let (server, stretches) = disk_of_extents(8, Duration::from_millis(2));
    let (rig, file) = mount(server);
    let image = rig.server.visible();
    let reads = reads(&stretches, MIB);
    let (first, second) = reads.split_at(reads.len() / 2);
    std::thread::scope(|scope| {
        for (half, workers) in [(first, 4), (second, 1)] {
            let (file, image) = (&file, &image);
            scope.spawn(move || read_out_of_order(file, half, workers, image));
        }
    });
    assert_fetched_once(&rig.server, &stretches, total(&stretches));
}

#[test]
fn a_reader_that_stops_early_leaves_room_for_the_next_one() {
    let (server, stretches) = disk_of_extents(9, Duration::ZERO);
    let (rig, file) = mount(server);
    let image = rig.server.visible();
    let reads = reads(&stretches, MIB);
    // The read cache bounds the bytes that are fetched ahead for nothing.
    read_out_of_order(&file, &reads[..40], 1, &image);
    let middle = reads.len() / 2;
    read_out_of_order(&file, &reads[middle..], 8, &image);
    let wanted: u64 = total(&reads[middle..]) + total(&reads[..40]);
    let fetched: u64 = gets(&rig.server).iter().map(|get| get.length()).sum();
    assert!(
        fetched <= wanted / 100 * 101 + 64 * MIB,
        "{fetched} bytes were fetched for {wanted} bytes of data"
    );
}

/// A piece with a short hole is read in full by a reader that is told zeros there.
#[test]
fn short_holes_and_little_memory_leave_the_requests_large() {
    let size = 192 * MIB;
    // Four reads of more than 1 MiB at once do not fit into a cache of 2 MiB.
    for (args, least, most) in [
        (&["--read-only"][..], 2 * MIB, 101),
        (&["--read-only", "--memory", "8M"], 192 * KIB, 130),
    ] {
        let server = Server::start(settings(size));
        for at in (0..size).step_by(MIB as usize) {
            server.preset(at, &pattern(at, (MIB - 4 * KIB) as usize));
        }
        let rig = Rig::over(server, args);
        let file = rig.open(OpenOptions::new().read(true));
        let image = rig.server.visible();
        let [first, second] = [0..size / 2, size / 2..size].map(|half| [half]);
        read_out_of_order(&file, &reads(&first, 4 * KIB), 1, &image);
        read_out_of_order(&file, &reads(&second, MIB + 4 * KIB), 4, &image);
        let gets = gets(&rig.server);
        let fetched: u64 = gets.iter().map(|get| get.length()).sum();
        assert!(
            fetched * 100 <= size * most,
            "{args:?}: {fetched} bytes of {size}"
        );
        let mean = fetched / gets.len() as u64;
        assert!(mean >= least, "{args:?}: {} requests", gets.len());
    }
}

#[test]
fn the_tools_of_users_fetch_each_byte_once() {
    for (seed, tool) in [
        (10, "qemu-img convert -f raw -O raw \"$1\" \"$2\""),
        (11, "cp --sparse=always \"$1\" \"$2\""),
        (12, "dd if=\"$1\" of=\"$2\" bs=1M conv=sparse status=none"),
        (13, "dd if=\"$1\" of=\"$2\" bs=64k conv=sparse status=none"),
    ] {
        let (server, stretches) = disk_of_extents(seed, Duration::from_millis(1));
        let (rig, file) = mount(server);
        drop(file);
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("out.raw");
        let status = Command::new("sh")
            .args(["-c", tool, "sh"])
            .args([&rig.mount.file(), &output])
            .status()
            .unwrap();
        assert!(status.success(), "{tool}: {status}");
        let image = rig.server.visible();
        let copy = File::open(&output).unwrap();
        for at in (0..copy.metadata().unwrap().len()).step_by(MIB as usize) {
            assert!(
                read_at(&copy, at..at + MIB).unwrap() == image.read(at..at + MIB),
                "{tool}: {at}"
            );
        }
        assert_fetched_once(&rig.server, &stretches, total(&stretches));
    }
}
