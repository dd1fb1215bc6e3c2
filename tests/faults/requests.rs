//! The requests that file operations lead to: few and large ones, spread over all connections, within the
//! limits that the server advertises, on connections that stay alive.

use crate::rig::{MIB, Rig, assert_same, close, pattern, read_at, settings, used_server};
use crate::server::{Record, Server, Verb};
use crate::support::run::wait_until;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

fn write_in_steps(file: &File, bytes: &[u8], step: usize) {
    for (n, piece) in bytes.chunks(step).enumerate() {
        file.write_all_at(piece, (n * step) as u64).unwrap();
    }
}

/// Writes `length` zeros in steps of 1 MiB, from memory that starts `skew` bytes behind a page boundary.
fn write_zeros(file: &File, skew: usize, length: usize) {
    let room = vec![0; length + 2 * 4096];
    let start = room.as_ptr().align_offset(4096) + skew;
    write_in_steps(file, &room[start..][..length], MIB as usize);
}

fn connections(records: &[Record]) -> BTreeSet<u64> {
    records.iter().map(|record| record.connection).collect()
}

fn total(records: &[Record]) -> u64 {
    records.iter().map(Record::length).sum()
}

#[test]
fn large_sequential_writes_become_large_puts_that_never_flush_by_themselves() {
    // One connection's share of the journal takes all of it: the others may not be there yet.
    let size = 48 * MIB;
    let rig = Rig::start(settings(size), &[]);
    let file = rig.open(OpenOptions::new().write(true));
    write_in_steps(&file, &pattern(1, size as usize), MIB as usize);
    close(file).unwrap();
    let puts = rig.server.records_of(Verb::Put);
    assert_eq!(total(&puts), size, "each byte is sent once");
    assert!(puts.len() <= 48, "{} PUTs for 48 writes", puts.len());
    let small = puts.iter().filter(|put| put.length() < MIB).count();
    assert!(
        small * 4 <= puts.len(),
        "{small} of {} PUTs are below 1 MiB",
        puts.len()
    );
    assert_eq!(total_unflushed(&rig.server), size, "PUTs flushed one by one");
}

fn total_unflushed(server: &Server) -> u64 {
    server
        .unflushed()
        .iter()
        .map(|(_, range)| range.end - range.start)
        .sum()
}

#[test]
fn small_sequential_writes_are_merged() {
    let mut settings = settings(16 * MIB);
    settings.put_delay = Duration::from_millis(5);
    let rig = Rig::start(settings, &[]);
    let file = rig.open(OpenOptions::new().write(true));
    write_in_steps(&file, &pattern(1, 16 * MIB as usize), 4096);
    close(file).unwrap();
    let puts = rig.server.records_of(Verb::Put);
    assert_eq!(total(&puts), 16 * MIB);
    assert!(puts.len() <= 256, "{} PUTs for 4096 writes of 4 KiB", puts.len());
}

