//! `rhv-mount checksum` of a disk whose server computes it, takes long, fails, or has no checksum at all.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::rig::{MIB, pattern, settings, used_server};
use crate::server::{Action, Fault, Server, Settings, Verb, checksum};
use crate::support::foreground::Foreground;
use crate::support::mount::{rhv_mount, rhv_mount_command};
use crate::support::run::{Ran, scratch};
use nix::sys::signal::Signal;

const SIZE: u64 = 9 * MIB + 512;

fn download() -> Settings {
    Settings {
        read_only: true,
        ..settings(SIZE)
    }
}

fn expected(server: &Server) -> String {
    checksum(&server.durable(), 4 * MIB)
}

#[track_caller]
fn hash(server: &Server, options: &[&str]) -> Value {
    let ran = told(server, options).ok();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran}"))
}

fn told(server: &Server, options: &[&str]) -> Ran {
    let args = [&["checksum", "--output", "json"], options].concat();
    rhv_mount(Some(&server.url()), args)
}

#[test]
fn the_server_computes_it_and_sends_no_byte_of_the_disk() {
    let server = used_server(download());
    let told = hash(&server, &[]);
    assert_eq!(told["checksum"], expected(&server), "{told}");
    assert_eq!(
        (&told["computed_by"], &told["algorithm"]),
        (&"server".into(), &"blake2b".into())
    );
    assert_eq!(
        (told["size"].as_u64(), told["block_size"].as_u64()),
        (Some(SIZE), Some(4 * MIB))
    );
    let most = server.records_of(Verb::Get).iter().map(|get| get.length()).max();
    assert!(most.unwrap_or(0) <= 1, "it has read the disk");
    let text = rhv_mount(Some(&server.url()), ["checksum"]).ok().stdout;
    assert!(
        text.starts_with(&expected(&server)) && text.lines().count() == 1,
        "{text}"
    );
}

#[test]
fn a_disk_is_read_where_the_server_has_no_checksum() {
    let server = used_server(Settings {
        checksum: false,
        ..download()
    });
    let told = hash(&server, &[]);
    assert_eq!(
        (&told["checksum"], &told["computed_by"]),
        (&expected(&server).into(), &"client".into())
    );
    assert_eq!(server.count(Verb::Checksum), 0);
}

/// imageio answers 400 for an algorithm that its Python lacks, and 500 for one that it can't use; a gateway
/// answers 404, or a page.
#[test]
fn a_disk_is_read_where_the_server_can_not_compute_it() {
    for (what, action, options) in [
        ("another algorithm", None, &["--algorithm", "sha3_256"][..]),
        ("404", Some(Action::Status(404, "Not found")), &[]),
        (
            "500",
            Some(Action::Status(500, "Server failed to perform the request")),
            &[],
        ),
        (
            "another answer",
            Some(Action::Reply(200, "{\"checksum\": 5}")),
            &[],
        ),
        ("a cut", Some(Action::CloseBeforeReply), &[]),
    ] {
        let server = used_server(download());
        if let Some(action) = action {
            server.arm(Fault::always(Verb::Checksum, action));
        }
        let told = hash(&server, options);
        assert_eq!(told["computed_by"], "client", "{what}: {told}");
        if options.is_empty() {
            assert_eq!(told["checksum"], expected(&server), "{what}: {told}");
        }
    }
}

/// The bound on the server's silence grows with the disk; an ordinary request would be given up after 1 s.
#[test]
fn an_answer_may_take_longer_than_the_timeout() {
    // It is empty, so that only the delay takes time: the bound is more than a minute.
    let server = Server::start(Settings {
        read_only: true,
        ..settings(4096 * MIB)
    });
    server.arm(Fault::next(
        Verb::Checksum,
        Action::Stall(Duration::from_millis(2500)),
    ));
    let told = hash(&server, &["--timeout", "1"]);
    assert_eq!(
        (&told["checksum"], &told["computed_by"]),
        (&expected(&server).into(), &"server".into())
    );
    assert_eq!(server.count(Verb::Checksum), 1);
}

#[test]
fn a_signal_ends_it_while_the_server_is_silent() {
    let server = used_server(download());
    server.arm(Fault::always(Verb::Checksum, Action::Hold));
    let mut command: Command = rhv_mount_command(Some(&server.url()));
    let mut running = Foreground::spawn(command.arg("checksum"));
    crate::support::run::wait_until("the server is asked", 60, || server.count(Verb::Checksum) > 0);
    running.signal(Signal::SIGTERM);
    let status = running.wait(60);
    assert_eq!(status.code(), Some(1), "{}", running.stderr());
    assert!(
        running.stderr().contains("stopped by a signal"),
        "{}",
        running.stderr()
    );
    server.disarm();
}

/// The server allows no connection beside the one at work, so the end could only wait for that one.
#[test]
fn a_signal_ends_it_where_the_server_allows_one_connection() {
    let dir = scratch();
    let image = dir.path().join("disk.raw");
    let download_args = ["download", "--verify", image.to_str().unwrap()];
    for (args, told) in [
        (&["checksum"][..], "stopped by a signal"),
        (&download_args, "disk.raw is not made"),
    ] {
        let server = used_server(Settings {
            max_readers: 1,
            max_writers: 1,
            ..download()
        });
        server.arm(Fault::always(Verb::Checksum, Action::Hold));
        let mut command: Command = rhv_mount_command(Some(&server.url()));
        let mut running = Foreground::spawn(command.args(args));
        crate::support::run::wait_until("the server is asked", 60, || server.count(Verb::Checksum) > 0);
        running.signal(Signal::SIGTERM);
        let status = running.wait(60);
        let said = running.stderr();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(told) && !said.contains("verified:"), "{said}");
        server.disarm();
    }
    assert!(!image.exists());
}

#[test]
fn a_disk_that_can_not_be_read_has_no_checksum() {
    let server = used_server(Settings {
        checksum: false,
        ..download()
    });
    server.arm(Fault::always(Verb::Get, Action::Status(500, "broken")).after(1));
    let ran = told(&server, &["--retry-time", "1"]);
    assert_eq!(ran.code, Some(4), "{ran}");
    assert!(ran.stdout.is_empty() && ran.stderr.contains("broken"), "{ran}");
}

#[test]
fn a_local_image_needs_no_server() {
    let dir = scratch();
    let image = dir.path().join("disk.raw");
    let server = used_server(download());
    std::fs::write(&image, server.durable().read(0..SIZE)).unwrap();
    let ran = rhv_mount(None, ["checksum".as_ref(), image.as_os_str()]).ok();
    assert_eq!(
        ran.stdout,
        format!("{}  {}\n", expected(&server), image.display())
    );
    std::fs::write(&image, pattern(8, SIZE as usize)).unwrap();
    let ran = rhv_mount(None, ["checksum".as_ref(), image.as_os_str()]).ok();
    assert!(!ran.stdout.contains(&expected(&server)), "{ran}");
    let missing = rhv_mount(None, ["checksum", "/does/not/exist"]);
    assert_eq!(missing.code, Some(1), "{missing}");
    assert!(missing.stderr.contains("/does/not/exist"), "{missing}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, word) in [
        (&["checksum", "--algorithm", "crc32", "x"][..], "sha256"),
        (&["checksum", "--block-size", "17M", "x"], "16 MiB"),
        (&["checksum", "--block-size", "1000000", "x"], "4096"),
        (&["checksum", "--disk", "web01", "x"], "--disk"),
        (&["checksum"], "which disk"),
    ] {
        let ran = rhv_mount(None, args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran}");
        assert!(ran.stderr.contains(word), "{args:?}: {ran}");
    }
}
