//! Connections that a server, or a proxy before it, ends after some answers, with or without saying so: every
//! byte arrives, and the mount ends well.

use crate::rig::{MIB, Rig, assert_same, pattern, read_at, settings, used_server};
use crate::server::{Server, Settings, Verb};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const SIZE: u64 = 16 * MIB;

fn server_with(change: impl FnOnce(&mut Settings)) -> Server {
    let mut settings = settings(SIZE);
    change(&mut settings);
    used_server(settings)
}

/// Reads, writes, zeroes and flushes, and checks every byte. `puts` bounds the bytes that are sent in PUTs.
#[track_caller]
pub fn use_all_of(server: Server, args: &[&str], what: &str) {
    let mut model = server.visible();
    let rig = Rig::over(server, &[args, &["--retry-time=20"]].concat());
    let file = rig.read_write();
    for round in 0..3 {
        let bytes = pattern(round, 4 * MIB as usize);
        for (n, piece) in bytes.chunks(MIB as usize).enumerate() {
            file.write_all_at(piece, (2 * round + n as u64) * MIB)
                .expect(what);
        }
        model.write(2 * round * MIB, &bytes);
        crate::rig::punch_hole(&file, 10 * MIB..(11 + round) * MIB).expect(what);
        model.zero(10 * MIB..(11 + round) * MIB);
        file.sync_all().expect(what);
        assert_same(what, &rig.server.durable(), &model);
        assert!(
            read_at(&file, 0..SIZE).expect(what) == model.read(0..SIZE),
            "{what}"
        );
    }
    drop(file);
    let sent: u64 = rig
        .server
        .records_of(Verb::Put)
        .iter()
        .map(|put| put.length())
        .sum();
    // Each connection that ends unannounced costs a repetition, more of them where its end comes late.
    assert!(
        sent <= 60 * MIB,
        "{what}: {sent} bytes were sent for {}",
        12 * MIB
    );
    let (ran, server) = rig.umount();
    assert_eq!(ran.code, Some(0), "{what}: {ran}");
    assert_same(what, &server.durable(), &model);
    assert_eq!(server.violations(), Vec::<String>::new(), "{what}");
}

#[test]
fn connections_that_end_after_a_few_answers_are_not_noticed() {
    for announces in [true, false] {
        for lifetime in [1, 2, 3, 7] {
            let connections = if announces == (lifetime < 3) { 1 } else { 4 };
            let server = server_with(|settings| {
                (settings.lifetime, settings.announces) = (lifetime, announces);
            });
            use_all_of(
                server,
                &[&format!("--connections={connections}")],
                &format!("announced {announces}, {lifetime} answers, {connections} connections"),
            );
        }
    }
}

#[test]
fn a_server_without_persistent_connections_is_enough() {
    use_all_of(
        server_with(|settings| settings.version = "HTTP/1.0"),
        &[],
        "HTTP/1.0",
    );
}

/// The rest of such an answer would be taken for the next one.
#[test]
fn a_connection_with_bytes_behind_an_answer_is_left() {
    let trailing = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let server = server_with(|settings| settings.trailing = trailing);
    use_all_of(server, &[], "bytes behind each answer");
}

/// Such a server does not flush after a PUT unless it is told to.
#[test]
fn another_server_that_ends_connections_holds_every_promise() {
    for lifetime in [2, 3] {
        let server = server_with(|settings| {
            settings.cousin = true;
            (settings.lifetime, settings.announces) = (lifetime, true);
        });
        use_all_of(server, &[], &format!("another server, {lifetime} answers"));
    }
}

/// An old server has no OPTIONS, no zero and no flush: a long run of zeros takes many requests.
#[test]
fn an_old_server_may_end_each_connection_too() {
    for lifetime in [1, 2] {
        let server = server_with(|settings| {
            (settings.zero, settings.flush, settings.extents) = (false, false, false);
            (settings.lifetime, settings.announces) = (lifetime, true);
        });
        use_all_of(server, &[], &format!("no features, {lifetime} answers"));
    }
}

#[test]
fn reads_need_no_second_attempt_where_connections_end_after_each_answer() {
    let server = server_with(|settings| (settings.lifetime, settings.announces) = (1, true));
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    assert!(read_at(&file, 0..SIZE).expect("read") == pattern(9, SIZE as usize));
    let records = rig.server.records();
    assert!(
        records
            .iter()
            .all(|record| record.status == Some(200) || record.status == Some(206))
    );
    let gets: u64 = rig
        .server
        .records_of(Verb::Get)
        .iter()
        .map(|get| get.length())
        .sum();
    assert!(gets <= SIZE + 4 * MIB, "{gets} bytes were fetched");
}

#[test]
fn writes_flush_one_by_one_only_while_connections_end_early() {
    let server = server_with(|settings| (settings.lifetime, settings.announces) = (2, true));
    let rig = Rig::over(server, &["--connections=1"]);
    let file = rig.read_write();
    let write = |from: u64, until: u64| {
        for n in from..until {
            file.write_all_at(&pattern(n, 4096), n % 4 * MIB).expect("write");
            file.sync_data().expect("fsync");
        }
    };
    write(0, 8);
    let flushed = || {
        rig.server
            .records_of(Verb::Put)
            .iter()
            .filter(|put| put.flush)
            .count()
    };
    assert!(flushed() >= 6, "{} of 8 writes carried a flush", flushed());
    let told = rig.mount.status(&[]).ok().stdout;
    assert!(told.contains(" with a write each"), "{told}");
    rig.server.change(|settings| settings.lifetime = u32::MAX);
    write(8, 40);
    let before = flushed();
    write(40, 60);
    assert_eq!(flushed(), before, "connections live long again");
}

/// A gateway closes an idle connection, and some say 408 before.
#[test]
fn a_connection_that_was_closed_while_idle_is_replaced_unnoticed() {
    let server = server_with(|settings| settings.idle_limit = Duration::from_millis(500));
    let rig = Rig::over(server, &[]);
    let (file, mut model) = (rig.read_write(), rig.server.visible());
    for n in 0..3 {
        file.write_all_at(&pattern(n, 4096), n * MIB).expect("write");
        model.write(n * MIB, &pattern(n, 4096));
        file.sync_all().expect("fsync");
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert_eq!(
        rig.mount
            .status(&["--output=json"])
            .ok()
            .stdout
            .matches("\"errors\": 0")
            .count(),
        1
    );
    drop(file);
    rig.umount_expecting(&model);
}
