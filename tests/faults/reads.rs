//! Rule 1: a read returns the last acknowledged write, whatever requests are still in flight.

use crate::rig::{MIB, Random, Rig, pattern, punch_hole, read_at, settings, used_server};
use crate::server::Image;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Does random reads, writes, zeroes and fsyncs within `area`, in units of `align` bytes, and compares each
/// read with a model of `area`, which it returns.
fn mixed_operations(file: &File, area: Range<u64>, seed: u64, steps: u32, align: u64) -> Image {
    let length = area.end - area.start;
    let mut model = Image::new(length);
    model.write(0, &read_at(file, area.clone()).unwrap());
    let mut random = Random::new(seed);
    for step in 0..steps {
        let start = random.below(length / align) * align;
        let limit = if random.below(4) == 0 { 700_000 } else { 20_000 };
        let end = (start + (1 + random.below(limit / align)) * align).min(length);
        let (range, at) = (start..end, area.start + start..area.start + end);
        match random.below(10) {
            0..=3 => {
                let bytes = pattern(seed * 100_000 + u64::from(step), (end - start) as usize);
                file.write_all_at(&bytes, at.start).unwrap();
                model.write(start, &bytes);
            }
            4 => {
                file.write_all_at(&vec![0; (end - start) as usize], at.start)
                    .unwrap();
                model.zero(range);
            }
            5 => {
                punch_hole(file, at).unwrap();
                model.zero(range);
            }
            6 if random.below(10) == 0 => file.sync_all().unwrap(),
            _ => {
                let got = read_at(file, at.clone()).unwrap();
                assert!(
                    got == model.read(range),
                    "seed {seed} step {step}: a read of {at:?} is not the last write"
                );
            }
        }
    }
    assert!(
        read_at(file, area).unwrap() == model.read(0..length),
        "seed {seed}: the area at the end"
    );
    model
}

#[test]
fn reads_see_writes_that_the_server_has_not_stored_yet() {
    let mut settings = settings(16 * MIB);
    settings.put_delay = Duration::from_millis(300);
    let rig = Rig::over(used_server(settings), &[]);
    let file = rig.read_write();
    let mut model = rig.server.visible();
    let mut random = Random::new(1);
    for step in 0..60 {
        let offset = random.below(12 * MIB);
        let bytes = pattern(step, 1 + random.below(100_000) as usize);
        file.write_all_at(&bytes, offset).unwrap();
        model.write(offset, &bytes);
        let around = offset.saturating_sub(5000)..offset + bytes.len() as u64 + 5000;
        assert!(
            read_at(&file, around.clone()).unwrap() == model.read(around),
            "step {step}"
        );
    }
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn overlapping_writes_arrive_in_their_order() {
    let size = 4 * MIB;
    let mut settings = settings(size);
    settings.put_delay = Duration::from_millis(2);
    let rig = Rig::over(used_server(settings), &[]);
    let mut model = rig.server.visible();
    let file = rig.read_write();
    let mut random = Random::new(3);
    for step in 0..2000 {
        let offset = random.below(MIB);
        let bytes = pattern(step, 1 + random.below(40_000) as usize);
        file.write_all_at(&bytes, offset).unwrap();
        model.write(offset, &bytes);
    }
    file.sync_all().unwrap();
    drop(file);
    rig.umount_expecting(&model);
}

fn random_operations_by_several_threads(align: u64, args: &[&str]) {
    let size = 16 * MIB;
    let mut settings = settings(size);
    settings.put_delay = Duration::from_millis(1);
    let rig = Rig::over(used_server(settings), args);
    let mut whole = rig.server.visible();
    let share = (3 * MIB + 1000) / align * align;
    let models: Vec<(u64, Image)> = std::thread::scope(|scope| {
        let start = |n: u64| {
            let rig = &rig;
            scope.spawn(move || {
                let model =
                    mixed_operations(&rig.read_write(), n * share..(n + 1) * share, n + 1, 400, align);
                (n * share, model)
            })
        };
        let threads: Vec<_> = (0..4).map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread's read was wrong"))
            .collect()
    });
    for (offset, model) in models {
        whole.write(offset, &model.read(0..model.size()));
    }
    rig.umount_expecting(&whole);
}

#[test]
fn threads_with_unaligned_areas_read_what_they_wrote_and_never_share_a_block_in_flight() {
    random_operations_by_several_threads(1, &[]);
}

#[test]
fn threads_with_aligned_areas_read_what_they_wrote() {
    random_operations_by_several_threads(4096, &["--connections", "8"]);
}

#[test]
fn a_reader_sees_each_write_of_another_descriptor_at_once() {
    let rig = Rig::over(used_server(settings(8 * MIB)), &[]);
    let writer = rig.open(OpenOptions::new().write(true));
    let reader = rig.open(OpenOptions::new().read(true));
    assert!(read_at(&reader, 0..8 * MIB).unwrap() == pattern(9, 8 * MIB as usize));
    let mut random = Random::new(7);
    for counter in 1..500_u64 {
        let offset = random.below(8 * MIB - 8);
        writer.write_all_at(&counter.to_le_bytes(), offset).unwrap();
        assert_eq!(
            read_at(&reader, offset..offset + 8).unwrap(),
            counter.to_le_bytes(),
            "counter {counter}"
        );
        if counter % 50 == 0 {
            punch_hole(&rig.read_write(), 0..MIB).unwrap();
            assert!(
                read_at(&reader, 0..MIB).unwrap().iter().all(|byte| *byte == 0),
                "counter {counter}: the hole"
            );
        }
    }
}

/// Runs a writer beside a reader that scans the whole disk again and again. No block may be older than its
/// last write that returned before the read began.
fn a_scan_beside_a_writer_never_goes_back_in_time(reader: &mut OpenOptions) {
    const BLOCK: u64 = 4096;
    let size = 8 * MIB;
    let mut settings = settings(size);
    settings.delay = Duration::from_millis(1);
    let rig = Rig::start(settings, &[]);
    let reader = rig.open(reader);
    let acknowledged: Vec<AtomicU64> = (0..size / BLOCK).map(|_| AtomicU64::new(0)).collect();
    let end = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = rig.open(OpenOptions::new().write(true));
            let mut random = Random::new(11);
            for version in (1_u64..).take_while(|_| Instant::now() < end) {
                let block = random.below(size / BLOCK);
                file.write_all_at(&version.to_le_bytes().repeat(BLOCK as usize / 8), block * BLOCK)
                    .unwrap();
                acknowledged[block as usize].store(version, Ordering::SeqCst);
            }
        });
        let mut at = 0;
        while Instant::now() < end {
            let range = at..at + 128 * 1024;
            let blocks = (range.start / BLOCK) as usize..(range.end / BLOCK) as usize;
            let before: Vec<u64> = acknowledged[blocks]
                .iter()
                .map(|block| block.load(Ordering::SeqCst))
                .collect();
            let bytes = read_at(&reader, range.clone()).unwrap();
            for (n, (block, before)) in bytes.chunks(BLOCK as usize).zip(before).enumerate() {
                let version = u64::from_le_bytes(block[..8].try_into().unwrap());
                let offset = range.start + n as u64 * BLOCK;
                assert!(
                    version >= before,
                    "offset {offset}: version {version} was read after {before} was written"
                );
            }
            at = range.end % size;
        }
    });
}

