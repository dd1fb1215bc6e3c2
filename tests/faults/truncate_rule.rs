//! Rule 4: O_TRUNC and ftruncate behave as on an ordinary file that cannot grow past the disk, and the bytes
//! behind the file's end are zeros on the server.

use crate::rig::{
    MIB, Rig, assert_same, close, errno, fallocate, pattern, punch_hole, read_at, settings, used_server,
};
use crate::server::{Action, Fault, Image, Server, Verb};
use libc::{ENOSPC, EOPNOTSUPP};
use nix::fcntl::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const SIZE: u64 = 32 * MIB;

fn used() -> (Server, Image) {
    let server = used_server(settings(SIZE));
    let model = server.visible();
    (server, model)
}

fn truncating(rig: &Rig) -> File {
    rig.open(OpenOptions::new().write(true).truncate(true))
}

fn size_of(file: &File) -> u64 {
    file.metadata().unwrap().len()
}

/// Returns start and length of each zero request, in bytes.
fn zeroed(rig: &Rig) -> Vec<(u64, u64)> {
    rig.server
        .records_of(Verb::Zero)
        .iter()
        .map(|record| (record.range.start, record.length()))
        .collect()
}

fn total_zeroed(rig: &Rig) -> u64 {
    zeroed(rig).iter().map(|(_, length)| length).sum()
}

#[test]
fn truncating_a_used_disk_costs_one_zero_of_the_whole_disk() {
    let rig = Rig::over(used().0, &[]);
    close(truncating(&rig)).unwrap();
    assert_eq!(zeroed(&rig), [(0, SIZE)]);
    assert_eq!(rig.server.count(Verb::Put), 0);
    rig.umount_expecting(&Image::new(SIZE));
}

#[test]
fn ftruncate_to_0_does_the_same_as_o_trunc() {
    let rig = Rig::over(used().0, &[]);
    let file = rig.read_write();
    file.set_len(0).unwrap();
    assert_eq!(size_of(&file), 0);
    file.sync_all().unwrap();
    assert_eq!(zeroed(&rig), [(0, SIZE)]);
    assert_same("durable after fsync", &rig.server.durable(), &Image::new(SIZE));
}

#[test]
fn truncating_a_disk_that_is_known_to_be_zero_costs_nothing() {
    let rig = Rig::start(settings(SIZE), &[]);
    let file = truncating(&rig);
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    close(file).unwrap();
    assert_eq!(zeroed(&rig), []);
    assert!(rig.server.visible().read(0..MIB) == pattern(1, MIB as usize));
}

#[test]
fn truncating_twice_zeroes_once_even_where_the_server_reports_no_extents() {
    let (server, _) = used();
    server.change(|settings| settings.one_extent = true);
    let rig = Rig::over(server, &[]);
    close(truncating(&rig)).unwrap();
    close(truncating(&rig)).unwrap();
    assert_eq!(zeroed(&rig), [(0, SIZE)]);
}

/// Size of a thin disk in bytes, far more than there is data.
const THIN: u64 = 8 << 30;

/// Starts a thin disk with two pieces of data, 1.1 MB in all.
fn thin() -> Server {
    let server = Server::start(settings(THIN));
    server.preset(0, &pattern(9, MIB as usize));
    server.preset(3 << 30, &pattern(8, 100_000));
    server
}

/// Checks that little more was zeroed than `data` bytes: each piece in units of 64 KiB.
#[track_caller]
fn assert_little_was_zeroed(rig: &Rig, data: u64) {
    let (zeroed, requests) = (total_zeroed(rig), zeroed(rig).len());
    assert!(
        (data..data + 8 * 65536).contains(&zeroed),
        "{zeroed} bytes, {data} of data"
    );
    assert!(requests < 16, "{requests} requests");
}

#[test]
fn truncating_a_thin_disk_zeroes_what_is_data_and_what_was_written_since() {
    let rig = Rig::over(thin(), &[]);
    let file = truncating(&rig);
    file.sync_all().unwrap();
    assert_little_was_zeroed(&rig, MIB + 100_000);
    file.write_all_at(&pattern(1, 3 * MIB as usize), 5 << 30).unwrap();
    file.write_all_at(b"!", THIN - 1).unwrap();
    file.set_len(4096).unwrap();
    file.sync_all().unwrap();
    assert_little_was_zeroed(&rig, 4 * MIB + 100_001);
    drop(file);
    rig.umount_expecting(&Image::new(THIN));
}

#[test]
fn a_truncate_at_once_waits_for_the_extents() {
    let server = thin();
    server.arm(Fault::next(Verb::Extents, Action::Stall(Duration::from_secs(4))));
    let rig = Rig::over(server, &[]);
    close(truncating(&rig)).unwrap();
    assert_little_was_zeroed(&rig, MIB + 100_000);
    rig.umount_expecting(&Image::new(THIN));
}

