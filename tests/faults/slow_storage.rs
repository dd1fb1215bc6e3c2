//! Storage that is slow and shared by all requests: each of them is silent for long although all goes well.
//! None may be given up and sent again on top of itself.
//!
//! The times are those of a real storage of 1 MiB/s or so and the default timeout of 60 s, made shorter.

use crate::rig::{MIB, Rig, pattern, settings, used_server};
use crate::server::{Image, Server, Verb};
use std::os::unix::fs::FileExt;

fn slow_server(size: u64, speed: u64, lazy: bool) -> Server {
    let server = used_server(settings(size));
    server.change(|settings| {
        settings.speed = Some(speed);
        settings.lazy = lazy;
        settings.one_extent = true;
    });
    server
}

/// Checks that the server was asked for each byte once.
#[track_caller]
fn assert_asked_once(rig: &Rig, verb: Verb, bytes: u64) {
    let records = rig.server.records_of(verb);
    let asked: u64 = records.iter().map(|record| record.length()).sum();
    assert_eq!(asked, bytes, "{verb:?} in {} requests", records.len());
}

#[test]
fn emptying_a_disk_that_writes_real_zeros_takes_its_time_and_no_request_twice() {
    let size = 320 * MIB;
    let rig = Rig::over(
        slow_server(size, 24 * MIB, false),
        &["--timeout", "3", "--retry-time", "10"],
    );
    let file = rig.read_write();
    file.set_len(0).unwrap();
    file.sync_all().expect("the storage works on it");
    assert_asked_once(&rig, Verb::Zero, size);
    assert_eq!(
        rig.server.connections_alive().len(),
        4,
        "a connection was given up"
    );
    file.write_all_at(b"newer", 5 * MIB).unwrap();
    file.sync_all().expect("nothing is in doubt");
    drop(file);
    let mut model = Image::new(size);
    model.write(5 * MIB, b"newer");
    rig.umount_expecting(&model);
}

#[test]
fn puts_that_share_slow_storage_are_sent_once() {
    let size = 96 * MIB;
    let rig = Rig::over(
        slow_server(size, 12 * MIB, false),
        &["--timeout", "3", "--retry-time", "10", "--connections", "8"],
    );
    let file = rig.read_write();
    let bytes = pattern(1, size as usize);
    for (n, part) in bytes.chunks(MIB as usize).enumerate() {
        file.write_all_at(part, n as u64 * MIB).unwrap();
    }
    file.sync_all().expect("the storage works on it");
    assert_asked_once(&rig, Verb::Put, size);
    drop(file);
    let mut model = Image::new(size);
    model.write(0, &bytes);
    rig.umount_expecting(&model);
}

#[test]
fn the_flush_of_a_full_journal_to_slow_storage_is_awaited() {
    let size = 128 * MIB;
    let rig = Rig::over(
        // One connection's share of the work is permitted 4.6 s, all of it 9.4 s; it takes 5.3 s.
        slow_server(size, 24 * MIB, true),
        &["--timeout", "3", "--retry-time", "10"],
    );
    let file = rig.read_write();
    let bytes = pattern(1, size as usize);
    for (n, part) in bytes.chunks(MIB as usize).enumerate() {
        file.write_all_at(part, n as u64 * MIB).unwrap();
    }
    file.sync_all().expect("the storage works on it");
    assert_asked_once(&rig, Verb::Put, size);
    drop(file);
    let mut model = Image::new(size);
    model.write(0, &bytes);
    rig.umount_expecting(&model);
}
