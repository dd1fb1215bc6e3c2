//! Servers that answer nonsense: rhv-mount reports the host, the reason and the remedy in one line, exits
//! with the right code, and leaves nothing behind.

use crate::rig::{MIB, Rig, TICKET, errno, pattern, read_at, settings, used_server};
use crate::server::{Action, Fault, Image, Server, Settings, Verb};
use crate::support::mount::{BINARY, URL_VARIABLE, is_mounted};
use crate::support::redaction::Trace;
use crate::support::refusing::RefusingPort;
use crate::support::run::{Ran, run, scratch};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::FileExt;
use std::process::Command;

const LIMIT_SECONDS: u64 = 150;
const REFUSED: i32 = 4;
const NO_CONNECTION: i32 = 5;

/// Runs `rhv-mount ARGS MOUNTPOINT` and checks that it fails with this code and with one line, beside that of
/// another attempt, that contains all of `words`, and that it leaves nothing behind.
#[track_caller]
pub(crate) fn refused(url: &str, args: &[&str], code: i32, words: &[&str]) -> Ran {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(url);
    let ran = run(
        Command::new(BINARY)
            .args(trace.args())
            .args(args)
            .arg(&target)
            .env(URL_VARIABLE, url),
        LIMIT_SECONDS,
    );
    let mounted = is_mounted(&target);
    if mounted {
        let _ = run(Command::new(BINARY).arg("umount").arg(&target), LIMIT_SECONDS);
    }
    assert!(!mounted, "rhv-mount mounted: {ran}");
    assert!(!target.exists(), "the mountpoint is left: {ran}");
    assert_eq!(ran.code, Some(code), "{ran}");
    let lines: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.contains("WARNING") && !line.contains("Trying again"))
        .collect();
    assert_eq!(lines.len(), 1, "the message is not one line: {ran}");
    assert!(
        !ran.stderr.contains("panicked") && !ran.stderr.contains("RUST_BACKTRACE"),
        "{ran}"
    );
    assert!(
        !ran.stderr.contains(TICKET) && !ran.stdout.contains(TICKET),
        "the ticket is shown: {ran}"
    );
    for word in words {
        assert!(
            lines[0].to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is missing: {ran}"
        );
    }
    ran
}

const PAGE: &str = "<!DOCTYPE html>\r\n<html>\r\n<head><title>502 Bad Gateway</title>\
                    <style>body{color:red}</style>\
                    </head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body></html>\r\n";

#[test]
fn a_proxy_without_its_server_is_asked_again_at_the_start_and_that_is_said_once() {
    for status in [502, 503, 504] {
        let server = server_that(Fault::next(Verb::Options, Action::Reply(status, PAGE)).times(2));
        let rig = Rig::over(server, &[]);
        let told = rig.mount.stderr();
        assert_eq!(told.matches("Trying again").count(), 1, "{told}");
        assert!(told.contains(&format!("HTTP {status}")), "{told}");
        assert!(
            told.contains("502 Bad Gateway") && !told.contains(['<', '{']),
            "{told}"
        );
        rig.umount_expecting(&Image::new(4 * MIB));
    }
}

#[test]
fn a_page_of_a_proxy_is_told_by_its_title_and_says_nothing_about_the_ticket() {
    for status in [400, 403, 404, 500] {
        let server = server_that(Fault::always(Verb::Options, Action::Reply(status, PAGE)));
        let ran = refused_by(&server, &[], &[&format!("HTTP {status}"), "\"502 Bad Gateway\""]);
        assert!(!ran.stderr.contains(['<', '{']), "markup is shown: {ran}");
        assert!(!ran.stderr.contains("has ended"), "the ticket is blamed: {ran}");
    }
}

/// A zone leads to the right network, and is no business of the server.
#[test]
fn the_zone_of_an_address_is_not_sent() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        // There is no IPv6 here.
        return;
    };
    let port = listener.local_addr().expect("own address").port();
    for zone in ["%25lo", "%lo"] {
        let url = format!("http://[::1{zone}]:{port}/images/{TICKET}");
        let head = std::thread::scope(|scope| {
            let head = scope.spawn(|| {
                let (stream, _) = listener.accept().expect("a connection");
                let lines = std::io::BufRead::lines(std::io::BufReader::new(&stream)).map_while(Result::ok);
                let head = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>();
                let _ = stream.shutdown(Shutdown::Both);
                head
            });
            refused(&url, &["--retry-time", "0"], NO_CONNECTION, &["[::1%25lo]"]);
            head.join().expect("no panic")
        });
        let hosts: Vec<_> = head
            .iter()
            .filter(|line| line.to_lowercase().starts_with("host:"))
            .collect();
        assert_eq!(hosts.len(), 1, "{head:?}");
        assert!(hosts[0].ends_with(&format!(" [::1]:{port}")), "{head:?}");
        assert!(!head.join(" ").contains('%'), "{head:?}");
    }
    let nowhere = format!("http://[fe80::1%25nosuchnic]:{port}/images/{TICKET}");
    refused(&nowhere, &[], NO_CONNECTION, &["no network interface nosuchnic"]);
}