#[test]
fn discarding_a_thin_disk_zeroes_what_is_data() {
    let keep = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for mode in [punch, keep, FallocateFlags::FALLOC_FL_ZERO_RANGE] {
        let rig = Rig::over(thin(), &[]);
        let file = rig.read_write();
        // mkfs and blkdiscard do this at once, and may do it in several steps.
        fallocate(&file, mode, 0..2 << 30).unwrap();
        fallocate(&file, mode, 2 << 30..THIN).unwrap();
        assert!(read_at(&file, 0..2 * MIB).unwrap().iter().all(|byte| *byte == 0));
        file.sync_all().unwrap();
        assert_little_was_zeroed(&rig, MIB + 100_000);
        drop(file);
        rig.umount_expecting(&Image::new(THIN));
    }
}

#[test]
fn zeros_written_over_a_thin_disk_cost_only_the_data_that_they_cover() {
    let rig = Rig::over(thin(), &[]);
    let file = rig.read_write();
    let zeros = vec![0; MIB as usize];
    for n in 0..8 {
        file.write_all_at(&zeros, n * MIB).unwrap();
        file.write_all_at(&zeros, (3 << 30) - 4 * MIB + n * MIB).unwrap();
    }
    file.sync_all().unwrap();
    assert_eq!(rig.server.count(Verb::Put), 0);
    assert_little_was_zeroed(&rig, MIB + 100_000);
    drop(file);
    rig.umount_expecting(&Image::new(THIN));
}

#[test]
fn truncating_after_a_write_empties_the_disk_again() {
    let rig = Rig::start(settings(SIZE), &[]);
    for seed in 1..4 {
        let file = truncating(&rig);
        file.write_all_at(&pattern(seed, (4 - seed as usize) * 100_000), seed * 50_000)
            .unwrap();
        close(file).unwrap();
    }
    let mut model = Image::new(SIZE);
    model.write(150_000, &pattern(3, 100_000));
    rig.umount_expecting(&model);
}

#[test]
fn after_a_truncate_the_size_follows_the_writer() {
    let (server, _) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.open(OpenOptions::new().read(true).write(true).truncate(true));
    assert_eq!(size_of(&file), 0);
    assert_eq!(
        file.read_at(&mut [0; 100], 0).unwrap(),
        0,
        "an empty file has no bytes"
    );
    let bytes = pattern(1, 5000);
    file.write_all_at(&bytes, 0).unwrap();
    assert_eq!(size_of(&file), 5000);
    file.write_all_at(&bytes, 2 * MIB).unwrap();
    assert_eq!(size_of(&file), 2 * MIB + 5000);
    let reader = rig.open(OpenOptions::new().read(true));
    assert_eq!(size_of(&reader), 2 * MIB + 5000);
    let mut model = Image::new(SIZE);
    model.write(0, &bytes);
    model.write(2 * MIB, &bytes);
    assert!(read_at(&reader, 0..2 * MIB + 5000).unwrap() == model.read(0..2 * MIB + 5000));
    assert_eq!(
        reader.read_at(&mut [0; 100], 2 * MIB + 4990).unwrap(),
        10,
        "the read ends at the file's end"
    );
    drop((file, reader));
    rig.umount_expecting(&model);
}

#[test]
fn the_next_mount_shows_the_whole_disk_with_zeros_behind_the_old_end() {
    let (server, _) = used();
    let rig = Rig::over(server, &[]);
    let file = truncating(&rig);
    file.write_all_at(&pattern(1, 5000), 0).unwrap();
    close(file).unwrap();
    let (ran, server) = rig.umount();
    ran.ok();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    assert_eq!(size_of(&file), SIZE);
    let mut model = Image::new(SIZE);
    model.write(0, &pattern(1, 5000));
    assert!(read_at(&file, 0..SIZE).unwrap() == model.read(0..SIZE));
}

#[test]
fn a_write_past_the_end_of_the_disk_is_enospc() {
    let (server, mut model) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    assert_eq!(errno(file.write_at(b"x", SIZE)), ENOSPC);
    assert_eq!(errno(file.write_at(b"x", SIZE + 10 * MIB)), ENOSPC);
    assert_eq!(
        errno(file.write_all_at(&[b'x'; 8192], SIZE - 4096)),
        ENOSPC,
        "a write of which a part does not fit"
    );
    let written = read_at(&file, SIZE - 4096..SIZE).unwrap();
    model.write(SIZE - 4096, &written);
    assert!(
        written.iter().all(|byte| *byte == b'x')
            || written == pattern(9, SIZE as usize)[SIZE as usize - 4096..]
    );
    file.write_all_at(b"last", SIZE - 4).unwrap();
    model.write(SIZE - 4, b"last");
    file.sync_all().expect("ENOSPC is not a lost write");
    close(file).unwrap();
    rig.umount_expecting(&model);
}