#[test]
fn zeros_in_a_write_become_zero_requests_and_no_data() {
    let rig = Rig::over(used_server(settings(16 * MIB)), &[]);
    let file = rig.read_write();
    write_zeros(&file, 0, 8 * MIB as usize);
    close(file).unwrap();
    assert_eq!(rig.server.count(Verb::Put), 0);
    assert_eq!(total(&rig.server.records_of(Verb::Zero)), 8 * MIB);
    assert!(
        rig.server
            .visible()
            .read(0..8 * MIB)
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn hardly_any_zeros_are_sent_when_the_kernel_splits_their_writes_at_odd_places() {
    let rig = Rig::over(used_server(settings(16 * MIB)), &[]);
    let file = rig.read_write();
    write_zeros(&file, 16, 8 * MIB as usize - 4096);
    close(file).unwrap();
    let sent = total(&rig.server.records_of(Verb::Put));
    assert!(sent <= 64 * 1024, "{sent} bytes of zeros were sent as data");
}

#[test]
fn no_zero_detect_sends_zeros_as_they_are_written() {
    let rig = Rig::over(used_server(settings(16 * MIB)), &["--no-zero-detect"]);
    let file = rig.read_write();
    write_in_steps(&file, &vec![0; 8 * MIB as usize], MIB as usize);
    close(file).unwrap();
    assert_eq!(total(&rig.server.records_of(Verb::Put)), 8 * MIB);
    assert_eq!(rig.server.count(Verb::Zero), 0);
    assert!(
        rig.server
            .visible()
            .read(0..8 * MIB)
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn every_connection_is_authorised_early_and_carries_its_share_of_the_writes() {
    for wanted in [1, 4, 8] {
        let mut settings = settings(64 * MIB);
        settings.put_delay = Duration::from_millis(500);
        let rig = Rig::start(settings, &["--connections", &wanted.to_string()]);
        wait_until("every connection has sent OPTIONS", 60, || {
            connections(&rig.server.records_of(Verb::Options)).len() >= wanted
        });
        let file = rig.open(OpenOptions::new().write(true));
        write_in_steps(&file, &pattern(1, 64 * MIB as usize), MIB as usize);
        close(file).unwrap();
        assert_eq!(connections(&rig.server.records_of(Verb::Put)).len(), wanted);
        assert_eq!(rig.server.most_at_once(Verb::Put), wanted);
        let alive = rig.server.connections_alive();
        assert_eq!(alive.len(), wanted, "connections {alive:?}");
        let authorised = connections(&rig.server.records_of(Verb::Options));
        assert!(alive.iter().all(|connection| authorised.contains(connection)));
    }
}

#[test]
fn the_connections_are_cut_to_what_the_server_advertises() {
    let mut settings = settings(16 * MIB);
    (settings.max_readers, settings.max_writers) = (2, 2);
    let rig = Rig::start(settings, &["--connections", "8"]);
    let file = rig.read_write();
    write_in_steps(&file, &pattern(1, 16 * MIB as usize), 100_000);
    close(file).unwrap();
    assert!(
        rig.server.most_requests_at_once() <= 2,
        "{} requests at once",
        rig.server.most_requests_at_once()
    );
    assert!(rig.server.connections_alive().len() <= 2);
}

#[test]
fn a_single_writer_ticket_never_has_two_writes_at_once_and_reads_on_several_connections() {
    let mut settings = settings(64 * MIB);
    (settings.max_readers, settings.max_writers) = (8, 1);
    settings.delay = Duration::from_millis(3);
    let rig = Rig::over(used_server(settings), &[]);
    let mut model = rig.server.visible();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let rig = &rig;
            scope.spawn(move || {
                let file = rig.read_write();
                for n in 0..20 {
                    let at = thread * 8 * MIB + n * 300_000;
                    file.write_all_at(&pattern(n, 300_000), at).unwrap();
                    if n % 7 == 3 {
                        crate::rig::punch_hole(&file, at..at + 4096).unwrap();
                    }
                }
            });
            scope.spawn(move || {
                let file = rig.read_write();
                for n in 0..20 {
                    let at = 32 * MIB + thread * 8 * MIB + n * 300_000;
                    assert!(
                        read_at(&file, at..at + 300_000).unwrap()
                            == rig.server.visible().read(at..at + 300_000)
                    );
                }
            });
        }
    });
    for (thread, n) in (0..4).flat_map(|thread| (0..20).map(move |n| (thread, n))) {
        let at = thread * 8 * MIB + n * 300_000;
        model.write(at, &pattern(n, 300_000));
        if n % 7 == 3 {
            model.zero(at..at + 4096);
        }
    }
    assert_eq!(rig.server.most_writes_at_once(), 1);
    assert!(rig.server.most_at_once(Verb::Get) >= 2, "reads went one by one");
    rig.umount_expecting(&model);
}

#[test]
fn a_sequential_reader_has_several_large_reads_in_flight() {
    let mut settings = settings(64 * MIB);
    settings.delay = Duration::from_millis(5);
    let rig = Rig::over(used_server(settings), &["--read-only"]);
    let file = rig.open(OpenOptions::new().read(true));
    let expected = pattern(9, 64 * MIB as usize);
    for n in 0..64 {
        assert!(
            read_at(&file, n * MIB..(n + 1) * MIB).unwrap() == expected[(n * MIB) as usize..][..MIB as usize]
        );
    }
    let gets = rig.server.records_of(Verb::Get);
    assert!(rig.server.most_at_once(Verb::Get) >= 2, "reads went one by one");
    assert!(
        total(&gets) <= 80 * MIB,
        "{} bytes were fetched for 64 MiB",
        total(&gets)
    );
    assert!(gets.len() <= 256, "{} GETs for 64 MiB", gets.len());
}

fn idle_connections_outlive_the_servers_limit(read_only: bool) {
    let mut settings = settings(8 * MIB);
    settings.idle_limit = Duration::from_secs(30);
    settings.read_only = read_only;
    let rig = Rig::start(settings, if read_only { &["--read-only"] } else { &[] });
    // Another connection fetches the extents and is then closed.
    wait_until("only the connections of the pool are open", 60, || {
        rig.server.connections_alive().len() == 4
    });
    let before = rig.server.connections_alive();
    std::thread::sleep(Duration::from_secs(40));
    assert_eq!(rig.server.idle_drops(), 0);
    assert_eq!(rig.server.connections_alive(), before);
    let file = rig.open(OpenOptions::new().read(true));
    read_at(&file, 0..MIB).unwrap();
    assert!(
        rig.server
            .records()
            .iter()
            .all(|record| record.status.is_some_and(|status| status < 300))
    );
}

#[test]
fn idle_connections_are_kept_alive() {
    idle_connections_outlive_the_servers_limit(false);
}

#[test]
fn idle_connections_of_a_read_only_ticket_are_kept_alive_without_a_flush() {
    idle_connections_outlive_the_servers_limit(true);
}

/// A read leaves its connection to the next request: a connection per read would cost a round trip each, and
/// the writes that are not flushed there would be sent again.
#[test]
fn a_connection_survives_its_reads_and_keeps_what_it_has_written() {
    let server = used_server(settings(64 * MIB));
    let (mut model, rig) = (server.visible(), Rig::over(server, &["--connections=1"]));
    let file = rig.read_write();
    let bytes = pattern(1, MIB as usize);
    file.write_all_at(&bytes, 0).unwrap();
    model.write(0, &bytes);
    rig.wait_until_visible(0, &bytes);
    for n in 1..=20 {
        let range = n * 3 * MIB..n * 3 * MIB + 4096;
        assert!(read_at(&file, range.clone()).unwrap() == model.read(range));
    }
    file.sync_all().unwrap();
    assert_same("durable after fsync", &rig.server.durable(), &model);

    let of = |verb| rig.server.records_of(verb);
    let mut gets = of(Verb::Get);
    // That one asks for the size of the disk.
    gets.retain(|get| get.range != (0..1));
    assert!(gets.len() >= 20, "{gets:?}");
    assert_eq!(total(&of(Verb::Put)), MIB, "each byte is sent once");
    assert_eq!(of(Verb::Flush).len(), 1);
    let all = [gets, of(Verb::Put), of(Verb::Flush)].concat();
    assert_eq!(connections(&all).len(), 1, "{all:?}");
    drop(file);
    rig.umount_expecting(&model);
}
