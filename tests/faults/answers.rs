//! Answers of HTTP that something between here and imageio may give: interim ones, bodies without a length,
//! and statuses that ask for the request to be sent again. None of them is noticed by the user.

use crate::rig::{MIB, Rig, assert_same, errno, pattern, read_at, settings, used_server};
use crate::server::{Action, Fault, Image, Server, Settings, Verb};
use std::os::unix::fs::FileExt;

const SIZE: u64 = 8 * MIB;

/// The statuses after which RFC 9110 and 6585 allow to send a request again, as a gateway sends them.
const AGAIN: [&str; 5] = [
    "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n",
    "HTTP/1.0 503 Service Unavailable\r\nretry-after: 1\r\n\r\n<html>busy</html>",
];

/// Answers to a request of which only a part has arrived. The third one has no status line, as imageio's to a
/// part of a request line.
const CUT: [&str; 3] = [
    "HTTP/1.1 400 Bad Request\r\ncontent-length: 12\r\n\r\nBad syntax.\n",
    "HTTP/1.1 416 Requested Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n",
    "<!DOCTYPE HTML>\r\n<title>Error response</title>\r\n\r\n",
];

/// The requests of a mount in use. OPTIONS belongs to them since a connection is replaced after a fault.
const REQUESTS: [Verb; 5] = [Verb::Options, Verb::Get, Verb::Put, Verb::Zero, Verb::Flush];

/// Reads, writes, zeroes and flushes on a mount of `server`, and checks every byte.
#[track_caller]
fn use_all_of(server: Server) {
    let (mut model, rig) = (server.visible(), Rig::over(server, &[]));
    work_on(&rig, &mut model, 1);
    rig.umount_expecting(&model);
}

#[track_caller]
fn work_on(rig: &Rig, model: &mut Image, seed: u64) {
    let file = rig.read_write();
    let bytes = pattern(seed, 3 * MIB as usize);
    file.write_all_at(&bytes, MIB).expect("write");
    model.write(MIB, &bytes);
    crate::rig::punch_hole(&file, 5 * MIB..6 * MIB).expect("punch");
    model.zero(5 * MIB..6 * MIB);
    file.sync_all().expect("fsync");
    assert_same("durable after fsync", &rig.server.durable(), model);
    assert!(read_at(&file, 0..SIZE).expect("read") == model.read(0..SIZE));
}

fn server_with(change: impl FnOnce(&mut Settings)) -> Server {
    let mut settings = settings(SIZE);
    change(&mut settings);
    used_server(settings)
}

#[test]
fn interim_answers_before_an_answer_are_skipped() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 7\r\n\r\n";
    let several =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nDate: now\r\n\r\nHTTP/1.1 110 x\r\n\r\n";
    let with_headers = "HTTP/1.1 100 Continue\r\nVia: 1.1 front\r\n\r\n";
    for interim in [early, several, with_headers] {
        use_all_of(server_with(|settings| settings.interim = interim));
        use_all_of(server_with(|settings| {
            (settings.interim, settings.chunked) = (interim, true);
        }));
    }
}

/// Bytes of the disk that look like an interim answer are not taken for one.
#[test]
fn an_interim_answer_in_the_disks_own_bytes_is_read_as_it_is() {
    let server = server_with(|settings| settings.interim = "HTTP/1.1 103 Early Hints\r\n\r\n");
    let line = b"HTTP/1.1 100 Continue\r\n\r\n";
    let bytes: Vec<u8> = line.iter().copied().cycle().take(SIZE as usize).collect();
    server.preset(0, &bytes);
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    assert!(read_at(&file, 0..SIZE).expect("read") == bytes);
}

#[test]
fn an_answer_that_switches_protocols_is_an_error() {
    let server = server_with(|_| {});
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
    server.arm(Fault::always(Verb::Get, Action::Raw(switching)).after(1));
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    assert_eq!(errno(read_at(&file, 0..MIB)), libc::EIO);
}