#[test]
fn a_size_past_the_end_of_the_disk_is_enospc_and_changes_nothing() {
    let (server, model) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    assert_eq!(errno(file.set_len(SIZE + 1)), ENOSPC);
    assert_eq!(size_of(&file), SIZE);
    file.set_len(SIZE).expect("the disk's own size");
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn truncating_in_the_middle_keeps_the_bytes_before_and_zeroes_those_behind() {
    let (server, mut model) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    let middle = 10 * MIB + 123;
    file.write_all_at(&pattern(2, MIB as usize), middle - 1000)
        .unwrap();
    file.set_len(middle).unwrap();
    assert_eq!(size_of(&file), middle);
    model.write(middle - 1000, &pattern(2, 1000));
    model.zero(middle..SIZE);
    file.sync_all().unwrap();
    assert_same("durable after fsync", &rig.server.durable(), &model);
    file.set_len(SIZE).unwrap();
    assert_eq!(size_of(&file), SIZE);
    assert!(read_at(&file, middle - 5000..SIZE).unwrap() == model.read(middle - 5000..SIZE));
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn truncates_while_writes_are_in_flight_keep_the_order() {
    let (server, _) = used();
    server.change(|settings| settings.put_delay = Duration::from_millis(50));
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    let mut model = Image::new(SIZE);
    for seed in 1..10 {
        let bytes = pattern(seed, 3 * MIB as usize);
        file.write_all_at(&bytes, seed * MIB).unwrap();
        model.write(seed * MIB, &bytes);
        let end = seed * MIB + MIB + seed * 77;
        file.set_len(end).unwrap();
        if seed == 1 {
            model.write(0, &pattern(9, MIB as usize));
        }
        model.zero(end..SIZE);
        assert!(
            read_at(&file, 0..end).unwrap() == model.read(0..end),
            "step {seed}"
        );
    }
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn punching_a_hole_and_zeroing_a_range_read_as_zeros_and_keep_the_size() {
    let (server, mut model) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    punch_hole(&file, MIB + 1..3 * MIB - 1).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 5 * MIB..6 * MIB).unwrap();
    let keep = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, keep, 7 * MIB..7 * MIB + 10).unwrap();
    for range in [MIB + 1..3 * MIB - 1, 5 * MIB..6 * MIB, 7 * MIB..7 * MIB + 10] {
        model.zero(range);
    }
    assert!(read_at(&file, 0..8 * MIB).unwrap() == model.read(0..8 * MIB));
    assert_eq!(size_of(&file), SIZE);
    file.sync_all().unwrap();
    assert!(total_zeroed(&rig) > 2 * MIB, "the holes were sent as data");
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn plain_fallocate_changes_no_byte_and_grows_the_file_up_to_the_disk() {
    let (server, mut model) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    let plain = FallocateFlags::empty();
    fallocate(&file, plain, 0..SIZE).unwrap();
    assert_eq!(errno(fallocate(&file, plain, 0..SIZE + 1)), ENOSPC);
    assert_eq!(size_of(&file), SIZE);
    file.set_len(MIB).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0..4 * MIB).unwrap();
    assert_eq!(size_of(&file), MIB);
    fallocate(&file, plain, 0..4 * MIB).unwrap();
    assert_eq!(size_of(&file), 4 * MIB);
    model.zero(MIB..SIZE);
    assert!(read_at(&file, 0..4 * MIB).unwrap() == model.read(0..4 * MIB));
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 3 * MIB..5 * MIB).unwrap();
    assert_eq!(
        size_of(&file),
        5 * MIB,
        "zero range without keep-size grows the file"
    );
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn fallocate_modes_that_an_image_cannot_do_are_eopnotsupp() {
    let (server, model) = used();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    let modes = [
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
        FallocateFlags::FALLOC_FL_INSERT_RANGE,
    ];
    for mode in modes {
        assert_eq!(errno(fallocate(&file, mode, 0..MIB)), EOPNOTSUPP, "{mode:?}");
    }
    drop(file);
    rig.umount_expecting(&model);
}

#[test]
fn o_trunc_without_the_zero_feature_still_empties_the_disk() {
    let (server, _) = used();
    server.change(|settings| settings.zero = false);
    let rig = Rig::over(server, &[]);
    let file = truncating(&rig);
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    close(file).unwrap();
    let mut model = Image::new(SIZE);
    model.write(0, &pattern(1, 100_000));
    rig.umount_expecting(&model);
}