/// Does the same with the URL of `server`; the line must also name its host.
#[track_caller]
fn refused_by(server: &Server, args: &[&str], words: &[&str]) -> Ran {
    let host = format!("127.0.0.1:{}", server.port());
    refused(&server.url(), args, REFUSED, &[&[host.as_str()], words].concat())
}

pub(crate) fn server_with(change: impl FnOnce(&mut Settings)) -> Server {
    let server = Server::start(settings(4 * MIB));
    server.change(change);
    server
}

fn server_that(fault: Fault) -> Server {
    let server = server_with(|_| {});
    server.arm(fault);
    server
}

#[test]
fn a_refused_connection_names_the_host_and_exits_5() {
    let port = RefusingPort::bind();
    let address = port.address().to_string();
    let url = format!("http://{address}/images/{TICKET}");
    refused(&url, &[], NO_CONNECTION, &[&address, "refused"]);
}

#[test]
fn a_host_that_does_not_resolve_is_named_and_exits_5() {
    let url = format!("http://no-such-host.invalid:54322/images/{TICKET}");
    refused(&url, &[], NO_CONNECTION, &["no-such-host.invalid", "resolve"]);
}

#[test]
fn https_to_a_plain_http_port_is_reported() {
    let server = server_with(|_| {});
    let url = server.url().replace("http://", "https://");
    refused(
        &url,
        &["--insecure"],
        NO_CONNECTION,
        &[&format!("127.0.0.1:{}", server.port()), "tls"],
    );
}

#[test]
fn an_unknown_ticket_is_refused_in_the_servers_words_without_the_ticket() {
    refused_by(
        &server_with(|settings| settings.revoked = true),
        &[],
        &["403", "No such ticket"],
    );
}

#[test]
fn an_expired_ticket_is_refused_in_the_servers_words() {
    let text = "You are not allowed to access this resource: Transfer=(ticket/3f0c2a9e) expired";
    refused_by(
        &server_that(Fault::always(Verb::Options, Action::EarlyStatus(403, text))),
        &[],
        &["403", "expired"],
    );
}

#[test]
fn a_read_only_ticket_mounted_for_writing_names_the_option() {
    refused_by(
        &server_with(|settings| settings.read_only = true),
        &[],
        &["--read-only"],
    );
}