#[test]
fn a_scan_through_a_read_only_descriptor_beside_a_writer_never_goes_back_in_time() {
    a_scan_beside_a_writer_never_goes_back_in_time(OpenOptions::new().read(true));
}

#[test]
fn a_scan_through_a_writable_descriptor_beside_a_writer_never_goes_back_in_time() {
    a_scan_beside_a_writer_never_goes_back_in_time(OpenOptions::new().read(true).write(true));
}

#[test]
fn another_process_sees_the_last_write() {
    let rig = Rig::over(used_server(settings(4 * MIB)), &[]);
    let writer = rig.read_write();
    for round in 0..5 {
        let bytes = pattern(round, 300_000);
        writer.write_all_at(&bytes, 70_000).unwrap();
        let out = Command::new("tail")
            .args(["-c", "+70001"])
            .arg(rig.mount.file())
            .output()
            .unwrap();
        assert!(out.stdout[..300_000] == bytes, "round {round}");
        assert_eq!(out.stdout.len() as u64, 4 * MIB - 70_000);
    }
}

#[test]
fn direct_io_reads_and_writes_the_right_bytes() {
    let size = 8 * MIB;
    let rig = Rig::over(used_server(settings(size)), &[]);
    let mut model = rig.server.visible();
    let file = rig.open(
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT),
    );
    let mut room = vec![0; 3 * MIB as usize];
    let skip = room.as_ptr().align_offset(4096);
    let aligned = &mut room[skip..skip + 2 * MIB as usize];
    for (n, offset) in [0, 4096, 3 * MIB, 6 * MIB].into_iter().enumerate() {
        aligned.copy_from_slice(&pattern(n as u64, 2 * MIB as usize));
        file.write_all_at(aligned, offset).unwrap();
        model.write(offset, aligned);
        file.read_exact_at(aligned, offset.saturating_sub(8192)).unwrap();
        let at = offset.saturating_sub(8192);
        assert!(*aligned == model.read(at..at + 2 * MIB), "offset {offset}");
    }
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn a_shared_mapping_reads_and_writes_the_disk() {
    let size = 4 * MIB;
    let rig = Rig::over(used_server(settings(size)), &[]);
    let script = "import mmap, sys\n\
        file = open(sys.argv[1], 'r+b')\n\
        area = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED)\n\
        assert len(area) == 4 << 20\n\
        old = area[100000:100010]\n\
        area[1000000:1000005] = b'mmap!'\n\
        area[0:1] = b'0'\n\
        area.flush()\n\
        print(old.hex())";
    let out = Command::new("python3")
        .args(["-c", script])
        .arg(rig.mount.file())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let old: String = pattern(9, size as usize)[100_000..100_010]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), old);
    let mut model = rig.server.visible();
    model.write(1_000_000, b"mmap!");
    model.write(0, b"0");
    assert_eq!(
        read_at(&rig.read_write(), 1_000_000..1_000_005).unwrap(),
        b"mmap!"
    );
    rig.umount_expecting(&model);
}