#[test]
fn a_body_in_chunks_is_read() {
    use_all_of(server_with(|settings| settings.chunked = true));
}

#[test]
fn a_read_is_answered_without_a_length_before_the_connection_closes() {
    let server = server_with(|_| {});
    server.arm(Fault::always(Verb::Get, Action::WithoutLength).after(1));
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    assert!(read_at(&file, 0..SIZE).expect("read") == pattern(9, SIZE as usize));
    assert!(rig.server.faults_fired() > 0);
}

#[test]
fn a_request_is_sent_again_where_the_answer_asks_for_it() {
    unnoticed(&AGAIN, &REQUESTS);
}

#[test]
fn a_request_is_sent_again_after_the_answer_to_a_part_of_it() {
    unnoticed(&CUT, &REQUESTS);
}

/// Has each kind of request answered once by each of `answers`, while a mount is used.
#[track_caller]
fn unnoticed(answers: &[&'static str], verbs: &[Verb]) {
    let raw = |answer: &'static str| match answer.contains("content-length") && !answer.contains("close") {
        true => Action::Raw(answer),
        false => Action::RawAndClose(answer),
    };
    for (n, answer) in answers.iter().enumerate() {
        let server = server_with(|_| {});
        // The extents are asked for as soon as the disk is mounted.
        server.arm(Fault::next(Verb::Extents, raw(answer)));
        let (mut model, rig) = (server.visible(), Rig::over(server, &[]));
        for verb in verbs {
            rig.server.arm(Fault::next(*verb, raw(answer)));
        }
        for seed in 0..3 {
            work_on(&rig, &mut model, n as u64 * 10 + seed);
        }
        assert_eq!(rig.server.faults_fired(), verbs.len() + 1, "{answer}");
        rig.umount_expecting(&model);
    }
}

#[test]
fn an_answer_that_never_fits_is_an_error_after_a_few_attempts() {
    let server = server_with(|_| {});
    server.arm(Fault::always(Verb::Put, Action::Raw(CUT[0])));
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 4096), 0).expect("write");
    assert_eq!(errno(file.sync_all()), libc::EIO);
    let puts = rig.server.count(Verb::Put);
    assert!((2..=8).contains(&puts), "{puts} attempts");
    drop(file);
    assert_eq!(rig.umount().0.code, Some(7));
}

/// The pause that the server asks for is kept, but not beyond the retry time.
#[test]
fn a_server_that_asks_for_hours_is_asked_again_within_the_retry_time() {
    let server = server_with(|_| {});
    let hours = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 36000\r\n\r\n";
    server.arm(Fault::always(Verb::Put, Action::Raw(hours)));
    let rig = Rig::over(server, &["--retry-time=3"]);
    let file = rig.read_write();
    file.write_all_at(&pattern(1, 4096), 0).expect("write");
    assert_eq!(errno(file.sync_all()), libc::EIO);
    let puts = rig.server.count(Verb::Put);
    assert!((2..=6).contains(&puts), "{puts} attempts");
    drop(file);
    assert_eq!(rig.umount().0.code, Some(7));
}

/// A front end refuses a PUT before it has read its body, and keeps the connection: what follows there is
/// no request. The next one goes over another connection.
#[test]
fn a_connection_is_left_after_an_early_refusal() {
    let server = server_with(|_| {});
    let (mut model, early) = (server.visible(), Action::EarlyStatusKept(429, "slower, please"));
    let rig = Rig::over(server, &["--connections=1"]);
    for seed in 0..3 {
        rig.server.arm(Fault::next(Verb::Put, early.clone()));
        work_on(&rig, &mut model, seed);
    }
    assert_eq!(rig.server.faults_fired(), 3);
    let (ran, server) = rig.umount();
    assert_eq!(ran.code, Some(0), "{ran}");
    assert_same("durable after umount", &server.durable(), &model);
}

#[test]
fn a_change_may_be_answered_by_204() {
    let server = server_with(|settings| settings.done = 204);
    use_all_of(server);
}