#[test]
fn a_read_only_ticket_mounts_with_the_option_and_refuses_writers() {
    let server = used_server(Settings {
        read_only: true,
        ..settings(4 * MIB)
    });
    let rig = Rig::over(server, &["--read-only"]);
    let file = rig.open(std::fs::OpenOptions::new().read(true));
    assert!(read_at(&file, 0..4 * MIB).unwrap() == pattern(9, 4 * MIB as usize));
    let error = std::fs::OpenOptions::new()
        .write(true)
        .open(rig.mount.file())
        .unwrap_err();
    assert!(
        [libc::EROFS, libc::EACCES].contains(&error.raw_os_error().unwrap()),
        "{error}"
    );
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn a_server_error_is_refused_in_the_servers_words() {
    let text = "Server failed to perform the request, check logs";
    refused_by(
        &server_that(Fault::always(Verb::Options, Action::Status(500, text))),
        &[],
        &["500", text],
    );
}

#[test]
fn options_that_are_not_json_are_refused() {
    for body in [
        "{\"features\": [",
        "<html>It works!</html>",
        "",
        "[]",
        "7",
        "{\"features\": 1}",
        "{}",
        "\u{0}",
    ] {
        refused_by(
            &server_that(Fault::always(Verb::Options, Action::Reply(200, body))),
            &[],
            &["OPTIONS"],
        );
    }
}

#[test]
fn absurd_numbers_in_options_are_refused_or_ignored_but_never_obeyed() {
    for limit in ["0", "-1", "1e99", "\"eight\"", "18446744073709551616"] {
        let body = format!(
            "{{\"features\": [\"zero\", \"flush\"], \"max_readers\": {limit}, \"max_writers\": {limit}}}"
        );
        let server = server_that(Fault::always(Verb::Options, Action::Reply(200, body.leak())));
        let dir = scratch();
        let target = dir.path().join("disk.raw");
        let ran = run(
            Command::new(BINARY).arg(&target).env(URL_VARIABLE, server.url()),
            LIMIT_SECONDS,
        );
        if ran.code == Some(0) {
            assert!(
                std::fs::read(&target).unwrap().len() as u64 == 4 * MIB,
                "limit {limit}"
            );
            run(Command::new(BINARY).arg("umount").arg(&target), LIMIT_SECONDS).ok();
        } else {
            assert_eq!(ran.code, Some(REFUSED), "{ran}");
        }
        assert!(!is_mounted(&target) && !target.exists(), "limit {limit}: {ran}");
        assert!(
            server.connections_opened() <= 64,
            "limit {limit}: {} connections",
            server.connections_opened()
        );
    }
}

#[test]
fn an_answer_that_is_not_http_is_refused() {
    refused_by(
        &server_that(Fault::always(Verb::Options, Action::Garbage)),
        &[],
        &["HTTP"],
    );
}

#[test]
fn a_server_that_closes_without_an_answer_is_named_and_exits_5() {
    let server = server_that(Fault::always(Verb::Options, Action::CloseBeforeReply));
    let host = format!("127.0.0.1:{}", server.port());
    refused(
        &server.url(),
        &[],
        NO_CONNECTION,
        &[&host, "closed the connection"],
    );
}

#[test]
fn a_server_that_closes_after_its_first_answer_is_named_and_exits_4() {
    refused_by(
        &server_that(Fault::always(Verb::Get, Action::CloseBeforeReply)),
        &[],
        &["closed the connection"],
    );
}

#[test]
fn a_server_that_does_not_report_the_size_is_refused() {
    let nonsense = [
        Action::Status(500, "broken"),
        Action::Reply(206, ""),
        Action::Reply(200, "hello"),
        Action::WrongContentRange,
    ];
    for action in nonsense {
        let server = server_that(Fault::always(Verb::Get, action.clone()));
        server.arm(Fault::always(Verb::Extents, action));
        refused_by(&server, &[], &["GET"]);
    }
}

#[test]
fn a_disk_without_bytes_is_an_empty_file_that_cannot_grow() {
    let rig = Rig::start(settings(0), &[]);
    let file = rig.read_write();
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert_eq!(file.read_at(&mut [0; 16], 0).unwrap(), 0);
    assert_eq!(errno(file.write_at(b"x", 0)), libc::ENOSPC);
    assert_eq!(errno(file.set_len(1)), libc::ENOSPC);
    drop(file);
    assert_eq!(rig.umount().0.code, Some(0));
}

#[test]
fn nonsense_extents_never_hide_data() {
    let wrong = [
        "[{\"start\": 0, \"length\": 4194304, \"zero\": true",
        "[]",
        "{}",
        "[{\"start\": 0, \"length\": 1048576, \"zero\": true, \"hole\": true}]",
        "[{\"start\": 1048576, \"length\": 3145728, \"zero\": false, \"hole\": false}]",
        "[{\"start\": 0, \"length\": 0, \"zero\": true, \"hole\": true}]",
        "[{\"start\": 18446744073709551615, \"length\": 18446744073709551615, \
          \"zero\": true, \"hole\": true}]",
    ];
    for body in wrong {
        let server = server_that(Fault::always(Verb::Extents, Action::Reply(200, body)));
        server.preset(MIB, &pattern(9, 3 * MIB as usize));
        let rig = Rig::over(server, &[]);
        let file = rig.read_write();
        let data = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData);
        assert!(
            data.is_ok_and(|data| data as u64 <= MIB),
            "{body}: SEEK_DATA returned {data:?}"
        );
        assert!(
            read_at(&file, MIB..4 * MIB).unwrap() == pattern(9, 3 * MIB as usize),
            "{body}"
        );
        drop(file);
        assert_eq!(rig.umount().0.code, Some(0), "{body}");
    }
}

#[test]
fn extents_that_fail_leave_the_disk_usable() {
    for action in [
        Action::Status(500, "broken"),
        Action::Status(404, "none"),
        Action::CloseMidBody,
        Action::Garbage,
    ] {
        let server = used_server(settings(4 * MIB));
        server.arm(Fault::always(Verb::Extents, action.clone()));
        let rig = Rig::over(server, &[]);
        let file = rig.read_write();
        assert!(
            read_at(&file, 0..4 * MIB).unwrap() == pattern(9, 4 * MIB as usize),
            "{action:?}"
        );
        file.set_len(0).unwrap();
        file.sync_all().unwrap();
        assert!(
            rig.server.read_durable(0..4 * MIB).iter().all(|byte| *byte == 0),
            "{action:?}"
        );
    }
}
